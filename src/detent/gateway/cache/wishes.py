"""What a client says about the cache, and what it is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from detent.gateway.cache.model import Looked, Wish
from detent.gateway.costing import CACHE
from detent.kernel.clock import SECOND
from detent.kernel.money import NANO

_ANY: Final = Wish()
_MODES: Final = {
    b"off": Wish(read=False, write=False),
    b"refresh": Wish(read=False),
    b"exact": Wish(semantic=False),
    b"semantic": Wish(),
}
_MAX_AGE: Final = re.compile(rb"max-age\s*=\s*\"?(\d{1,9})")


def wish_of(headers: Mapping[bytes, bytes]) -> Wish:
    """The wish that `x-detent-cache` or else `cache-control` (RFC 9111, section 5.2.1) says; unknown words say nothing.

    `no-cache` asks for a fresh answer, which may be kept; `no-store` keeps this one from being kept; `max-age=N` takes
    none that is older than N seconds.
    """
    mode = headers.get(b"x-detent-cache")
    if mode is not None:
        return _MODES.get(mode.strip().lower(), _ANY)
    control = headers.get(b"cache-control")
    if control is None:
        return _ANY
    said = control.lower()
    age = _MAX_AGE.search(said)
    seconds = int(age[1]) if age else 0
    return Wish(
        read=b"no-cache" not in said and not (age and not seconds),
        write=b"no-store" not in said,
        max_age=seconds * SECOND,
    )


def hit_headers(looked: Looked, now: int) -> list[tuple[bytes, bytes]]:
    """Headers that tell the client: hit or miss, and how old a hit is (RFC 9111, section 5.1)."""
    hit = looked.hit
    if hit is None:
        return [(b"x-detent-cache", b"miss")] if looked.used else []
    age = max(now - hit.stored, 0) // SECOND
    return [(b"x-detent-cache", b"hit-" + hit.kind.encode()), (b"age", str(age).encode())]


def hit_attributes(looked: Looked) -> dict[str, str | int | float]:
    """Attributes of the span: hit or miss, and what a hit saved."""
    hit = looked.hit
    if hit is None:
        return {CACHE: "miss"} if looked.used else {}
    usage = hit.saved_usage
    said: dict[str, str | int | float] = {
        CACHE: f"hit-{hit.kind}",
        "detent.cache.saved_input_tokens": usage.input_tokens,
        "detent.cache.saved_output_tokens": usage.output_tokens,
    }
    if hit.saved_cost is not None:
        said["detent.cache.saved_usd"] = hit.saved_cost / NANO
    if hit.kind == "semantic":
        said["detent.cache.similarity"] = round(hit.similarity, 4)
    return said
