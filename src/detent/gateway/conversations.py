"""State of the Responses API: what was said so far, by the id of the response that ended it.

A response is kept in one file with its own input and output and the id of the one before it, so a conversation of n
turns is n small files and not n²/2 copies. Files are written whole and moved into place, and named by a hash, so that
several workers may share the folder and no id can lead out of it. A conversation that goes on stays young as a whole.

The functions read and write files; on an event loop they belong in a thread.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from detent.gateway.dialects.responses import ResponsesAsked
from detent.gateway.errors import UnknownResponse
from detent.kernel.errors import InvalidInput, StorageFailed

TTL_SECONDS: Final = 30 * 24 * 3600
MAX_BYTES: Final = 2 * 1024**3
MAX_TURNS: Final = 2000
"""Responses that may stand in one row; a longer conversation has to be sent as input."""

MAX_CONVERSATION: Final = 64 * 1024**2
"""Bytes of one conversation that a request may go on from."""

_TOUCH: Final = 3600
_SWEEP: Final = 600
_FRESH: Final = ".new"
_RESPONSE: Final = "r"
_ITEM: Final = "i"
_ENCODER: Final = msgspec.json.Encoder()


class _Saved(msgspec.Struct):
    id: str
    project: str
    previous: str
    items: list[msgspec.Raw]
    response: msgspec.Raw


class _Reference(msgspec.Struct):
    item: str
    response: str


class _Output(msgspec.Struct):
    id: str
    output: list[msgspec.Raw]


class _Item(msgspec.Struct):
    type: str = ""
    id: str = ""
    role: str = ""
    content: Any = None
    status: str = ""


class Swept(NamedTuple):
    """What a sweep found: files removed because of their age or the bound, and what is left."""

    removed: int
    files: int
    size: int


_SAVED: Final = msgspec.json.Decoder(_Saved)
_OUTPUTS: Final = msgspec.json.Decoder(_Output)
_REFERENCES: Final = msgspec.json.Decoder(_Reference)


class Conversations:
    """Stored responses of all projects.

    Args:
        folder: where; made when the first response is saved.
        ttl: seconds without use after which a response is forgotten.
        max_bytes: of all files together; beyond it the longest unused go first.
    """

    def __init__(self, folder: Path, *, ttl: float = TTL_SECONDS, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._written = 0
        self._swept = 0.0
        self._count = 0

    def expand(self, project: str, asked: ResponsesAsked, *, now: float) -> None:
        """Put the conversation that a request goes on from before its input, and items where it only names them.

        Raises:
            UnknownResponse: the response, or one before it, is not stored in this project.
            InvalidInput: a named item is not stored, or the conversation is too long.
        """
        if asked.previous:
            turns = self._chain(project, asked.previous, now, "previous_response_id")
            asked.after([item for saved in turns for item in (*saved.items, *_output(saved))])
        items = asked.own_items()
        if any(b"item_reference" in bytes(item) or b'"type"' not in bytes(item) for item in items):
            known = {name: item for item in asked.earlier if (name := _id_of(item))}
            asked.with_input([self._looked_up(project, item, place, known, now) for place, item in enumerate(items)])

    def save(self, project: str, asked: ResponsesAsked, response: bytes, *, now: float) -> bool:
        """Keep a finished response, unless its request said not to; whether it was kept.

        Args:
            response: the response object as the client got it.

        Raises:
            StorageFailed: the disk is full or not writable.
        """
        if not asked.stores:
            return False
        try:
            found = _OUTPUTS.decode(response)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False  # an error in the form of an answer
        items = [_named(item, found.id, place) for place, item in enumerate(asked.own_items())]
        saved = _Saved(found.id, project, asked.previous, items, msgspec.Raw(response))
        try:
            self._write(self._path(project, _RESPONSE, found.id), _ENCODER.encode(saved), now)
            for item in found.output:
                if name := _id_of(item):
                    path = self._path(project, _ITEM, name)
                    self._write(path, _ENCODER.encode(_Reference(name, found.id)), now)
            if self._written > self._max_bytes // 16 or now - self._swept > _SWEEP:
                self.sweep(now=now)
        except OSError as error:
            raise StorageFailed(
                f"A response could not be stored: {error.strerror}.", hint="Free disk space, or send `store: false`."
            ) from None
        return True

    # The verbs of /v1/responses/{id}

    def get(self, project: str, id: str, *, now: float) -> bytes:
        """GET /v1/responses/{id}: the response object.

        Raises:
            UnknownResponse: it is not stored in this project.
        """
        return bytes(self._load(project, id, now, "response_id").response)

    def delete(self, project: str, id: str, *, now: float) -> bytes:
        """DELETE /v1/responses/{id}: forget it at once. A conversation that went on from it cannot go on further.

        Raises:
            UnknownResponse: it is not stored in this project.
        """
        saved = self._load(project, id, now, "response_id")
        for item in _output(saved):
            if name := _id_of(item):
                self._path(project, _ITEM, name).unlink(missing_ok=True)
        self._path(project, _RESPONSE, id).unlink(missing_ok=True)
        return _ENCODER.encode({"id": id, "object": "response", "deleted": True})

    def input_items(
        self,
        project: str,
        id: str,
        *,
        now: float,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str = "",
    ) -> bytes:
        """GET /v1/responses/{id}/input_items: the input, what came before in the conversation included.

        Args:
            limit: items on a page, 1 to 100.
            after: the last item of the page before.

        Raises:
            UnknownResponse: it is not stored in this project.
            InvalidInput: the limit or the item before is out of range.
        """
        if not 1 <= limit <= 100:
            raise InvalidInput("The limit must be from 1 to 100.", hint="Leave it out for 20.", field="limit")
        turns = self._chain(project, id, now, "response_id")
        items = [item for saved in turns[:-1] for item in (*saved.items, *_output(saved))] + turns[-1].items
        if order == "desc":
            items.reverse()
        names = [_id_of(item) for item in items]
        start = 0
        if after:
            if after not in names:
                raise InvalidInput("There is no such item.", hint="Take `last_id` of the page before.", field="after")
            start = names.index(after) + 1
        page = items[start : start + limit]
        return _ENCODER.encode(
            {
                "object": "list",
                "data": page,
                "first_id": names[start] if page else "",
                "last_id": names[start + len(page) - 1] if page else "",
                "has_more": start + limit < len(items),
            }
        )

    def sweep(self, *, now: float) -> Swept:
        """Forget what is too old, and the longest unused beyond the bound."""
        self._swept = now
        self._written = 0
        kept: list[tuple[float, int, str]] = []
        removed = size = 0
        for path, used, length in self._files():
            if path.endswith(_FRESH) and now - used < _TOUCH:  # being written, perhaps by another worker
                size += length
            elif now - used > self._ttl:
                removed += _unlink(path)
            else:
                kept.append((used, length, path))
                size += length
        kept.sort()
        for _, length, path in kept:
            if size <= self._max_bytes:
                break
            size -= length
            removed += _unlink(path)
        return Swept(removed, len(kept), size)

    # Files

    def _files(self) -> Iterator[tuple[str, float, int]]:
        """Path, time of last use and size of every file."""
        stack = [str(self._folder)]
        while stack:
            try:
                with os.scandir(stack.pop()) as found:
                    for entry in found:
                        if entry.is_dir(follow_symlinks=False):
                            stack.append(entry.path)
                            continue
                        state = entry.stat(follow_symlinks=False)
                        yield entry.path, state.st_mtime, state.st_size
            except FileNotFoundError:  # another worker sweeps too
                continue

    def _path(self, project: str, kind: str, id: str) -> Path:
        room = hashlib.sha256(project.encode(errors="surrogatepass")).hexdigest()[:32]
        name = hashlib.sha256(f"{kind}\0{id}".encode(errors="surrogatepass")).hexdigest()
        return self._folder / room / name[:2] / name

    def _write(self, path: Path, data: bytes, now: float) -> None:
        self._count += 1
        fresh = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.{id(self)}.{self._count}{_FRESH}")
        try:
            fresh.write_bytes(data)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh.write_bytes(data)
        fresh.chmod(0o600)
        os.utime(fresh, (now, now))
        fresh.replace(path)
        self._written += len(data)

    def _load(self, project: str, id: str, now: float, field: str) -> _Saved:
        path = self._path(project, _RESPONSE, id)
        try:
            used = path.stat().st_mtime
            saved = _SAVED.decode(path.read_bytes())
        except (OSError, msgspec.MsgspecError):
            raise _unknown(id, field) from None
        if saved.id != id or saved.project != project or now - used > self._ttl:
            raise _unknown(id, field)
        if now - used > _TOUCH:
            self._touch(path, now)
            for item in _output(saved):
                if name := _id_of(item):
                    self._touch(self._path(project, _ITEM, name), now)
        return saved

    def _touch(self, path: Path, now: float) -> None:
        try:
            os.utime(path, (now, now))
        except OSError:  # swept or deleted meanwhile
            return

    def _chain(self, project: str, id: str, now: float, field: str) -> list[_Saved]:
        """The responses of a conversation up to this one, oldest first."""
        found: list[_Saved] = []
        size = 0
        following = id
        while following:
            if len(found) == MAX_TURNS:
                raise InvalidInput(
                    f"The conversation is longer than {MAX_TURNS} responses.", hint="Send it as `input`.", field=field
                )
            saved = self._load(project, following, now, field)
            size += len(bytes(saved.response)) + sum(len(bytes(item)) for item in saved.items)
            if size > MAX_CONVERSATION:
                raise InvalidInput(
                    f"The conversation is larger than {MAX_CONVERSATION} bytes.",
                    hint="Begin a new one with what still matters.",
                    field=field,
                )
            found.append(saved)
            following = saved.previous
        found.reverse()
        return found

    def _looked_up(
        self, project: str, item: msgspec.Raw, place: int, known: dict[str, msgspec.Raw], now: float
    ) -> msgspec.Raw:
        found = _item(item)
        if found is None or found.type not in {"", "item_reference"} or found.role or not found.id:
            return item
        if found.id in known:
            return known[found.id]
        field = f"input.{place}.id"
        try:
            reference = _REFERENCES.decode(self._path(project, _ITEM, found.id).read_bytes())
        except (OSError, msgspec.MsgspecError):
            raise _unknown_item(found.id, field) from None
        saved = self._load(project, reference.response, now, field)
        for each in _output(saved):
            if _id_of(each) == found.id:
                return each
        raise _unknown_item(found.id, field)


def _unlink(path: str) -> int:
    try:
        os.unlink(path)  # noqa: PTH108  (many of them, and no use for an object each)
    except OSError:
        return 0
    return 1


def _output(saved: _Saved) -> list[msgspec.Raw]:
    return _OUTPUTS.decode(saved.response).output


def _item(item: msgspec.Raw) -> _Item | None:
    try:
        return msgspec.json.decode(item, type=_Item)
    except msgspec.MsgspecError:
        return None


def _id_of(item: msgspec.Raw) -> str:
    found = _item(item)
    return found.id if found is not None else ""


def _named(item: msgspec.Raw, response: str, place: int) -> msgspec.Raw:
    """An item of an input with an id and in full form, as it is listed later."""
    found = _item(item)
    if found is None or found.id:
        return item
    fields: dict[str, Any] = msgspec.json.decode(item)
    if found.role and not found.type:
        fields = {"type": "message", **fields}
    if isinstance(found.content, str):
        kind = "output_text" if found.role == "assistant" else "input_text"
        part: dict[str, Any] = {"type": kind, "text": found.content}
        if kind == "output_text":
            part["annotations"] = []
        fields["content"] = [part]
    suffix = response.removeprefix("resp_")
    fields = {"id": f"{'msg' if found.role else 'item'}_{suffix}_in{place}", "status": "completed", **fields}
    return msgspec.Raw(_ENCODER.encode(fields))


def _unknown(id: str, field: str) -> UnknownResponse:
    return UnknownResponse(
        f"Previous response with id '{id[:100]}' not found."
        if field == "previous_response_id"
        else f"Response with id '{id[:100]}' not found.",
        hint="It was never stored (`store: false`), was deleted, is too old, or belongs to another project.",
        field=field,
    )


def _unknown_item(id: str, field: str) -> UnknownResponse:
    return UnknownResponse(
        f"Item with id '{id[:100]}' not found.",
        hint="Send the item itself; items are known only of responses that were stored.",
        field=field,
    )
