"""The Ledger port on SQLite and PostgreSQL.

On SQLite writers take turns, so a fact is chained in its own transaction. On PostgreSQL that would make all writers
wait for each other's commits; there a fact is put among those that wait, and whoever seals next (a schedule, a reader,
a fact that has to be sealed at once) chains what is committed. Facts that depend on each other (same stream, same row
of a view) take the same lock before they are numbered, so that the order of waiting is the order in which the views
were folded, and a fact is never visible before one it depends on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar, cast

import msgspec
from sqlalchemy import Connection, Engine, bindparam, delete, func, insert, select, text
from sqlalchemy.exc import IntegrityError

from detent.kernel.clock import MINUTE, Clock, iso
from detent.kernel.errors import BugError, Conflict, InvalidInput, StorageFailed
from detent.kernel.facts import ANY_VERSION, Draft, Fact, FactCatalog, View
from detent.kernel.identity import Actor
from detent.kernel.ids import Ids
from detent.kernel.ports import Checkpoint, Verification
from detent.store.database import is_sqlite, open_database, reading, writing
from detent.store.ledger.chain import GENESIS, decode_fact, encode_content, link, time_of
from detent.store.ledger.checkpoints import (
    Signer,
    append_checkpoint,
    is_signed,
    last_checkpoint,
    open_signer,
    read_checkpoints,
)
from detent.store.ledger.folding import Folding, compare, decode_state, fold_into, replace, shape_of, touched
from detent.store.ledger.merkle import Frontier
from detent.store.ledger.verify import every_fact, hashes_after, verify_database
from detent.store.tables import CHECKPOINTS, FACTS, VIEW_SHAPES, VIEWS, WAITING

S = TypeVar("S", bound=msgspec.Struct)

_MAX_NAME: Final = 500
_MAX_REASON: Final = 1_000
_SEAL_BATCH: Final = 5_000
_MOST_LOCKS: Final = 64
_CLOCK_TOLERANCE: Final = MINUTE

_HEAD = select(FACTS.c.position, FACTS.c.hash, FACTS.c.content).order_by(FACTS.c.position.desc()).limit(1)
_VERSION = select(func.max(FACTS.c.version)).where(FACTS.c.stream == bindparam("stream"))
# One statement, because a sealer may move a fact from one table to the other between two.
_VERSION_LATER = text(
    "SELECT max(version) FROM (SELECT version FROM facts WHERE stream = :stream"
    " UNION ALL SELECT version FROM waiting WHERE stream = :stream) AS everywhere"
)
# Many streams are one parameter, because a parameter each would cost more than the look-up.
_VERSIONS = text(
    "SELECT stream, max(version) FROM facts WHERE stream IN (SELECT value FROM json_each(:streams)) GROUP BY stream"
)
_VERSIONS_LATER = text(
    "SELECT stream, max(version) FROM"
    " (SELECT stream, version FROM facts WHERE stream = ANY(:streams)"
    " UNION ALL SELECT stream, version FROM waiting WHERE stream = ANY(:streams)) AS everywhere GROUP BY stream"
)
_FACT: Final = ("position", "prev", "hash", "content")
_INSERT_FACT = insert(FACTS).values({name: bindparam(name) for name in _FACT})
_INSERT_WAITING = insert(WAITING).values(content=bindparam("content"))
_GET = select(VIEWS.c.state).where(VIEWS.c.view == bindparam("view"), VIEWS.c.key == bindparam("key"))
_LAST_CHECKPOINT = (
    select(*(CHECKPOINTS.c[name] for name in Checkpoint.__struct_fields__), CHECKPOINTS.c.frontier)
    .order_by(CHECKPOINTS.c.size.desc())
    .limit(1)
)

# Advisory locks of PostgreSQL, in the order in which they are taken.
_LOCK_ALL_SHARED = text("SELECT pg_advisory_xact_lock_shared(7310001)")
_LOCK_ALL = text("SELECT pg_advisory_xact_lock(7310001)")
_LOCK_EACH = text("SELECT pg_advisory_xact_lock(:space, k) FROM unnest(CAST(:keys AS integer[])) AS k")
_LOCK_CHAIN = text("SELECT pg_advisory_xact_lock(7310002)")
_STREAMS, _ROWS = 731_0003, 731_0004


class SqlLedger:
    """Facts and views in one database; see the `Ledger` port.

    Attributes:
        engine: the database, for the other adapters that live in it.
    """

    def __init__(self, engine: Engine, catalog: FactCatalog, *, signer: Signer, file: Path, clock: Clock, ids: Ids):
        self.engine = engine
        self._catalog = catalog
        self._signer = signer
        self._file = file
        self._clock = clock
        self._ids = ids
        self._sealed_later = not is_sqlite(engine)
        self._insert_fact = str(_INSERT_FACT.compile(dialect=engine.dialect))

    # Recording

    def append(self, drafts: Sequence[Draft], *, actor: Actor, project: str, reason: str = "") -> tuple[Fact, ...]:
        """Record all drafts in one transaction, or none; see the port.

        Raises:
            Conflict: a stream is not at the version a draft expected.
            InvalidInput: a name or the reason cannot be used, or a body has no canonical JSON.
            StorageFailed: nothing was recorded, because the database failed or the clock went back.
        """
        if not drafts:
            return ()
        self._check(drafts, project, reason)
        try:
            with writing(self.engine) as connection:
                streams = sorted({draft.stream for draft in drafts})
                if self._sealed_later:
                    self._lock_streams(connection, drafts)
                head, last, content = self._last(connection)
                now = self._now(time_of(content) if content else 0)
                facts = self._number(drafts, self._versions(connection, streams), actor, project, reason, now)
                if self._sealed_later:
                    self._lock_rows(connection, facts)
                if not self._sealed_later:
                    sealed = self._chain(connection, facts, head, last)
                elif any(draft.body.sealed_at_once for draft in drafts):
                    connection.execute(_LOCK_CHAIN)
                    self._seal(connection)
                    sealed = self._chain(connection, facts, *self._last(connection)[:2])
                else:
                    sealed = facts
                    connection.execute(_INSERT_WAITING, [{"content": encode_content(fact).decode()} for fact in facts])
                fold_into(connection, self._catalog, sealed)
        except IntegrityError:
            raise Conflict("The same thing was changed by somebody else at this moment.", hint="Try again.") from None
        return sealed

    def _check(self, drafts: Sequence[Draft], project: str, reason: str) -> None:
        for draft in drafts:
            if not draft.stream or len(draft.stream) > _MAX_NAME or not draft.stream.isprintable():
                raise InvalidInput(
                    "A fact needs a stream.", hint=f"Give 1 to {_MAX_NAME} printable characters.", field="stream"
                )
            if self._catalog.bodies.get(draft.body.kind) is not type(draft.body):
                raise BugError(f"{type(draft.body).__name__} is in no catalog.")
        if not project or len(project) > _MAX_NAME or not project.isprintable():
            raise InvalidInput("A fact needs a project.", hint="Give its name.", field="project")
        if len(reason) > _MAX_REASON or not reason.isprintable():
            raise InvalidInput(
                "The reason cannot be recorded.",
                hint=f"Give one line of at most {_MAX_REASON} characters.",
                field="reason",
            )

    def _number(
        self,
        drafts: Sequence[Draft],
        versions: dict[str, int],
        actor: Actor,
        project: str,
        reason: str,
        now: int,
    ) -> tuple[Fact, ...]:
        facts = []
        for draft in drafts:
            seen = versions.get(draft.stream, 0)
            if draft.expected not in (ANY_VERSION, seen):
                raise Conflict(
                    f"'{draft.stream}' has {seen} changes, not {draft.expected}: it changed since it was read.",
                    hint="Read it again, then repeat the change.",
                )
            versions[draft.stream] = seen + 1
            facts.append(Fact(0, self._ids.new(), draft.stream, seen + 1, project, actor, now, reason, draft.body))
        return tuple(facts)

    def _chain(self, connection: Connection, facts: Sequence[Fact], position: int, before: bytes) -> tuple[Fact, ...]:
        rows, sealed = [], []
        for fact in facts:
            content = encode_content(fact)
            position += 1
            hash_ = link(before, content)
            rows.append((position, before, hash_, content.decode()))
            sealed.append(
                Fact(
                    position,
                    fact.id,
                    fact.stream,
                    fact.version,
                    fact.project,
                    fact.actor,
                    fact.time,
                    fact.reason,
                    fact.body,
                    hash_.hex(),
                )
            )
            before = hash_
        self._insert(connection, rows)
        return tuple(sealed)

    def _now(self, last: int) -> int:
        """The time, never before the last fact's: small steps back are levelled out, large ones refused."""
        now = self._clock.now()
        if now < last - _CLOCK_TOLERANCE:
            raise StorageFailed(
                f"The clock went back: it is {iso(now)}, but the last fact was recorded at {iso(last)}.",
                hint="Set the machine's clock right; nothing was recorded.",
            )
        return max(now, last)

    # Reading

    def read(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        stream: str = "",
        kind: str = "",
        project: str = "",
        actor: str = "",
        newest_first: bool = False,
    ) -> tuple[Fact, ...]:
        """Sealed facts in chain order, or newest first; see the port."""
        if limit < 1:
            raise InvalidInput("The limit is below 1.", hint="Give 1 or more.", field="limit")
        self.seal()
        query = select(FACTS.c.position, FACTS.c.hash, FACTS.c.content)
        for column, wanted in (
            (FACTS.c.stream, stream),
            (FACTS.c.kind, kind),
            (FACTS.c.project, project),
            (FACTS.c.actor, actor),
        ):
            if wanted:
                query = query.where(column == wanted)
        if newest_first:
            query = query.order_by(FACTS.c.position.desc())
            if after:
                query = query.where(FACTS.c.position < after)
        else:
            query = query.where(FACTS.c.position > after).order_by(FACTS.c.position)
        with reading(self.engine) as connection:
            rows = connection.execute(query.limit(limit)).all()
        return tuple(decode_fact(self._catalog, content, position, hash_) for position, hash_, content in rows)

    def get(self, view: View[S], key: str) -> S | None:
        """One row of a view."""
        with reading(self.engine) as connection:
            found = connection.execute(_GET, {"view": view.name, "key": key}).scalar_one_or_none()
        return None if found is None else cast("S", decode_state(view, key, found))

    def rows(self, view: View[S], *, project: str = "") -> dict[str, S]:
        """All rows of a view by key, of one project or of all."""
        query = select(VIEWS.c.key, VIEWS.c.state).where(VIEWS.c.view == view.name).order_by(VIEWS.c.key)
        if project:
            query = query.where(VIEWS.c.project == project)
        with reading(self.engine) as connection:
            found = connection.execute(query).all()
        return {key: decode_state(view, key, state) for key, state in found}

    def stream_version(self, stream: str) -> int:
        """How many facts the stream has."""
        with reading(self.engine) as connection:
            return self._versions(connection, [stream]).get(stream, 0)

    def head(self) -> tuple[int, str]:
        """Number of sealed facts and the hash of the last; `(0, "")` for an empty ledger."""
        self.seal()
        with reading(self.engine) as connection:
            position, hash_, _ = self._last(connection)
        return position, hash_.hex() if position else ""

    # The chain

    def seal(self) -> int:
        """Chain facts that wait for it; how many were chained. On SQLite nothing ever waits."""
        if not self._waits():
            return 0
        with writing(self.engine) as connection:
            connection.execute(_LOCK_CHAIN)
            return self._seal(connection)

    def checkpoint(self) -> Checkpoint:
        """Sign the current head, keep it in the database and append it to the file outside; see the port.

        When nothing was recorded since the last checkpoint, that one is given again.

        Raises:
            StorageFailed: it could not be kept in both places, or the ledger no longer agrees with the last checkpoint.
        """
        with writing(self.engine) as connection:
            if self._sealed_later:
                connection.execute(_LOCK_CHAIN)
                self._seal(connection)
            position, head, _ = self._last(connection)
            row = connection.execute(_LAST_CHECKPOINT).one_or_none()
            last, stored = (None, b"") if row is None else (Checkpoint(*row[:-1]), row[-1])
            if last is not None:
                self._agree(connection, last)
            if last is not None and last.size == position:
                if last_checkpoint(self._file) != last:
                    append_checkpoint(self._file, last)
                return last
            frontier = self._frontier(last, stored)
            frontier.extend(hashes_after(connection, frontier.size))
            checkpoint = self._signer.sign(
                size=position,
                head=head.hex() if position else "",
                root=frontier.root().hex(),
                time=self._clock.now(),
            )
            connection.execute(
                insert(CHECKPOINTS), msgspec.structs.asdict(checkpoint) | {"frontier": frontier.to_bytes()}
            )
            append_checkpoint(self._file, checkpoint)
        return checkpoint

    def last_checkpoint(self) -> Checkpoint | None:
        """The largest checkpoint kept in the database, if there is one."""
        with reading(self.engine) as connection:
            row = connection.execute(_LAST_CHECKPOINT).one_or_none()
        return None if row is None else Checkpoint(*row[:-1])

    def verify(self, *, checkpoints: Sequence[Checkpoint] = (), views: bool = True) -> Verification:
        """Recompute everything and compare with what is stored and was signed; the file outside is always read too."""
        self.seal()
        outside = (*checkpoints, *read_checkpoints(self._file))
        with reading(self.engine, snapshot=True) as connection, connection.begin():
            return verify_database(
                connection,
                self._catalog,
                outside=outside,
                trusted=frozenset({self._signer.key_id, *(c.key_id for c in checkpoints if is_signed(c))}),
                views=views,
                late=self._clock.now() - MINUTE,
            )

    def rebuild(self) -> Mapping[str, int]:
        """Fold all views anew from the facts and swap them in; rows that differed before, by view."""
        with writing(self.engine) as connection:
            return self._refold(connection, self._catalog.views)

    def refresh_views(self) -> Mapping[str, int]:
        """Fold those views anew whose shape is not the one their rows were folded for, as after an upgrade."""
        wanted = {view.name: shape_of(view) for view in self._catalog.views}
        with reading(self.engine) as connection:
            if self._shapes(connection) == wanted:
                return {}
        with writing(self.engine) as connection:
            if self._sealed_later:
                connection.execute(_LOCK_ALL)
            shapes = self._shapes(connection)
            changed = [view for view in self._catalog.views if shapes.get(view.name) != wanted[view.name]]
            return self._refold(connection, changed) if changed else {}

    def close(self) -> None:
        """Give everything back."""
        self.engine.dispose()

    # Within a transaction

    @staticmethod
    def _last(connection: Connection) -> tuple[int, bytes, str]:
        row = connection.execute(_HEAD).first()
        return (0, GENESIS, "") if row is None else (row[0], row[1], row[2])

    def _versions(self, connection: Connection, streams: Sequence[str]) -> dict[str, int]:
        """How many facts each stream has, those that wait included; streams without any are left out."""
        if len(streams) == 1:
            one = _VERSION_LATER if self._sealed_later else _VERSION
            return {streams[0]: connection.execute(one, {"stream": streams[0]}).scalar() or 0}
        if self._sealed_later:
            rows = connection.execute(_VERSIONS_LATER, {"streams": list(streams)})
        else:
            rows = connection.execute(_VERSIONS, {"streams": msgspec.json.encode(streams).decode()})
        return {row[0]: row[1] for row in rows}

    def _insert(self, connection: Connection, rows: Sequence[tuple[int, bytes, bytes, str]]) -> None:
        """Store chained facts; the statement is compiled once and goes to the driver with its rows as they are."""
        if self._sealed_later:
            connection.exec_driver_sql(self._insert_fact, [dict(zip(_FACT, row, strict=True)) for row in rows])
        else:
            connection.exec_driver_sql(self._insert_fact, list(rows))

    def _seal(self, connection: Connection) -> int:
        """Chain what waits. The caller holds the chain's lock, so each statement sees all that is committed by now."""
        position, before, _ = self._last(connection)
        start = position
        query = select(WAITING.c.seq, WAITING.c.content).order_by(WAITING.c.seq).limit(_SEAL_BATCH)
        while waiting := connection.execute(query).all():
            rows = []
            for _, content in waiting:
                position += 1
                hash_ = link(before, content.encode())
                rows.append((position, before, hash_, content))
                before = hash_
            self._insert(connection, rows)
            connection.execute(delete(WAITING).where(WAITING.c.seq.in_([seq for seq, _ in waiting])))
        return position - start

    def _waits(self) -> bool:
        """Whether a fact waits to be chained; asked often, so it takes no lock."""
        if not self._sealed_later:
            return False
        with reading(self.engine) as connection:
            return connection.execute(select(WAITING.c.seq).limit(1)).first() is not None

    def _agree(self, connection: Connection, last: Checkpoint) -> None:
        """Refuse to sign a history that is not the continuation of what was signed before."""
        query = select(FACTS.c.hash).where(FACTS.c.position == last.size)
        stands = connection.execute(query).scalar_one_or_none()
        if last.size and (stands is None or stands.hex() != last.head):
            raise StorageFailed(
                f"Fact {last.size} is not the one that was signed in the last checkpoint; nothing new is signed.",
                hint="Run `detent audit verify` to see what was changed.",
            )

    def _frontier(self, last: Checkpoint | None, stored: bytes) -> Frontier:
        """The tree at the last checkpoint if it is ours and still gives the signed root; else an empty one."""
        if last is not None and last.key_id == self._signer.key_id and is_signed(last):
            try:
                frontier = Frontier.from_bytes(last.size, stored)
            except ValueError:
                return Frontier()
            if frontier.root().hex() == last.root:
                return frontier
        return Frontier()

    @staticmethod
    def _shapes(connection: Connection) -> dict[str, str]:
        return dict(connection.execute(select(VIEW_SHAPES.c.view, VIEW_SHAPES.c.shape)).all())

    def _refold(self, connection: Connection, views: Iterable[View[msgspec.Struct]]) -> dict[str, int]:
        if self._sealed_later:
            connection.execute(_LOCK_ALL)
            connection.execute(_LOCK_CHAIN)
            self._seal(connection)
        views = tuple(views)
        folding = Folding(self._catalog, views=views)
        for fact in every_fact(connection, self._catalog):
            folding.fold(fact)
        differed: dict[str, int] = {}
        for view in views:
            wrong = compare(connection, folding, view)
            replace(connection, folding, view, wrong)
            differed[view.name] = len(wrong)
        connection.execute(delete(VIEW_SHAPES).where(VIEW_SHAPES.c.view.in_([view.name for view in views])))
        connection.execute(insert(VIEW_SHAPES), [{"view": view.name, "shape": shape_of(view)} for view in views])
        return differed

    # Locks of PostgreSQL

    def _lock_streams(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        """Keep others off these streams. A large batch keeps everybody off instead, because locks are limited."""
        if len(drafts) > _MOST_LOCKS:
            connection.execute(_LOCK_ALL)
        else:
            connection.execute(_LOCK_ALL_SHARED)
            connection.execute(_LOCK_EACH, {"space": _STREAMS, "keys": _lock_keys(draft.stream for draft in drafts)})

    def _lock_rows(self, connection: Connection, facts: Sequence[Fact]) -> None:
        """Keep others off the rows of views that these facts are folded into."""
        if len(facts) <= _MOST_LOCKS and (rows := touched(self._catalog, facts)):
            keys = _lock_keys(f"{view}\0{key}" for view, key in rows)
            connection.execute(_LOCK_EACH, {"space": _ROWS, "keys": keys})


def open_ledger(
    url: str, catalog: FactCatalog, *, checkpoints: Path, key_file: Path, clock: Clock, ids: Ids
) -> SqlLedger:
    """Open the ledger, bringing schema and views up to date first. Two processes may do so at once.

    Args:
        url: an SQLAlchemy URL of SQLite or PostgreSQL.
        checkpoints: the file outside the database that signed checkpoints are appended to.
        key_file: the Ed25519 seed that signs them; made at the first call.

    Raises:
        BadSettings: the URL cannot be used.
        StorageFailed: the database or the key cannot be used, or a newer Detent wrote them.
    """
    engine = open_database(url)
    try:
        ledger = SqlLedger(engine, catalog, signer=open_signer(key_file), file=checkpoints, clock=clock, ids=ids)
        ledger.refresh_views()
    except BaseException:
        engine.dispose()
        raise
    return ledger


def _lock_keys(names: Iterable[str]) -> list[int]:
    """32-bit numbers for names, in the one order in which everybody locks them."""
    return sorted({int.from_bytes(sha256(name.encode()).digest()[:4], "big", signed=True) for name in names})
