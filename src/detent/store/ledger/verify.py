"""Verification: everything is computed anew and compared with what is stored and with what was signed.

The scan touches each fact once, in bulk, and only remembers where something broke; what happened there is judged
afterwards (`judge`). A million facts take about two seconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, create_engine, select
from sqlalchemy.pool import NullPool

from detent.kernel.errors import StorageFailed
from detent.kernel.facts import Fact, FactCatalog
from detent.kernel.ports import Checkpoint, Finding, Verification
from detent.store import migrations
from detent.store.database import reading
from detent.store.ledger.chain import GENESIS, decode_fact
from detent.store.ledger.checkpoints import is_signed
from detent.store.ledger.folding import Folding, compare
from detent.store.ledger.judge import Break, judge
from detent.store.ledger.merkle import Frontier
from detent.store.tables import CHECKPOINTS, FACTS, WAITING

_CHUNK: Final = 4096
_MOST_BREAKS: Final = 2_000
_MOST_FINDINGS: Final = 1_000

_SCAN_SQLITE: Final = (
    "SELECT position, CAST(prev AS BLOB), CAST(hash AS BLOB), CAST(content AS BLOB) FROM facts ORDER BY position"
)
_SCAN_POSTGRES: Final = "SELECT position, prev, hash, convert_to(content, 'UTF8') FROM facts ORDER BY position"

Row = tuple[int, bytes, bytes, bytes]


def verify_copy(path: Path, catalog: FactCatalog, checkpoints: Sequence[Checkpoint] = ()) -> Verification:
    """Verify a copy of a SQLite ledger, without the installation it came from. The copy is not written to.

    Args:
        path: the database file; a `-wal` file beside it is read too.
        catalog: the fact kinds and views it was written with.
        checkpoints: what was kept outside. Their keys are taken as the installation's.

    Raises:
        StorageFailed: the file cannot be read, is no ledger, or was written by a newer Detent.
    """
    path = path.absolute()
    if not path.is_file():
        raise StorageFailed(f"There is no file {path}.", hint="Give the path of a copied ledger.db.")
    log = path.with_name(path.name + "-wal")
    mode = "mode=ro" if log.is_file() and log.stat().st_size else "mode=ro&immutable=1"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, isolation_level=None)

    engine = create_engine(f"sqlite:///{path}", creator=connect, poolclass=NullPool)
    try:
        with reading(engine) as connection:
            connection.exec_driver_sql("BEGIN")
            if not migrations.check(connection):
                raise StorageFailed(f"{path} is not a ledger.", hint="Give the path of a copied ledger.db.")
            trusted = frozenset(checkpoint.key_id for checkpoint in checkpoints if is_signed(checkpoint))
            return verify_database(connection, catalog, outside=checkpoints, trusted=trusted)
    finally:
        engine.dispose()


def verify_database(
    connection: Connection,
    catalog: FactCatalog,
    *,
    outside: Sequence[Checkpoint],
    trusted: frozenset[str],
    views: bool = True,
    late: int = 0,
) -> Verification:
    """Verify what a transaction sees.

    Args:
        outside: checkpoints from outside the database; those inside are read too.
        trusted: ids of the keys that may have signed; empty when none is known.
        views: whether to fold the facts and compare.
        late: facts recorded before this time should have been chained.
    """
    checkpoints = _all_checkpoints(connection, outside)
    scan = _Scan(frozenset(checkpoint.size for checkpoint in checkpoints))
    for chunk in _chunks(connection):
        scan.take(chunk)
    findings = judge(connection, scan.breaks, checkpoints, complete=scan.broken == len(scan.breaks))
    best = _judge_checkpoints(checkpoints, trusted, scan, findings)
    if connection.dialect.name != "sqlite":
        findings += _unsealed(connection, catalog, late)
    if views:
        findings += _judge_views(connection, catalog)
    findings.sort(key=lambda finding: finding.position)
    more = len(findings) - _MOST_FINDINGS
    if more > 0:
        findings[_MOST_FINDINGS - 1] = Finding(
            findings[_MOST_FINDINGS - 1].position, "edited", f"and {more + 1:,} findings more from here on"
        )
    return Verification(
        facts=scan.count,
        head=scan.last.hex() if scan.count else "",
        root=scan.frontier.root().hex(),
        checkpoint=best,
        findings=tuple(findings[:_MOST_FINDINGS]),
    )


class _Scan:
    """One pass over the chain: where it breaks, and what the tree and the head were at each checkpoint."""

    def __init__(self, sizes: frozenset[int]) -> None:
        self._sizes = sorted(size for size in sizes if size > 0)
        self._wanted = frozenset(self._sizes)
        self.frontier = Frontier()
        self.last = GENESIS
        self.expected = 1
        self.count = 0
        self.broken = 0
        self.breaks: list[Break] = []
        self.heads: dict[int, bytes] = {0: b""}
        self.roots: dict[int, bytes] = {0: self.frontier.root()}

    def take(self, chunk: list[Row]) -> None:
        """Check a run of rows."""
        last, expected = self.last, self.expected
        for position, before, hash_, content in chunk:
            if before != last or position != expected or sha256(before + content).digest() != hash_:
                self.broken += 1
                if len(self.breaks) < _MOST_BREAKS:
                    self.breaks.append(Break(expected, last, position, before, hash_, content))
            last = hash_
            expected = position + 1
        self.last, self.expected = last, expected
        self._grow([row[2] for row in chunk])
        if self._wanted and self.broken:
            self.heads |= {row[0]: row[2] for row in chunk if row[0] in self._wanted}

    def _grow(self, hashes: list[bytes]) -> None:
        done = 0
        for size in self._sizes:
            upto = size - self.count
            if not 0 < upto <= len(hashes):
                continue
            self.frontier.extend(hashes[done:upto])
            done = upto
            self.roots[size] = self.frontier.root()
            self.heads[size] = hashes[upto - 1]
        self.frontier.extend(hashes[done:] if done else hashes)
        self.count += len(hashes)
        self._sizes = [size for size in self._sizes if size > self.count]


def _chunks(connection: Connection) -> Iterator[list[Row]]:
    """The rows as plain tuples, straight from the driver: objects per row would cost more than the hashing."""
    raw: Any = connection.connection
    if connection.dialect.name == "sqlite":
        cursor = raw.cursor()
        cursor.execute(_SCAN_SQLITE)
    else:
        cursor = raw.driver_connection.cursor(name="detent_scan", binary=True)
        cursor.itersize = _CHUNK
        cursor.execute(_SCAN_POSTGRES)
    try:
        while chunk := cursor.fetchmany(_CHUNK):
            yield chunk
    finally:
        cursor.close()


def _all_checkpoints(connection: Connection, outside: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those from outside and those inside, by size and without doubles."""
    columns = [CHECKPOINTS.c[name] for name in Checkpoint.__struct_fields__]
    inside = [Checkpoint(*row) for row in connection.execute(select(*columns))]
    return sorted(dict.fromkeys([*outside, *inside]), key=lambda checkpoint: (checkpoint.size, checkpoint.time))


