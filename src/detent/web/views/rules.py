"""What a route's rules say, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from detent.gateway.model import Breaker, Hedge, Queue, Retry, Route, Timeouts
from detent.kernel.clock import SECOND
from detent.web.words import duration, money

POLICIES: Final = {
    "ordered": "In order",
    "weighted": "By weight",
    "least_latency": "Fastest first",
    "cheapest": "Cheapest first",
    "prefix_affinity": "By the prompt's beginning",
}
"""What each policy is called."""

POLICY_SENTENCES: Final = {
    "ordered": "The first target that is well gets the call; the others follow when it fails.",
    "weighted": "Calls are shared by weight; the other targets follow when the chosen one fails.",
    "least_latency": "The faster of two drawn targets gets the call, by what answered quickly of late.",
    "cheapest": "The cheapest target that is well gets the call.",
    "prefix_affinity": "Prompts that begin alike go to the same target, which has their beginning in its cache.",
}
FAILURES: Final = {
    "rate_limited": "rate limit",
    "unavailable": "not reachable",
    "timeout": "time-out",
    "bad_answer": "bad answer",
    "context_length": "prompt too long",
    "content_filter": "content filter",
}
"""What each class of failure is called."""


class Rule(msgspec.Struct, frozen=True):
    """A rule: what it is about, what it says, and whether it is other than the default."""

    about: str
    says: str
    set: bool


def rules_of(route: Route) -> tuple[Rule, ...]:
    """All of a route's rules, those that do nothing included."""
    return tuple(_rules(route))


def _rules(route: Route) -> Iterator[Rule]:
    yield Rule("Choice", POLICY_SENTENCES[route.policy], route.policy != "ordered")
    sticky = {"session": "Calls of a session", "user": "Calls of a user"}.get(route.sticky, "")
    yield Rule(
        "Stickiness", f"{sticky} keep to one target while it is well." if sticky else "None.", bool(route.sticky)
    )
    yield Rule("Retries", _retries(route.retry), route.retry != Retry())
    yield Rule("Breaker", _breaker(route.breaker), route.breaker != Breaker())
    yield Rule("Hedge", _hedge(route.hedge), bool(route.hedge.quantile))
    yield Rule("Time-outs", _timeouts(route.timeouts), route.timeouts != Timeouts())
    yield Rule("Queue", _queue(route.queue), route.queue != Queue())
    yield Rule("Priority", f"Calls that name no band are “{route.priority}”.", route.priority != "default")
    yield Rule("Cache", _cache(route), route.cache.mode != "off")


def short_rules(route: Route) -> tuple[str, ...]:
    """What is other than the default, in few words."""
    found = []
    if route.retry.attempts > 1:
        found.append(f"{route.retry.attempts} tries")
    if route.fallbacks:
        found.append(f"{len(route.fallbacks)} {'fallback' if len(route.fallbacks) == 1 else 'fallbacks'}")
    if route.hedge.quantile:
        found.append("hedge")
    if route.sticky:
        found.append(f"sticky by {route.sticky}")
    if route.shadow is not None:
        found.append("shadow")
    if route.cache.mode != "off":
        found.append(f"{route.cache.mode} cache")
    if route.priority != "default":
        found.append(route.priority)
    names = {"breaker": (route.breaker, Breaker()), "time-outs": (route.timeouts, Timeouts())}
    found += [name for name, (now, default) in names.items() if now != default]
    if route.queue != Queue():
        found.append("queue")
    return tuple(found)


def _retries(retry: Retry) -> str:
    if retry.attempts == 1:
        return "Each target is tried once."
    return (
        f"Each target is tried up to {retry.attempts} times, with pauses that begin below {retry.backoff_ms} ms and "
        f"double; at most {retry.budget:.0%} more calls than were made."
    )


def _breaker(rules: Breaker) -> str:
    reasons = []
    if rules.error_rate:
        reasons.append(f"{rules.error_rate:.0%} of calls fail")
    if rules.slow_rate and rules.slow_seconds:
        reasons.append(f"{rules.slow_rate:.0%} take over {_seconds(rules.slow_seconds)}")
    if not reasons:
        return "Never opens."
    return (
        f"A target is left alone for {_seconds(rules.open_seconds)} when {' or '.join(reasons)} within "
        f"{_seconds(rules.window_seconds)} (of {rules.min_calls} calls or more); "
        f"{rules.probes} good {'probe lets' if rules.probes == 1 else 'probes let'} calls through again."
    )


def _hedge(hedge: Hedge) -> str:
    if not hedge.quantile:
        return "None."
    return (
        f"A second target is asked when the first output is later than {hedge.quantile * 100:g}% of the last minute's, "
        f"for at most {hedge.max_extra:.0%} of calls."
    )


def _timeouts(timeouts: Timeouts) -> str:
    names = {"connect": "to connect", "first_token": "to the first token", "idle": "between tokens", "total": "in all"}
    said = [f"{_seconds(getattr(timeouts, name))} {words}" for name, words in names.items() if getattr(timeouts, name)]
    return ", ".join(said) + "." if said else "The installation's."


def _queue(queue: Queue) -> str:
    order = "newest first" if queue.order == "newest_first" else "oldest first"
    pace = f"; a deployment keeps {queue.pace_ms} ms per token" if queue.pace_ms else ""
    return (
        f"Up to {queue.length} calls wait per deployment and worker, {order}, "
        f"for {duration(queue.deadline_ms * 1_000_000)} at most{pace}."
    )


def _cache(route: Route) -> str:
    cache = route.cache
    if cache.mode == "off":
        return "Off."
    kept = f"Answers are given again for {duration(cache.ttl_seconds * SECOND)}"
    if cache.mode == "exact":
        return f"{kept} when the request is the same."
    return f"{kept} when the last message is alike (similarity {cache.threshold:g} or more)."


def fallback_words(on: tuple[str, ...]) -> str:
    """When a fallback is taken."""
    return "any failure" if not on else ", ".join(FAILURES[name] for name in on)


def shadow_words(share: float, daily_budget: int) -> str:
    """How much a shadow gets."""
    return f"{share:.0%} of calls, " + (f"{money(daily_budget)} a day at most" if daily_budget else "without a bound")


def _seconds(value: float) -> str:
    return duration(round(value * SECOND))
