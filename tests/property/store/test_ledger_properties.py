"""What holds for every history: state is the fold of facts, and no change to a stored ledger goes unnamed."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import rfc8785
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from detent.kernel.canonical import canonical_json
from detent.kernel.clock import FixedClock
from detent.kernel.facts import Draft, Fact, FactBody, FactCatalog, View, fact
from detent.kernel.identity import Actor
from detent.kernel.ids import CountedIds
from detent.kernel.ports import Checkpoint, Verification
from detent.store.ledger import SqlLedger, open_ledger, read_checkpoints, verify_copy
from detent.store.ledger.chain import decode_fact, encode_content
from detent.store.ledger.merkle import Frontier

ANNA = Actor("user", "anna")
STREAMS = 5


@fact("count.added")
class Added(FactBody, frozen=True, kw_only=True):
    """Something was added. Free text and free keys, so that the encoding is the hard one."""

    amount: int
    note: str = ""
    more: dict[str, float] = {}  # noqa: RUF012  (msgspec copies it)


@fact("count.set")
class SetTo(FactBody, frozen=True, kw_only=True):
    """The count was set. Plain members, so that the encoding is the fast one."""

    value: int
    note: str = ""


@fact("count.dropped", sealed_at_once=True)
class Dropped(FactBody, frozen=True, kw_only=True):
    """The count is no more."""


class Count(msgspec.Struct, frozen=True):
    """A number, and how often it changed."""

    value: int
    changes: int


def fold(count: Count | None, what: Fact) -> Count | None:
    body, before = what.body, count or Count(0, 0)
    if isinstance(body, Added):
        return Count(before.value + body.amount, before.changes + 1)
    if isinstance(body, SetTo):
        return Count(body.value, before.changes + 1)
    return None


COUNTS = View("counts", Count, (Added, SetTo, Dropped), fold)
ALL = View("all", Count, (Added, SetTo), fold, key=lambda f: f.project)
CATALOG = FactCatalog((Added, SetTo, Dropped), (COUNTS, ALL))

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
numbers = st.integers(-(2**53) + 1, 2**53 - 1)
bodies: st.SearchStrategy[FactBody] = st.one_of(
    st.builds(
        Added,
        amount=numbers,
        note=texts,
        more=st.dictionaries(texts, st.floats(-1e15, 1e15), max_size=3),
    ),
    st.builds(SetTo, value=numbers, note=texts),
    st.just(Dropped()),
)
drafts = st.builds(lambda stream, body: Draft(f"count/{stream}", body), st.integers(1, STREAMS), bodies)


def opened(folder: Path, url: str = "") -> SqlLedger:
    return open_ledger(
        url or f"sqlite:///{folder / 'ledger.db'}",
        CATALOG,
        checkpoints=folder / "checkpoints.jsonl",
        key_file=folder / "ledger.key",
        clock=FixedClock(step=1000),
        ids=CountedIds(),
    )


# State


@settings(max_examples=60)
@given(st.lists(st.lists(drafts, min_size=1, max_size=5), max_size=8))
def test_state_is_the_fold_of_facts(batches: list[list[Draft]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = opened(Path(folder), "sqlite://")
        for batch in batches:
            ledger.append(batch, actor=ANNA, project="default")
        state: dict[str, Count] = {}
        for one in ledger.read(limit=1000):
            count = fold(state.pop(one.stream, None), one)
            if count is not None:
                state[one.stream] = count
        assert ledger.rows(COUNTS) == state
        assert ledger.verify().findings == ()
        assert ledger.rebuild() == {"counts": 0, "all": 0}
        ledger.close()


@settings(max_examples=40)
@given(st.lists(drafts, min_size=1, max_size=12), st.data())
def test_the_chain_does_not_depend_on_batching(all_drafts: list[Draft], data: st.DataObject) -> None:
    heads = set()
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            ledger = open_ledger(
                "sqlite://",
                CATALOG,
                checkpoints=Path(folder, "c"),
                key_file=Path(folder, "k"),
                clock=FixedClock(),
                ids=CountedIds(),
            )
            start = 0
            while start < len(all_drafts):
                stop = start + data.draw(st.integers(1, len(all_drafts) - start))
                ledger.append(all_drafts[start:stop], actor=ANNA, project="default")
                start = stop
            heads.add((ledger.head(), ledger.checkpoint().root))
            ledger.close()
    assert len(heads) == 1


# Bytes


@given(bodies, texts)
def test_content_is_canonical_and_comes_back(body: FactBody, reason: str) -> None:
    said = Fact(0, "id", "count/1", 1, "p", ANNA, 1_767_225_600_000_000_001, reason, body)
    content = encode_content(said)
    assert content == canonical_json(msgspec.json.decode(content), wide=True)
    assert decode_fact(CATALOG, content) == said
    small = msgspec.structs.replace(said, time=1)
    assert encode_content(small) == rfc8785.dumps(msgspec.json.decode(encode_content(small)))


# The tree


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


@settings(max_examples=60)
@given(st.lists(st.integers(0, 5000), max_size=5))
@example([4096, 4096, 1])
@example([1, 4095, 8192])
@example([0])
def test_the_frontier_gives_the_trees_root(steps: list[int]) -> None:
    leaves = [hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(sum(steps))]
    frontier, done = Frontier(), 0
    for step in steps:
        frontier.extend(leaves[done : done + step])
        done += step
        frontier = Frontier.from_bytes(frontier.size, frontier.to_bytes())
    assert frontier.size == len(leaves)
    assert frontier.root() == naive_root(leaves)


# Tampering


class Original(NamedTuple):
    """A ledger that was closed properly, and what was kept outside."""

    file: Path
    checkpoints: tuple[Checkpoint, ...]
    facts: int


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """Forty facts; checkpoints over 10, 25 and all of them."""
    folder = tmp_path_factory.mktemp("original")
    ledger = opened(folder)
    count = 40
    for number in range(1, count + 1):
        body: FactBody = Added(amount=number, note=f"n{number}") if number % 3 else SetTo(value=number)
        ledger.append([Draft(f"count/{number % STREAMS}", body)], actor=ANNA, project="default", reason=f"r{number}")
        if number in {10, 25, count}:
            ledger.checkpoint()
    ledger.close()
    checkpoints = read_checkpoints(folder / "checkpoints.jsonl")
    assert [c.size for c in checkpoints] == [10, 25, 40]
    assert verify_copy(folder / "ledger.db", CATALOG, checkpoints).findings == ()
    return Original(folder / "ledger.db", checkpoints, count)


class Copy:
    """A copy, opened as an intruder would."""

    def __init__(self, original: Original, folder: Path) -> None:
        self.original = original
        self.file = folder / "copy.db"
        shutil.copy(original.file, self.file)
        self.db = sqlite3.connect(self.file, isolation_level=None)
        self.db.execute("PRAGMA synchronous = OFF")

    def row(self, position: int) -> tuple[bytes, bytes, str]:
        """prev, hash, content."""
        query = "SELECT prev, hash, content FROM facts WHERE position = ?"
        found: tuple[bytes, bytes, str] = self.db.execute(query, (position,)).fetchone()
        return found

    def edit(self, at: int, /, **columns: Any) -> None:
        """Overwrite columns of a row."""
        names = ", ".join(f"{name} = ?" for name in columns)
        self.db.execute(f"UPDATE facts SET {names} WHERE position = ?", (*columns.values(), at))

    def changed_content(self, position: int) -> str:
        """A content that says something else."""
        return self.row(position)[2].replace('"anna"', '"otto"').replace("user:anna", "user:otto")

    def rehash(self, first: int) -> None:
        """Make a consistent chain from here on, as somebody who knows how it is made would."""
        before = self.row(first)[0]
        rows = self.db.execute(
            "SELECT position, content FROM facts WHERE position >= ? ORDER BY position", (first,)
        ).fetchall()
        for position, content in rows:
            hash_ = hashlib.sha256(before + content.encode()).digest()
            self.edit(position, prev=before, hash=hash_)
            before = hash_

    def verified(self, checkpoints: Sequence[Checkpoint] | None = None) -> Verification:
        """What verification says, with everything that was kept outside."""
        self.db.close()
        return verify_copy(self.file, CATALOG, self.original.checkpoints if checkpoints is None else checkpoints)


@pytest.fixture
def copy(original: Original, tmp_path: Path) -> Copy:
    """One copy."""
    return Copy(original, tmp_path)


def chain_findings(seen: Verification) -> list[tuple[int, str]]:
    return [(f.position, f.problem) for f in seen.findings if f.problem != "view_differs"]


many = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
positions = st.integers(1, 40)


@many
@given(position=positions, column=st.sampled_from(["content", "hash", "prev", "content and hash"]))
def test_an_edited_row_is_named(original: Original, position: int, column: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(original, Path(folder))
        content, before = copy.changed_content(position), copy.row(position)[0]
        if column == "content":
            copy.edit(position, content=content)
        elif column == "content and hash":
            copy.edit(position, content=content, hash=hashlib.sha256(before + content.encode()).digest())
        else:
            copy.edit(position, **{column: b"x" * 32})
        # The last row with its hash has no successor to contradict it; what was signed does.
        last = position == original.facts and column == "content and hash"
        assert chain_findings(copy.verified()) == [(position, "rewritten" if last else "edited")]


@many
@given(position=positions, junk=st.sampled_from(["", "{}", "nonsense", "[1]", None]))
def test_junk_in_a_row_is_named(original: Original, position: int, junk: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(original, Path(folder))
        copy.db.execute("DROP INDEX facts_stream")
        for index in ("kind", "project", "actor"):
            copy.db.execute(f"DROP INDEX facts_{index}")
        for column in ("stream", "version", "kind", "project", "actor", "time"):
            copy.db.execute(f"ALTER TABLE facts DROP COLUMN {column}")  # these refuse what is no JSON
        if junk is None:
            copy.edit(position, hash="a text", prev=7)
        else:
            copy.edit(position, content=junk)
        assert chain_findings(copy.verified()) == [(position, "edited")]


@many
@given(first=positions, length=st.integers(1, 5), renumber=st.booleans())
def test_rows_taken_out_are_named(original: Original, first: int, length: int, renumber: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(original, Path(folder))
        last = min(first + length - 1, original.facts)
        copy.db.execute("DELETE FROM facts WHERE position BETWEEN ? AND ?", (first, last))
        if renumber:
            for position in range(last + 1, original.facts + 1):
                copy.edit(position, position=position - (last - first + 1))
        found = chain_findings(copy.verified())
        if last == original.facts:
            assert found == [(first, "truncated")]
        elif renumber:
            assert found == [(first, "missing"), (original.facts - (last - first), "truncated")]
        else:
            assert found == [(first, "missing")]


@many
@given(
    pair=st.tuples(positions, positions).filter(lambda p: p[0] != p[1]),
    columns=st.sampled_from([("position",), ("content",), ("content", "hash")]),
)
def test_swapped_rows_are_named(original: Original, pair: tuple[int, int], columns: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(original, Path(folder))
        one, two = pair
        if columns == ("position",):
            copy.edit(one, position=1000)
            copy.edit(two, position=one)
            copy.edit(1000, position=two)
        else:
            rows = {p: dict(zip(("prev", "hash", "content"), copy.row(p), strict=True)) for p in pair}
            copy.db.execute("DROP INDEX facts_stream")
            copy.edit(one, **{name: rows[two][name] for name in columns})
            copy.edit(two, **{name: rows[one][name] for name in columns})
        assert chain_findings(copy.verified()) == [(min(pair), "reordered"), (max(pair), "reordered")]


@many
@given(position=positions)
def test_a_history_rewritten_by_an_expert_is_found_at_the_next_checkpoint(original: Original, position: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(original, Path(folder))
        copy.edit(position, content=copy.changed_content(position))
        copy.rehash(position)
        copy.db.execute("DELETE FROM checkpoints WHERE size >= ?", (position,))
        signed = next(size for size in (10, 25, 40) if size >= position)
        assert chain_findings(copy.verified()) == [(signed, "rewritten")]


@many
@given(position=st.integers(11, 40))
def test_without_checkpoints_an_expert_is_not_found(original: Original, position: int) -> None:
    """This is what they are for."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(original, Path(folder))
        copy.edit(position, content=copy.changed_content(position))
        copy.rehash(position)
        copy.db.execute("DELETE FROM checkpoints")
        assert chain_findings(copy.verified(())) == []


