"""What every Ledger does, on every database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from detent.kernel.clock import HOUR, MINUTE, SECOND, FixedClock
from detent.kernel.errors import BadSettings, BugError, Conflict, InvalidInput, StorageFailed
from detent.kernel.facts import ANY_VERSION, NEW_STREAM, Draft, Fact, FactBody, FactCatalog, View, fact
from detent.kernel.identity import Actor
from detent.kernel.ids import CountedIds
from detent.store import migrations, tables
from detent.store.ledger import SqlLedger, open_ledger, read_checkpoints

ANNA = Actor("user", "anna")
BEN = Actor("key", "ben")


@fact("box.opened")
class Opened(FactBody, frozen=True, kw_only=True):
    """A box was opened."""

    name: str
    owner: str = ""
    weight: float | None = None
    expires: int = 0
    marks: dict[str, Any] = {}  # noqa: RUF012  (msgspec copies it)


@fact("box.renamed")
class Renamed(FactBody, frozen=True, kw_only=True):
    """A box got another name."""

    name: str


@fact("box.closed", sealed_at_once=True)
class Closed(FactBody, frozen=True, kw_only=True):
    """A box was closed for good."""


class Box(msgspec.Struct, frozen=True):
    """An open box."""

    name: str
    project: str
    changed: int
    changes: int


class Owner(msgspec.Struct, frozen=True):
    """Who opened boxes, in the order in which they were opened: a row that many streams are folded into."""

    boxes: tuple[str, ...]


def fold_box(box: Box | None, what: Fact) -> Box | None:
    body = what.body
    if isinstance(body, Opened):
        return Box(body.name, what.project, what.time, 1)
    if isinstance(body, Renamed) and box is not None:
        return Box(body.name, box.project, what.time, box.changes + 1)
    return None


def owner_of(what: Fact) -> str:
    assert isinstance(what.body, Opened)
    return what.body.owner


def fold_owner(owner: Owner | None, what: Fact) -> Owner:
    return Owner(((*owner.boxes, what.stream) if owner else (what.stream,))[-50:])


BOXES = View("boxes", Box, (Opened, Renamed, Closed), fold_box)
OWNERS = View("owners", Owner, (Opened,), fold_owner, key=owner_of)
CATALOG = FactCatalog((Opened, Renamed, Closed), (BOXES, OWNERS))

Open = Callable[..., SqlLedger]

on_postgres = pytest.mark.parametrize(
    "database_url", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


@pytest.fixture
def open_(database_url: str, tmp_path: Path, clock: FixedClock, ids: CountedIds) -> Iterator[Open]:
    """Opens ledgers on the test's database, as a second process would."""
    opened: list[SqlLedger] = []

    def open_one(catalog: FactCatalog = CATALOG, clock: FixedClock = clock) -> SqlLedger:
        ledger = open_ledger(
            database_url,
            catalog,
            checkpoints=tmp_path / "checkpoints.jsonl",
            key_file=tmp_path / "keys" / "ledger.key",
            clock=clock,
            ids=ids,
        )
        opened.append(ledger)
        return ledger

    yield open_one
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_: Open) -> SqlLedger:
    """An empty ledger."""
    return open_()


def opened(stream: str, name: str = "a", *, expected: int = ANY_VERSION, **more: Any) -> Draft:
    return Draft(stream, Opened(name=name, **more), expected)


def record(ledger: SqlLedger, *drafts: Draft, project: str = "default", reason: str = "") -> tuple[Fact, ...]:
    return ledger.append(drafts, actor=ANNA, project=project, reason=reason)


def test_what_was_recorded_is_read_as_it_was_said(ledger: SqlLedger, clock: FixedClock) -> None:
    body = Opened(
        name="Lüge \u2028 \\u0000 😀", weight=0.1, expires=clock.now(), marks={"é": [1, 2.5, None], "a": True}
    )
    record(ledger, Draft("box/1", body), reason="Because.")
    [read] = ledger.read()
    assert read == Fact(
        1,
        "00000000-0000-7000-8000-000000000001",
        "box/1",
        1,
        "default",
        ANNA,
        clock.now(),
        "Because.",
        body,
        read.hash,
    )
    assert len(read.hash) == 64
    assert ledger.head() == (1, read.hash)


