"""Amazon's binary event streams (`application/vnd.amazon.eventstream`): whole messages out of any chunks.

A message is a prelude (its whole length, the length of its headers, a CRC-32 of these two), the headers, a payload, and
a CRC-32 of all before. Numbers are big-endian. Lengths are checked against bounds before anything is kept.

Source: https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple
from zlib import crc32

MAX_HEADERS: Final = 128 * 1024
MAX_PAYLOAD: Final = 24 * 1024 * 1024

_PRELUDE: Final = struct.Struct(">III")
_CRC: Final = struct.Struct(">I")
_SHORT: Final = struct.Struct(">H")
_LEAST: Final = 16
_STRING: Final = 7
_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type: booleans, integers, a timestamp, a UUID. Byte arrays (6) and strings (7) say
their length themselves."""
_BYTES: Final = 6


class Message(NamedTuple):
    """One message; of its headers those that are text."""

    raw: bytes
    headers: dict[str, str]
    payload: bytes


class Broken(ValueError):
    """The stream is damaged, or none of this kind. The text says how."""


class Messages:
    """Takes one stream apart."""

    __slots__ = ("_need", "_tail")

    def __init__(self) -> None:
        self._tail = bytearray()
        self._need = _PRELUDE.size

    def feed(self, data: bytes) -> tuple[list[Message], str]:
        """Take what was read: the messages that are whole now, and what is wrong behind them; empty for nothing.

        After a fault nothing more can be read.
        """
        self._tail += data
        found: list[Message] = []
        if len(self._tail) < self._need:  # a large message in small reads is not looked at again and again
            return found, ""
        view = memoryview(bytes(self._tail))
        at = 0
        fault = ""
        try:
            while len(view) - at >= (need := _length(view[at:])):
                found.append(_message(view[at : at + need]))
                at += need
            self._need = need
        except Broken as error:
            fault = str(error)
        del self._tail[:at]
        return found, fault


def _length(view: memoryview) -> int:
    """Bytes of the first message; of its prelude, while that is not whole."""
    if len(view) < _PRELUDE.size:
        return _PRELUDE.size
    total, length, check = _PRELUDE.unpack_from(view)
    if crc32(view[:8]) != check:
        raise Broken("the checksum of a prelude does not match")
    if length > MAX_HEADERS or not _LEAST + length <= total <= _LEAST + length + MAX_PAYLOAD:
        raise Broken("a length is out of bounds")
    return int(total)


def _message(view: memoryview) -> Message:
    raw = bytes(view)
    if crc32(view[:-4]) != _CRC.unpack_from(raw, len(raw) - 4)[0]:
        raise Broken("the checksum of a message does not match")
    end = _PRELUDE.size + _CRC.unpack_from(raw, 4)[0]
    return Message(raw, _headers(raw[_PRELUDE.size : end]), raw[end:-4])


def _headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            start = at + 1
            at = start + data[at]
            name = data[start:at].decode()
            kind = data[at]
            at += 1
            if kind in (_BYTES, _STRING):
                start = at + 2
                at = start + _SHORT.unpack_from(data, at)[0]
                if kind == _STRING:
                    found[name] = data[start:at].decode()
            else:
                at += _SIZES[kind]
    except (IndexError, KeyError, UnicodeDecodeError, struct.error):
        raise Broken("a header cannot be read") from None
    if at != len(data):
        raise Broken("a header is cut short")
    return found


def packed(headers: dict[str, str], payload: bytes) -> bytes:
    """A message of text headers and a payload: what a reader is tested with."""
    head = b"".join(
        bytes((len(name.encode()),))
        + name.encode()
        + bytes((_STRING,))
        + _SHORT.pack(len(value.encode()))
        + value.encode()
        for name, value in headers.items()
    )
    lengths = struct.pack(">II", _LEAST + len(head) + len(payload), len(head))
    body = lengths + _CRC.pack(crc32(lengths)) + head + payload
    return body + _CRC.pack(crc32(body))