@many
@given(kept=st.integers(0, 39))
def test_a_cut_end_is_named(original: Original, kept: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(original, Path(folder))
        copy.db.execute("DELETE FROM facts WHERE position > ?", (kept,))
        copy.db.execute("DELETE FROM checkpoints")
        assert chain_findings(copy.verified()) == [(kept + 1, "truncated")]


def test_a_checkpoint_by_another_key_is_not_believed(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = opened(tmp_path / "other")
    other.append([Draft("count/1", SetTo(value=1))], actor=ANNA, project="default")
    strange = other.checkpoint()
    other.close()
    values = msgspec.structs.asdict(strange) | {"frontier": b""}
    copy.db.execute(
        "INSERT INTO checkpoints (size, head, root, time, key_id, public_key, signature, frontier) VALUES"
        " (:size, :head, :root, :time, :key_id, :public_key, :signature, :frontier)",
        values,
    )
    assert chain_findings(copy.verified()) == [(1, "bad_signature")]


def test_a_forged_outside_checkpoint_is_named(copy: Copy) -> None:
    forged = msgspec.structs.replace(copy.original.checkpoints[1], root="00" * 32)
    assert (25, "bad_signature") in chain_findings(copy.verified([copy.original.checkpoints[2], forged]))


def test_a_ledger_full_of_holes_is_judged_in_time(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    for _ in range(6):
        batch = [Draft(f"count/{number % 7}", SetTo(value=number)) for number in range(1000)]
        ledger.append(batch, actor=ANNA, project="default")
    ledger.close()
    db = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    db.execute("BEGIN")
    db.execute("DELETE FROM facts WHERE position % 4 = 0")
    for position in range(1, 6000, 4):
        prev, content = db.execute("SELECT prev, content FROM facts WHERE position = ?", (position,)).fetchone()
        changed = content.replace("anna", "otto")
        hash_ = hashlib.sha256(prev + changed.encode()).digest()
        db.execute("UPDATE facts SET content = ?, hash = ? WHERE position = ?", (changed, hash_, position))
    db.execute("COMMIT")
    db.close()
    start = time.process_time()
    seen = verify_copy(tmp_path / "ledger.db", CATALOG)
    assert time.process_time() - start < 20
    chain = chain_findings(seen)
    assert len(seen.findings) == 1000
    assert chain[:4] == [(1, "edited"), (4, "missing"), (5, "edited"), (8, "missing")]


def test_several_things_at_once_are_all_named(copy: Copy) -> None:
    copy.edit(5, content=copy.changed_content(5))
    copy.db.execute("DELETE FROM facts WHERE position = 12")
    content, before = copy.changed_content(20), copy.row(20)[0]
    copy.edit(20, content=content, hash=hashlib.sha256(before + content.encode()).digest())
    copy.edit(30, position=1000)
    copy.edit(33, position=30)
    copy.edit(1000, position=33)
    copy.db.execute("UPDATE views SET state = '{}' WHERE view = 'counts' AND key = 'count/0'")
    seen = copy.verified()
    assert chain_findings(seen) == [
        (5, "edited"),
        (12, "missing"),
        (20, "edited"),
        (30, "reordered"),
        (33, "reordered"),
    ]
    assert "view_differs" in {f.problem for f in seen.findings}