def test_facts_are_chained_and_numbered_per_stream(ledger: SqlLedger) -> None:
    record(ledger, opened("box/1"), opened("box/2"), Draft("box/1", Renamed(name="b")))
    record(ledger, Draft("box/1", Renamed(name="c")))
    read = ledger.read()
    assert [(f.position, f.stream, f.version) for f in read] == [
        (1, "box/1", 1),
        (2, "box/2", 1),
        (3, "box/1", 2),
        (4, "box/1", 3),
    ]
    assert len({f.hash for f in read}) == 4
    assert [ledger.stream_version(s) for s in ("box/1", "box/2", "box/3")] == [3, 1, 0]


def test_nothing_recorded_is_nothing(ledger: SqlLedger) -> None:
    assert ledger.append([], actor=ANNA, project="default") == ()
    assert ledger.head() == (0, "")
    assert ledger.read() == ()
    assert ledger.verify().ok


def test_a_stream_that_moved_on_is_a_conflict_and_nothing_is_recorded(ledger: SqlLedger) -> None:
    record(ledger, opened("box/1", expected=NEW_STREAM))
    before = ledger.read(), ledger.rows(BOXES)
    for drafts in (
        [opened("box/1", expected=NEW_STREAM)],
        [opened("box/2"), Draft("box/1", Renamed(name="x"), 2)],
        [opened("box/3", expected=NEW_STREAM), opened("box/3", expected=NEW_STREAM)],
    ):
        with pytest.raises(Conflict, match="changed since it was read"):
            record(ledger, *drafts)
    assert (ledger.read(), ledger.rows(BOXES)) == before
    record(ledger, Draft("box/1", Renamed(name="x"), 1), Draft("box/1", Renamed(name="y"), 2))
    assert ledger.stream_version("box/1") == 3


def test_views_follow_at_once(ledger: SqlLedger, clock: FixedClock) -> None:
    record(ledger, opened("box/1", owner="o"), opened("box/2", owner="o"))
    record(ledger, opened("box/3"), project="other")
    assert ledger.get(BOXES, "box/1") == Box("a", "default", clock.now(), 1)
    assert ledger.get(OWNERS, "o") == Owner(("box/1", "box/2"))
    clock.advance(SECOND)
    record(ledger, Draft("box/1", Renamed(name="b")), Draft("box/1", Renamed(name="c")))
    assert ledger.get(BOXES, "box/1") == Box("c", "default", clock.now(), 3)
    assert set(ledger.rows(BOXES)) == {"box/1", "box/2", "box/3"}
    assert set(ledger.rows(BOXES, project="other")) == {"box/3"}
    record(ledger, Draft("box/1", Closed()))
    assert ledger.get(BOXES, "box/1") is None
    assert set(ledger.rows(BOXES, project="default")) == {"box/2"}
    assert ledger.verify().ok


