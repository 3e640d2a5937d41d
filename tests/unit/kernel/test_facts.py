"""Facts, their catalog and upcasters."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from detent.kernel.errors import BugError, StorageFailed
from detent.kernel.facts import Draft, Fact, FactBody, FactCatalog, View, fact
from detent.kernel.identity import Actor


@fact("note.written", version=3, sealed_at_once=True)
class NoteWritten(FactBody, frozen=True, kw_only=True):
    """Version 1 had `msg`; version 2 called it `text`; version 3 counts words too."""

    text: str
    words: int


@fact("note.dropped")
class NoteDropped(FactBody, frozen=True, kw_only=True):
    """Gone."""


class Note(msgspec.Struct, frozen=True):
    text: str


def fold(note: Note | None, found: Fact) -> Note | None:
    return Note(found.body.text) if isinstance(found.body, NoteWritten) else None


NOTES = View("notes", Note, (NoteWritten, NoteDropped), fold)
UPCASTERS = {
    ("note.written", 1): lambda data: {"text": data["msg"]},
    ("note.written", 2): lambda data: {**data, "words": len(data["text"].split())},
}
CATALOG = FactCatalog((NoteWritten, NoteDropped), (NOTES,), UPCASTERS)


@pytest.mark.parametrize(
    ("version", "data"),
    [(1, {"msg": "two words"}), (2, {"text": "two words"}), (3, {"text": "two words", "words": 2})],
)
def test_every_version_is_lifted_to_the_current_one(version: int, data: dict[str, Any]) -> None:
    before = dict(data)
    assert CATALOG.load("note.written", version, data) == NoteWritten(text="two words", words=2)
    assert data == before


def test_what_a_newer_version_wrote_is_refused() -> None:
    for kind, version in (("note.written", 4), ("note.sung", 1)):
        with pytest.raises(StorageFailed, match=f"'{kind}' version {version}"):
            CATALOG.load(kind, version, {})


def test_a_missing_upcaster_is_our_bug() -> None:
    with pytest.raises(BugError, match=r"No upcaster lifts 'note\.written' from version 2"):
        FactCatalog((NoteWritten,)).load("note.written", 2, {})


@pytest.mark.parametrize("data", [{}, {"text": 1, "words": 1}, {"text": "a", "words": 1, "extra": 1}])
def test_a_damaged_body_is_named(data: dict[str, Any]) -> None:
    with pytest.raises(StorageFailed, match=r"'note\.written' version 3 cannot be read"):
        CATALOG.load("note.written", 3, data)


def test_views_by_kind() -> None:
    assert CATALOG.views_of("note.written") == (NOTES,)
    assert CATALOG.views_of("unknown") == ()
    found = Fact(1, "i", "note/1", 1, "default", Actor("system", "t"), 0, "", NoteWritten(text="a", words=1))
    assert (found.kind, NOTES.key(found), NOTES.fold(None, found)) == ("note.written", "note/1", Note("a"))


def test_a_kind_or_view_used_twice_is_our_bug() -> None:
    @fact("note.written")
    class Other(FactBody, frozen=True, kw_only=True):
        pass

    class Unnamed(FactBody, frozen=True, kw_only=True):
        pass

    with pytest.raises(BugError, match="missing or used twice"):
        FactCatalog((NoteWritten, Other))
    with pytest.raises(BugError, match="missing or used twice"):
        FactCatalog((Unnamed,))
    with pytest.raises(BugError, match="Two views share a name"):
        FactCatalog((NoteWritten,), (NOTES, NOTES))


def test_bodies_and_facts_are_frozen() -> None:
    body = NoteWritten(text="a", words=1)
    with pytest.raises(AttributeError):
        body.text = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Draft("note/1", body).stream = "x"  # type: ignore[misc]
    assert (NoteWritten.kind, NoteWritten.kind_version, NoteWritten.sealed_at_once) == ("note.written", 3, True)
    assert not NoteDropped.sealed_at_once