def _judge_checkpoints(
    checkpoints: Sequence[Checkpoint], trusted: frozenset[str], scan: _Scan, findings: list[Finding]
) -> Checkpoint | None:
    """Compare with what was signed; adds to the findings. The largest checkpoint that holds, if any."""
    best: Checkpoint | None = None
    cut: Checkpoint | None = None
    rewritten = False
    end = scan.expected - 1
    for checkpoint in checkpoints:
        size = checkpoint.size
        if not is_signed(checkpoint):
            findings.append(
                Finding(size, "bad_signature", f"the checkpoint over {size:,} facts is not signed by its key")
            )
        elif trusted and checkpoint.key_id not in trusted:
            findings.append(
                Finding(size, "bad_signature", f"the checkpoint over {size:,} facts is signed by a strange key")
            )
        elif size > end:
            cut = checkpoint
        elif scan.heads.get(size, b"").hex() != checkpoint.head:
            if not rewritten and not _explained(findings, best.size if best else 0, size):
                after = best.size if best else 0
                findings.append(
                    Finding(
                        size,
                        "rewritten",
                        f"facts {after + 1:,} to {size:,} do not lead to the head that was signed",
                    )
                )
                rewritten = True
        elif not findings and scan.roots.get(size, b"").hex() != checkpoint.root:
            findings.append(Finding(size, "rewritten", f"the Merkle root over {size:,} facts is not the signed one"))
        else:
            best = checkpoint
    if cut is not None:
        findings.append(Finding(end + 1, "truncated", f"{cut.size:,} facts were signed, but the chain ends at {end:,}"))
    return best


def _explained(findings: Sequence[Finding], after: int, size: int) -> bool:
    """Whether what was found already says why another hash stands at `size`."""
    return any(
        finding.position == size or (after < finding.position <= size and finding.problem in {"missing", "reordered"})
        for finding in findings
    )


def _unsealed(connection: Connection, catalog: FactCatalog, late: int) -> list[Finding]:
    found = []
    for seq, content in connection.execute(select(WAITING.c.seq, WAITING.c.content).order_by(WAITING.c.seq)):
        fact = decode_fact(catalog, content)
        if fact.time < late:
            found.append(Finding(0, "unsealed", f"fact {fact.id} (waiting as number {seq}) was never chained"))
    return found


def _judge_views(connection: Connection, catalog: FactCatalog) -> list[Finding]:
    folding = Folding(catalog)
    for fact in every_fact(connection, catalog, lenient=True):
        folding.fold(fact)
    return [
        Finding(position, "view_differs", f"the row '{key}' of the view '{view.name}' {what}")
        for view in catalog.views
        for key, (position, what) in compare(connection, folding, view).items()
    ]


def every_fact(connection: Connection, catalog: FactCatalog, *, lenient: bool = False) -> Iterator[Fact]:
    """All facts, in chain order and then those that wait.

    Args:
        lenient: leave out what cannot be read; the scan has found it.
    """
    rows: Iterator[tuple[int, bytes, bytes | str]] = (
        (position, hash_, content) for chunk in _chunks(connection) for position, _, hash_, content in chunk
    )
    for position, hash_, content in rows:
        try:
            fact = decode_fact(catalog, content, position, hash_)
        except StorageFailed:
            if not lenient:
                raise
            continue
        yield fact
    if connection.dialect.name != "sqlite":
        for content in connection.execute(select(WAITING.c.content).order_by(WAITING.c.seq)).scalars():
            yield decode_fact(catalog, content)


def hashes_after(connection: Connection, position: int) -> list[bytes]:
    """The hashes of the facts beyond a position."""
    query = select(FACTS.c.hash).where(FACTS.c.position > position).order_by(FACTS.c.position)
    return list(connection.execute(query).scalars())