def test_read_filters_and_pages(ledger: SqlLedger) -> None:
    for number in range(6):
        record(ledger, opened(f"box/{number % 2}", expected=number // 2), project="p" if number < 4 else "q")
    ledger.append([Draft("box/0", Closed())], actor=BEN, project="q")

    def positions(**query: Any) -> list[int]:
        return [f.position for f in ledger.read(**query)]

    assert positions() == [1, 2, 3, 4, 5, 6, 7]
    assert positions(limit=2) == [1, 2]
    assert positions(after=2, limit=2) == [3, 4]
    assert positions(newest_first=True, limit=2) == [7, 6]
    assert positions(newest_first=True, after=6, limit=2) == [5, 4]
    assert positions(stream="box/1") == [2, 4, 6]
    assert positions(kind="box.closed") == [7]
    assert positions(project="q") == [5, 6, 7]
    assert positions(actor="key:ben") == [7]
    assert positions(actor="user:anna", project="q", stream="box/0", newest_first=True) == [5]
    assert positions(stream="box/1' OR '1'='1") == []
    with pytest.raises(InvalidInput):
        ledger.read(limit=0)


def test_what_cannot_stand_in_a_fact_is_refused_whole(ledger: SqlLedger) -> None:
    for wrong in (
        {"drafts": [opened("")]},
        {"drafts": [opened("box/\n")]},
        {"drafts": [opened("b" * 501)]},
        {"drafts": [opened("box/1", "nul \0")]},
        {"drafts": [opened("box/1", marks={"nul": ["\0"]})]},
        {"drafts": [opened("box/1", "lone \ud800")]},
        {"drafts": [opened("box/1", weight=float("nan"))]},
        {"drafts": [opened("box/1", expires=2**64)]},
        {"drafts": [opened("box/1", marks={"x": object()})]},
        {"drafts": [opened("box/1", "n" * 1024 * 1024)]},
        {"drafts": [Draft("box/1", Renamed(name="lone \ud800"))]},
        {"project": ""},
        {"reason": "two\nlines"},
        {"reason": "r" * 1001},
    ):
        arguments: dict[str, Any] = {"drafts": [], "project": "default", "reason": "", **wrong}
        drafts = [opened("box/0"), *arguments.pop("drafts")]
        with pytest.raises(InvalidInput):
            ledger.append(drafts, actor=ANNA, **arguments)
    assert ledger.head() == (0, "")
    assert ledger.rows(BOXES) == {}


def test_a_body_in_no_catalog_is_our_bug(ledger: SqlLedger) -> None:
    @fact("box.unknown")
    class Unknown(FactBody, frozen=True, kw_only=True):
        """In no catalog."""

    with pytest.raises(BugError):
        record(ledger, Draft("box/1", Unknown()))


def test_a_clock_that_steps_back_is_levelled_out_or_refused(ledger: SqlLedger, clock: FixedClock) -> None:
    start = clock.now()
    record(ledger, opened("box/1", expected=NEW_STREAM))
    ledger.seal()
    clock.advance(-MINUTE // 2)
    [levelled] = record(ledger, opened("box/2"))
    assert levelled.time == start
    clock.advance(-HOUR)
    with pytest.raises(StorageFailed, match="clock went back") as error:
        record(ledger, opened("box/3"))
    assert error.value.hint
    assert ledger.rows(BOXES).keys() == {"box/1", "box/2"}
    clock.advance(2 * HOUR)
    record(ledger, opened("box/3"))
    assert ledger.verify().ok


def test_two_processes_see_each_other(open_: Open) -> None:
    one, two = open_(), open_()
    record(one, opened("box/1"))
    assert two.get(BOXES, "box/1") == one.get(BOXES, "box/1")
    record(two, Draft("box/1", Renamed(name="b"), 1))
    with pytest.raises(Conflict):
        record(one, Draft("box/1", Renamed(name="c"), 1))
    assert one.head() == two.head()
    assert one.read() == two.read()


def test_threads_write_at_once(ledger: SqlLedger) -> None:
    failures: list[BaseException] = []

    def write(writer: int) -> None:
        try:
            for number in range(12):
                # Two things that all of them change: a row that each reaches from its own streams, and one stream.
                record(ledger, opened(f"box/{writer}-{number}", owner="shared"))
                record(ledger, Draft("box/all", Opened(name="x")))
                if number % 5 == 0:
                    record(ledger, Draft(f"box/{writer}-{number}", Closed()))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ledger.stream_version("box/all") == 72
    assert ledger.head()[0] == 6 * (24 + 3)
    owner = ledger.get(OWNERS, "shared")
    assert owner is not None
    assert ledger.rebuild() == {"boxes": 0, "owners": 0}
    assert ledger.verify().findings == ()


def test_a_large_batch_is_one_change(ledger: SqlLedger) -> None:
    facts = record(ledger, *(opened(f"box/{number}", owner=str(number)) for number in range(700)))
    assert len(facts) == 700
    ledger.seal()
    assert ledger.head()[0] == 700
    assert len(ledger.rows(OWNERS)) == 700
    assert ledger.verify().ok


# Checkpoints


def test_checkpoints_stand_inside_and_outside(ledger: SqlLedger, tmp_path: Path, clock: FixedClock) -> None:
    assert ledger.last_checkpoint() is None
    record(ledger, opened("box/1"))
    first = ledger.checkpoint()
    assert ledger.checkpoint() == first
    clock.advance(MINUTE)
    record(ledger, *(opened(f"box/{number}") for number in range(2, 9)))
    second = ledger.checkpoint()
    assert ledger.last_checkpoint() == second
    assert read_checkpoints(tmp_path / "checkpoints.jsonl") == (first, second)
    assert (first.size, second.size, second.head) == (1, 8, ledger.head()[1])
    seen = ledger.verify()
    assert (seen.ok, seen.checkpoint, seen.facts, seen.head, seen.root) == (True, second, 8, second.head, second.root)


def test_a_checkpoint_of_nothing(ledger: SqlLedger) -> None:
    assert ledger.checkpoint().size == 0
    record(ledger, opened("box/1"))
    assert ledger.checkpoint().size == 1
    assert ledger.verify().ok


def test_a_lost_checkpoint_file_is_begun_again(ledger: SqlLedger, tmp_path: Path) -> None:
    record(ledger, opened("box/1"))
    made = ledger.checkpoint()
    (tmp_path / "checkpoints.jsonl").unlink()
    assert ledger.checkpoint() == made
    assert read_checkpoints(tmp_path / "checkpoints.jsonl") == (made,)


def test_a_checkpoint_that_cannot_be_kept_outside_is_not_kept_inside(ledger: SqlLedger, tmp_path: Path) -> None:
    record(ledger, opened("box/1"))
    blocked = tmp_path / "checkpoints.jsonl"
    blocked.mkdir()
    with pytest.raises(StorageFailed) as error:
        ledger.checkpoint()
    assert error.value.hint
    assert ledger.last_checkpoint() is None
    blocked.rmdir()
    assert ledger.checkpoint().size == 1


def test_nothing_is_signed_on_top_of_another_history(ledger: SqlLedger) -> None:
    record(ledger, opened("box/1"), opened("box/2"))
    ledger.checkpoint()
    record(ledger, opened("box/3"))
    ledger.seal()
    with ledger.engine.begin() as connection:
        connection.execute(tables.FACTS.update().where(tables.FACTS.c.position == 2).values(hash=b"x" * 32))
    with pytest.raises(StorageFailed, match="nothing new is signed"):
        ledger.checkpoint()


# Verification and rebuild


def tamper(ledger: SqlLedger, *statements: str) -> None:
    with ledger.engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (["UPDATE facts SET content = replace(content, 'anna', 'otto') WHERE position = 3"], [(3, "edited")]),
        (["DELETE FROM facts WHERE position = 4"], [(4, "missing")]),
        (["DELETE FROM facts WHERE position IN (4, 5)"], [(4, "missing")]),
        (["DELETE FROM facts WHERE position > 6"], [(7, "truncated")]),
        (
            [
                "UPDATE facts SET position = 1003 WHERE position = 3",
                "UPDATE facts SET position = 3 WHERE position = 5",
                "UPDATE facts SET position = 5 WHERE position = 1003",
            ],
            [(3, "reordered"), (5, "reordered")],
        ),
        (["UPDATE checkpoints SET head = root"], [(8, "bad_signature")]),
        (["UPDATE checkpoints SET signature = 'no hex'"], [(8, "bad_signature")]),
    ],
)
def test_tampering_is_named_at_the_row(ledger: SqlLedger, statements: list[str], found: list[tuple[int, str]]) -> None:
    for number in range(8):
        record(ledger, opened(f"box/{number}"))
    ledger.checkpoint()
    assert ledger.verify().ok
    tamper(ledger, *statements)
    seen = ledger.verify(views=False)
    assert [(f.position, f.problem) for f in seen.findings] == found
    assert not seen.ok


def test_a_view_that_says_something_else_is_found_and_repaired(ledger: SqlLedger) -> None:
    record(ledger, opened("box/1"), opened("box/2"), opened("box/3"))
    whole = ledger.rows(BOXES)
    tamper(
        ledger,
        """UPDATE views SET state = replace(state, '"a"', '"z"') WHERE view = 'boxes' AND key = 'box/1'""",
        "DELETE FROM views WHERE view = 'boxes' AND key = 'box/2'",
        "UPDATE views SET project = 'other' WHERE view = 'boxes' AND key = 'box/3'",
        "INSERT INTO views (view, key, project, state) VALUES ('boxes', 'box/9', 'default', 'nonsense')",
    )
    seen = ledger.verify()
    assert [(f.position, f.problem) for f in seen.findings] == [
        (0, "view_differs"),
        (1, "view_differs"),
        (2, "view_differs"),
        (3, "view_differs"),
    ]
    assert ledger.verify(views=False).ok
    assert ledger.rebuild() == {"boxes": 4, "owners": 0}
    assert ledger.rows(BOXES) == whole
    assert ledger.verify().ok
    assert ledger.rebuild() == {"boxes": 0, "owners": 0}


# Starting


def test_a_new_view_and_a_changed_one_are_folded_at_the_start(open_: Open) -> None:
    old = open_(FactCatalog((Opened, Renamed, Closed), (OWNERS,)))
    record(old, opened("box/1", owner="o"), opened("box/2", owner="o"))

    class Counted(msgspec.Struct, frozen=True):
        """Owners, in a later version."""

        count: int

    counted = View("owners", Counted, (Opened,), lambda c, _: Counted(1 if c is None else c.count + 1), key=owner_of)
    new = open_(FactCatalog((Opened, Renamed, Closed), (BOXES, counted)))
    assert new.get(counted, "o") == Counted(2)
    assert set(new.rows(BOXES)) == {"box/1", "box/2"}
    assert new.verify().ok


def test_old_facts_are_lifted_and_newer_ones_refused(open_: Open) -> None:
    record(open_(), opened("box/1", "Anna's"))

    @fact("box.opened", version=2)
    class OpenedLater(FactBody, frozen=True, kw_only=True):
        """A box was opened; its name became a title."""

        title: str

    def lift(old: dict[str, Any]) -> dict[str, Any]:
        return {"title": old["name"].upper()}

    later = open_(FactCatalog((OpenedLater, Renamed, Closed), (), {("box.opened", 1): lift}))
    assert later.read()[0].body == OpenedLater(title="ANNA'S")
    later.append([Draft("box/2", OpenedLater(title="B"))], actor=ANNA, project="default")
    assert later.verify().ok
    with pytest.raises(StorageFailed, match="does not know"):
        open_(FactCatalog((Opened, Renamed, Closed), (BOXES,))).read()


def test_a_newer_schema_is_refused_untouched(ledger: SqlLedger, open_: Open) -> None:
    record(ledger, opened("box/1"))
    tamper(ledger, f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StorageFailed, match="newer than this Detent") as error:
        open_()
    assert "Nothing was changed" in error.value.hint
    tamper(ledger, f"UPDATE {migrations.VERSION_TABLE} SET version_num = '{migrations.STEPS[-1]}'")
    assert open_().verify().ok


def test_the_tables_are_what_the_steps_make(ledger: SqlLedger) -> None:
    made = sa.inspect(ledger.engine)
    for table in tables.METADATA.tables.values():
        if table is tables.WAITING and ledger.engine.dialect.name == "sqlite":
            continue
        assert {c["name"] for c in made.get_columns(table.name)} == set(table.columns.keys())


def test_the_steps_are_listed() -> None:
    folder = Path(migrations.__file__).parent / "versions"
    assert [f"r{step}" for step in migrations.STEPS] == sorted(f.stem.partition("_")[0] for f in folder.glob("r*.py"))


def test_a_ledger_in_memory(tmp_path: Path, clock: FixedClock, ids: CountedIds) -> None:
    ledger = open_ledger(
        "sqlite://", CATALOG, checkpoints=tmp_path / "c", key_file=tmp_path / "k", clock=clock, ids=ids
    )
    record(ledger, opened("box/1"))
    ledger.checkpoint()
    assert ledger.verify().ok
    ledger.close()


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", ""])
def test_another_kind_of_database_is_refused(url: str, tmp_path: Path, clock: FixedClock, ids: CountedIds) -> None:
    with pytest.raises(BadSettings) as error:
        open_ledger(url, CATALOG, checkpoints=tmp_path / "c", key_file=tmp_path / "k", clock=clock, ids=ids)
    assert error.value.field == "storage.ledger_url"


# Sealing later, where that is done


@on_postgres
def test_facts_wait_until_somebody_seals(open_: Open) -> None:
    ledger = open_()
    [waiting] = record(ledger, opened("box/1"))
    assert (waiting.position, waiting.hash) == (0, "")
    assert ledger.get(BOXES, "box/1") is not None
    [at_once] = record(ledger, Draft("box/1", Closed()))
    assert at_once.position == 2
    assert [f.position for f in ledger.read()] == [1, 2]
    record(ledger, opened("box/2"), opened("box/3"))
    assert (ledger.seal(), ledger.seal()) == (2, 0)


@on_postgres
def test_a_lower_number_that_commits_later_is_chained_later(open_: Open) -> None:
    ledger = open_()
    record(ledger, opened("box/1"))
    [content] = [ledger_content(ledger)]
    slow = ledger.engine.connect()
    slow.execute(tables.WAITING.insert(), {"content": content.replace("box/1", "box/slow")})
    record(ledger, opened("box/2"))
    assert [f.stream for f in ledger.read()] == ["box/1", "box/2"]
    slow.commit()
    slow.close()
    assert [f.stream for f in ledger.read()] == ["box/1", "box/2", "box/slow"]
    assert ledger.verify(views=False).ok


@on_postgres
def test_a_fact_that_is_sealed_meanwhile_is_counted(open_: Open) -> None:
    one, two = open_(), open_()
    record(one, opened("box/1"))
    sealed: list[int] = []

    @sa.event.listens_for(one.engine, "after_cursor_execute")
    def _seal(*_: object) -> None:
        sealed.append(two.seal())

    assert one.stream_version("box/1") == 1
    assert sum(sealed) == 1


def ledger_content(ledger: SqlLedger) -> str:
    with ledger.engine.connect() as connection:
        return str(connection.execute(sa.select(tables.WAITING.c.content)).scalar_one())
