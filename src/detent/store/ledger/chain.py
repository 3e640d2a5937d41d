"""What is hashed: a fact's content as bytes, and the chain over them.

A fact's content is its canonical JSON (RFC 8785, with integers of up to 64 bits in full) of these members: actor, body,
body_version, id, kind, project, reason, stream, time, version. Its hash is SHA-256 over the 32 bytes of the hash before
(zeros for the first) followed by the content. Anyone can check it with a few lines in any language.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Any, Final, Literal, cast

import msgspec

from detent.kernel.canonical import canonical_json
from detent.kernel.errors import InvalidInput, StorageFailed
from detent.kernel.facts import Fact, FactBody, FactCatalog
from detent.kernel.identity import Actor

GENESIS: Final = bytes(32)
"""What stands for the hash before the first fact's."""

MAX_CONTENT: Final = 1024 * 1024
"""Bytes of one fact at most: what is larger is content, and content does not stand in facts."""

_ACTOR_KINDS: Final = frozenset({"user", "key", "operator", "system"})


class Content(msgspec.Struct, frozen=True):
    """The members that are hashed, in the order in which canonical JSON writes them."""

    actor: str
    body: FactBody
    body_version: int
    id: str
    kind: str
    project: str
    reason: str
    stream: str
    time: int
    version: int


class _Stored(msgspec.Struct, frozen=True):
    actor: str
    body: msgspec.Raw
    body_version: int
    id: str
    kind: str
    project: str
    reason: str
    stream: str
    time: int
    version: int


class Written(msgspec.Struct, frozen=True):
    """The part of a stored fact that the next one has to respect."""

    time: int


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(_Stored).decode
_decode_time = msgspec.json.Decoder(Written).decode


def encode_content(fact: Fact) -> bytes:
    """The bytes that are stored and hashed.

    Raises:
        InvalidInput: the body holds something that has no canonical JSON.
    """
    body = fact.body
    content = Content(
        f"{fact.actor.kind}:{fact.actor.id}",
        body,
        body.kind_version,
        fact.id,
        body.kind,
        fact.project,
        fact.reason,
        fact.stream,
        fact.time,
        fact.version,
    )
    try:
        data = _encode(content) if _is_plain(type(body)) else canonical_json(content, wide=True)
    except (UnicodeEncodeError, OverflowError, msgspec.ValidationError) as error:
        raise InvalidInput(f"A fact '{body.kind}' cannot be recorded: {error}.", hint="Send valid values.") from None
    if len(data) > MAX_CONTENT:
        raise InvalidInput(
            f"A fact '{body.kind}' would take {len(data):,} bytes; {MAX_CONTENT:,} is the limit.",
            hint="Keep large content in a blob and record its digest.",
        )
    if b"\\u0000" in data and _holds_nul(msgspec.json.decode(data)):
        raise InvalidInput(f"A fact '{body.kind}' holds a NUL character.", hint="Remove it.")
    return data


def decode_fact(catalog: FactCatalog, content: bytes | str, position: int = 0, hash: bytes = b"") -> Fact:
    """A stored fact with its body lifted to the current version.

    Raises:
        StorageFailed: it is not a fact, or of a kind or version that this Detent does not know.
    """
    try:
        stored = _decode(content)
        kind, _, actor = stored.actor.partition(":")
        if kind not in _ACTOR_KINDS:
            raise msgspec.ValidationError(f"no such actor: {kind}")
        body_type = catalog.bodies.get(stored.kind)
        if body_type is not None and body_type.kind_version == stored.body_version:
            body = msgspec.json.decode(stored.body, type=body_type)
        else:
            body = catalog.load(stored.kind, stored.body_version, msgspec.json.decode(stored.body))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageFailed(
            f"Fact {position or '(waiting)'} of the ledger cannot be read: {error}.",
            hint="Run `detent audit verify` to see what was changed.",
        ) from None
    return Fact(
        position,
        stored.id,
        stored.stream,
        stored.version,
        stored.project,
        Actor(cast("Literal['user', 'key', 'operator', 'system']", kind), actor),
        stored.time,
        stored.reason,
        body,
        hash.hex(),
    )


def time_of(content: bytes | str) -> int:
    """When a stored fact was recorded; 0 when that cannot be read."""
    try:
        return _decode_time(content).time
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0


def link(before: bytes, content: bytes) -> bytes:
    """The hash of a fact that follows the one with hash `before`."""
    return sha256(before + content).digest()


@cache
def _is_plain(body: type[FactBody]) -> bool:
    """Whether a plain encoder with sorted members writes the canonical form whatever the values are.

    It does where there are no floats (their text differs) and no free keys (their order may differ).
    """
    return _plain(msgspec.inspect.type_info(body), frozenset())


def _plain(kind: msgspec.inspect.Type, seen: frozenset[type]) -> bool:
    match kind:
        case (
            msgspec.inspect.IntType()
            | msgspec.inspect.StrType()
            | msgspec.inspect.BoolType()
            | msgspec.inspect.NoneType()
            | msgspec.inspect.EnumType()
            | msgspec.inspect.LiteralType()
        ):
            return True
        case msgspec.inspect.StructType() if not kind.array_like:
            inside = seen | {kind.cls}
            return kind.cls not in seen and all(
                field.encode_name.isascii() and _plain(field.type, inside) for field in kind.fields
            )
        case msgspec.inspect.ListType():
            return _plain(kind.item_type, seen)
        case msgspec.inspect.VarTupleType():
            return _plain(kind.item_type, seen)
        case msgspec.inspect.TupleType():
            return all(_plain(item, seen) for item in kind.item_types)
        case msgspec.inspect.UnionType():
            return all(_plain(item, seen) for item in kind.types)
        case _:
            return False


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _holds_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_holds_nul(item) for item in value)
