"""What limits stand where, as headers: OpenAI's, the IETF's draft, and our own for money.

`x-ratelimit-*-requests` and `-tokens` are of the limit with the least left in proportion, as clients of OpenAI's API
read them. `ratelimit-policy` and `ratelimit` (draft-ietf-httpapi-ratelimit-headers-11) name every limit: `q` and `r`
its quota and what remains, `w` and `t` the window and the seconds until all is free again if nothing more is asked for,
`qu` the unit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec

from detent.gateway.model import Budget, Limit
from detent.kernel.money import NANO

Headers = tuple[tuple[bytes, bytes], ...]
_STRING: Final = re.compile(r"[^ !#-\[\]-~]")
"""What no string of a structured field may hold unescaped (RFC 9651, section 3.3.3)."""

_UNITS: Final = {"requests": "requests", "tokens": "tokens", "concurrency": "concurrent-requests"}


class Standing(msgspec.Struct, frozen=True, gc=False):
    """A rule and what remains of it."""

    rule: Limit | Budget
    remaining: int


def headers_of(standings: Sequence[Standing]) -> Headers:
    """The headers for an answer."""
    policies: list[bytes] = []
    states: list[bytes] = []
    requests: tuple[float, Limit, int] | None = None
    tokens: tuple[float, Limit, int] | None = None
    money = -1
    for standing in standings:
        rule, remaining = standing.rule, standing.remaining
        if isinstance(rule, Budget):
            money = remaining if money < 0 else min(money, remaining)
            continue
        policy, before, after = _ietf(rule)
        policies.append(policy)
        states.append(b"%s%d%s" % (before, remaining, after))
        part = remaining / (rule.amount or 1)
        if rule.unit == "requests" and (requests is None or part < requests[0]):
            requests = part, rule, remaining
        elif rule.unit == "tokens" and (tokens is None or part < tokens[0]):
            tokens = part, rule, remaining
    found: list[tuple[bytes, bytes]] = []
    for tightest in (requests, tokens):
        if tightest is not None:
            limit, name, reset = _openai(tightest[1])
            found += (limit, (name, b"%d" % tightest[2]), reset)
    if policies:
        found.append((b"ratelimit-policy", b", ".join(policies)))
        found.append((b"ratelimit", b", ".join(states)))
    if money >= 0:
        found.append((b"x-detent-budget-remaining", b"%d.%09d" % divmod(money, NANO)))
    return tuple(found)


@lru_cache(1024)
def _openai(rule: Limit) -> tuple[tuple[bytes, bytes], bytes, tuple[bytes, bytes]]:
    unit = rule.unit.encode()
    return (
        (b"x-ratelimit-limit-" + unit, b"%d" % rule.amount),
        b"x-ratelimit-remaining-" + unit,
        (b"x-ratelimit-reset-" + unit, _duration(rule.window_seconds).encode()),
    )


@lru_cache(1024)
def _ietf(rule: Limit) -> tuple[bytes, bytes, bytes]:
    """Its policy, and what stands around the remainder in its state."""
    name = _STRING.sub("-", rule.name)
    window = f";w={rule.window_seconds}" if rule.unit != "concurrency" else ""
    policy = f'"{name}";q={rule.amount}{window};qu="{_UNITS[rule.unit]}"'
    after = f";t={rule.window_seconds}" if rule.unit != "concurrency" else ""
    return policy.encode(), f'"{name}";r='.encode(), after.encode()


def _duration(seconds: int) -> str:
    """As OpenAI writes one: `1s`, `6m0s`, `1h0m0s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"
