"""Which deployment a call is sent to, and who is next when that fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b
from math import ceil, inf, log
from typing import Final

from detent.gateway.model import Failure, Route
from detent.gateway.routing.health import Candidate

SPILL: Final = 1.25
"""How far above the mean load a deployment may be before calls spill from it (Mirrokni, Thorup and Zadimoghaddam,
"Consistent Hashing with Bounded Loads", SODA 2018)."""

PREFIX_BYTES: Final = 1024

_MASK: Final = 2**64 - 1


def prefix_key(messages: bytes) -> bytes:
    """What prefix affinity hashes: the beginning of the messages as JSON, where system prompt and tools stand."""
    return messages[:PREFIX_BYTES]


def order(
    rules: Route,
    candidates: Sequence[Candidate],
    *,
    now: float,
    draw: Callable[[], float],
    sticky_key: str = "",
    prefix_key: bytes = b"",
    streamed: bool = True,
    tokens: tuple[int, int] = (1000, 250),
    last_resort: bool = True,
) -> list[int]:
    """Indices of candidates to ask, the first choice first.

    Deployments that asked to be left alone are left out, and so are those whose breaker is open. When breakers alone
    leave nobody, the one that is closest to its probes is named nevertheless: begin it with `force`.

    Args:
        rules: the route.
        now: monotonic seconds.
        draw: gives numbers evenly from [0, 1).
        sticky_key: whose call it is (session or user), where the route is sticky. With the policy `ordered` it decides
            nothing, with `cheapest` among equals only: who asks for an order or a price gets it.
        prefix_key: the prompt's first part (`prefix_key`).
        streamed: whether a stream is asked for; latencies of streams and of whole answers are kept apart.
        tokens: expected input and output tokens, to compare prices by.
        last_resort: whether to name somebody in spite of open breakers; False where other routes are fallen back to.

    Returns:
        Nothing if nobody may be asked; see `soonest`.
    """
    if len(candidates) == 1:
        only = candidates[0]
        if now >= only.health.not_before and (not only.circuit.shut or last_resort or only.circuit.allows(now)):
            return [0]
        return []
    # `Candidate.allows`, spelt out: this runs for each of them in each call.
    able = [
        i
        for i, c in enumerate(candidates)
        if now >= c.health.not_before and (not c.circuit.shut or c.circuit.allows(now))
    ]
    if len(able) < 2:
        return able or (_last_resort(candidates, now) if last_resort else [])
    policy = rules.policy
    if policy == "ordered":
        return able
    if policy == "cheapest":
        return _cheapest(candidates, able, now, sticky_key, streamed, tokens)
    if sticky_key:
        return _ranked(candidates, able, sticky_key.encode())
    if policy == "weighted":
        return _weighted(candidates, able, draw)
    if policy == "least_latency":
        return _least_latency(candidates, able, now, draw, streamed)
    if not prefix_key:
        return _least_loaded(candidates, able, draw)
    return _bounded(candidates, _ranked(candidates, able, prefix_key))


def fallbacks(rules: Route, failures: Collection[Failure]) -> list[str]:
    """Names of the routes to go on with when no target answered, in order.

    Args:
        failures: the classes of all attempts' failures; `unavailable` for a target that was not even asked.
    """
    return [
        fallback.route for fallback in rules.fallbacks if not fallback.on or any(f in failures for f in fallback.on)
    ]


def _last_resort(candidates: Sequence[Candidate], now: float) -> list[int]:
    asked = [i for i, c in enumerate(candidates) if now >= c.health.not_before]
    return [min(asked, key=lambda i: candidates[i].circuit.retry_at)] if asked else []


def _weighted(candidates: Sequence[Candidate], able: list[int], draw: Callable[[], float]) -> list[int]:
    """A race of exponential clocks: who is first is drawn by weight, and so is who is next among those left."""
    races = []
    for i in able:
        weight = candidates[i].weight
        races.append((-log(1.0 - draw()) / weight if weight > 0 else inf, i))
    races.sort()
    return [i for _, i in races]


def _least_latency(
    candidates: Sequence[Candidate],
    able: list[int],
    now: float,
    draw: Callable[[], float],
    streamed: bool,  # noqa: FBT001
) -> list[int]:
    """The better of two drawn, again and again ("The Power of Two Choices", Mitzenmacher, 2001).

    Taking the best of all would send every call to the same one until its figures catch up.
    """
    left = able.copy()
    chosen = []
    while len(left) > 1:
        size = len(left)
        a = int(draw() * size)
        b = int(draw() * (size - 1))
        if b >= a:
            b += 1
        cost = candidates[left[a]].health.cost(now, streamed=streamed)
        other = candidates[left[b]].health.cost(now, streamed=streamed)
        chosen.append(left.pop(a if cost < other else b))
    return chosen + left


def _least_loaded(candidates: Sequence[Candidate], able: list[int], draw: Callable[[], float]) -> list[int]:
    loads = sorted((candidates[i].health.in_flight / max(candidates[i].weight, 1), draw(), i) for i in able)
    return [i for _, _, i in loads]


def _cheapest(
    candidates: Sequence[Candidate],
    able: list[int],
    now: float,
    sticky_key: str,
    streamed: bool,  # noqa: FBT001
    tokens: tuple[int, int],
) -> list[int]:
    """By price for the tokens expected; among equals by who is sticky, else by latency; unpriced ones last."""
    expected_in, expected_out = tokens
    key = _key(sticky_key.encode()) if sticky_key else 0
    bids = []
    for i in able:
        candidate = candidates[i]
        price = candidate.price
        cost: float = inf if price is None else price.input * expected_in + price.output * expected_out
        second = -_score(key, candidate) if sticky_key else candidate.health.cost(now, streamed=streamed)
        bids.append((cost, second, i))
    bids.sort()
    return [i for _, _, i in bids]


def _ranked(candidates: Sequence[Candidate], able: list[int], key: bytes) -> list[int]:
    """Weighted rendezvous hashing (Thaler and Ravishankar, 1998): every key has its own order of deployments.

    A deployment that comes takes its share from all others and moves no other key; one that goes gives its keys to
    all others; when it comes back it gets the same ones.
    """
    number = _key(key)
    scores = [(-_score(number, candidates[i]), i) for i in able]
    scores.sort()
    return [i for _, i in scores]


def _bounded(candidates: Sequence[Candidate], ranked: list[int]) -> list[int]:
    """Those that are not overloaded first, each in the key's own order."""
    flying = 1
    weights = 0
    for i in ranked:
        flying += candidates[i].health.in_flight
        weights += candidates[i].weight
    share = SPILL * flying / weights if weights else SPILL * flying
    over = [i for i in ranked if candidates[i].health.in_flight >= ceil(share * candidates[i].weight)]
    return [i for i in ranked if i not in over] + over if over else ranked


def _key(raw: bytes) -> int:
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "big")


def _score(key: int, candidate: Candidate) -> float:
    """A positive number drawn by key and deployment; the greatest wins, in proportion to the weights."""
    # The finaliser of MurmurHash3: each bit of key and seed changes half of the result's bits.
    x = key ^ candidate.seed
    x = ((x ^ (x >> 33)) * 0xFF51AFD7ED558CCD) & _MASK
    x = ((x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53) & _MASK
    x ^= x >> 33
    # 52 bits and a half: never 0 and never 1 as a float.
    return candidate.weight / -log(((x >> 12) + 0.5) / 2**52)
