"""What a configuration would have done with recorded calls. Pure: calls and prices come in, counts and sums go out.

Limits and budgets are replayed in the order of time, each from nothing at the first call. A route that chooses at
random is given its expected shares for counting and cost; where a rule needs one target of a call, it is drawn by the
call's own span id, so the same calls give the same answer.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from detent.gateway.model import EMBEDDED, EMBEDDED_MODEL, Budget, Key, Limit, Route, Target
from detent.gateway.planning.model import (
    Call,
    Configuration,
    DryRun,
    Example,
    Fate,
    LostAccess,
    Replayed,
    RuleEffect,
    TargetShare,
)
from detent.kernel.chat import Usage
from detent.kernel.clock import SECOND, day_of
from detent.kernel.money import Price
from detent.kernel.telemetry import Span

ANSWERED: Final = "answered"
NOT_FOUND: Final = "model_not_found"
EXAMPLES: Final = 10
PriceOf = Callable[[str, str], Price | None]
"""The price of a provider's model."""

ASSUMPTIONS: Final = (
    "Every call goes to the targets its policy prefers; failures, retries, fallbacks, hedges and caches are left out.",
    "Routes by latency or prefix share calls evenly among their targets.",
    "Calls have the tokens that were recorded, whatever target they go to.",
    "Limits and budgets count from the first call looked at; what was spent before is not known to them.",
)


def call_of(span: Span) -> Call | None:
    """The call that a span records; None for what is no call of the gateway, or is a copy for a shadow."""
    if not span.key_id or span.attributes.get("detent.shadow"):
        return None
    return Call(
        trace_id=span.trace_id,
        span_id=span.span_id,
        start=span.start,
        end=span.end,
        asked=span.route or span.request_model,
        key_id=span.key_id,
        user_id=span.user_id,
        usage=Usage(
            input_tokens=span.input_tokens,
            output_tokens=span.output_tokens,
            cached_input_tokens=span.cached_input_tokens,
            reasoning_tokens=span.reasoning_tokens,
        ),
        cost=span.cost,
    )


def dry_run(
    calls: Sequence[Call],
    before: Configuration,
    after: Configuration,
    *,
    prices: tuple[PriceOf, PriceOf],
    keys: Mapping[str, Key],
    since: int,
    until: int,
    complete: bool,
) -> DryRun:
    """Both configurations on the same calls, and what became of whom.

    Args:
        prices: of the one configuration and of the other.
        keys: those that still work, by id.
    """
    ordered = sorted(calls, key=lambda call: (call.start, call.span_id))
    was = replay(ordered, before, prices[0], keys)
    now = replay(ordered, after, prices[1], keys)
    return DryRun(
        since=since,
        until=until,
        calls=len(ordered),
        complete=complete,
        recorded_cost=sum(call.cost or 0 for call in ordered),
        before=was,
        after=now,
        lost=tuple(_lost(ordered, before, after, keys)),
        examples=tuple(_examples(ordered, was, now)),
        assumptions=ASSUMPTIONS,
    )


def replay(calls: Iterable[Call], configuration: Configuration, price: PriceOf, keys: Mapping[str, Key]) -> Replayed:
    """Calls, in the order of time, under one configuration."""
    routes = _routes(configuration)
    limits = [_LimitMeter(limit) for _name, limit in sorted(configuration.limits.items())]
    budgets = [_BudgetMeter(budget) for _name, budget in sorted(configuration.budgets.items())]
    fates: list[Fate] = []
    shares: defaultdict[tuple[str, str], float] = defaultdict(float)
    not_found: Counter[str] = Counter()
    cost = unpriced = 0
    for call in calls:
        route, key = routes.get(call.asked), keys.get(call.key_id)
        if route is None or not route.targets or (key is not None and key.routes and call.asked not in key.routes):
            not_found[call.asked] += 1
            fates.append(Fate(NOT_FOUND, None))
            continue
        chances = chances_of(route, call.usage, price)
        target = _drawn(chances, call)
        stopped = _stopped(call, target, limits, budgets)
        if stopped:
            fates.append(Fate(stopped, None))
            continue
        expected = _expected(chances, call.usage, price)
        for limit in limits:
            limit.take(call, target)
        for budget in budgets:
            budget.take(call, target, expected or 0)
        for chosen, share in chances:
            shares[route.name, str(chosen)] += share
        cost += expected or 0
        unpriced += expected is None
        fates.append(Fate(ANSWERED, expected))
    return Replayed(
        fates=tuple(fates),
        shares=tuple(TargetShare(route, target, round(count, 3)) for (route, target), count in sorted(shares.items())),
        limits=tuple(RuleEffect(name=meter.limit.name, refused=meter.refused) for meter in limits),
        budgets=tuple(
            RuleEffect(name=meter.budget.name, refused=meter.refused, spent=meter.most, alerts=meter.alerts())
            for meter in budgets
        ),
        not_found=dict(sorted(not_found.items())),
        refused=sum(meter.refused for meter in limits) + sum(meter.refused for meter in budgets),
        cost=cost,
        unpriced=unpriced,
    )


def chances_of(route: Route, usage: Usage, price: PriceOf) -> tuple[tuple[Target, float], ...]:
    """The targets that a call would be sent to first, each with its chance; the chances sum to one."""
    targets = route.targets
    if route.policy == "weighted":
        total = sum(target.weight for target in targets)
        return tuple((target, target.weight / total) for target in targets)
    if route.policy == "cheapest":
        return ((min(targets, key=lambda target: _cost_rank(target, usage, price)), 1.0),)
    if route.policy in {"least_latency", "prefix_affinity"}:
        return tuple((target, 1 / len(targets)) for target in targets)
    return ((targets[0], 1.0),)


def _cost_rank(target: Target, usage: Usage, price: PriceOf) -> tuple[bool, int]:
    found = price(target.provider, target.model)
    return (found is None, found.cost(usage) if found is not None else 0)


def _expected(chances: Sequence[tuple[Target, float]], usage: Usage, price: PriceOf) -> int | None:
    """The expected cost; None when a target that may be chosen has no price."""
    total = 0.0
    for target, share in chances:
        found = price(target.provider, target.model)
        if found is None:
            return None
        total += share * found.cost(usage)
    return round(total)


def _drawn(chances: Sequence[tuple[Target, float]], call: Call) -> Target:
    point = int(call.span_id[:8] or "0", 16) / 2**32
    for target, share in chances:
        point -= share
        if point < 0:
            return target
    return chances[-1][0]


def _routes(configuration: Configuration) -> dict[str, Route]:
    """The routes as the snapshot will hold them: with the built-in one, without targets that nobody serves."""
    built_in = Route(name=EMBEDDED_MODEL, project="", targets=(Target(EMBEDDED, EMBEDDED_MODEL),))
    served = {EMBEDDED, *configuration.providers}
    return {
        name: msgspec.structs.replace(route, targets=tuple(t for t in route.targets if t.provider in served))
        for name, route in {EMBEDDED_MODEL: built_in, **configuration.routes}.items()
    }


# Rules


def _subject(rule: Limit | Budget, call: Call, target: Target) -> str | None:
    """Whose count a call goes to; None when the rule does not concern it."""
    subject = {
        "project": "",
        "key": call.key_id,
        "user": call.user_id,
        "route": call.asked,
        "model": f"{target.provider}/{target.model}",
    }[rule.scope]
    if rule.scope == "user" and not subject:
        return None
    return subject if not rule.subject or rule.subject == subject else None


class _LimitMeter:
    """A limit's sliding windows, exact."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.refused = 0
        self._window: defaultdict[str, deque[tuple[int, int]]] = defaultdict(deque)
        self._used: defaultdict[str, int] = defaultdict(int)
        self._running: defaultdict[str, list[int]] = defaultdict(list)

    def full(self, call: Call, target: Target) -> bool:
        """Whether the call would be refused."""
        subject = _subject(self.limit, call, target)
        if subject is None:
            return False
        if self.limit.unit == "concurrency":
            running = self._running[subject]
            while running and running[0] <= call.start:
                heapq.heappop(running)
            return len(running) >= self.limit.amount
        window, horizon = self._window[subject], call.start - self.limit.window_seconds * SECOND
        while window and window[0][0] <= horizon:
            self._used[subject] -= window.popleft()[1]
        return self._used[subject] + self._weight(call) > self.limit.amount

    def take(self, call: Call, target: Target) -> None:
        """Count a call that was let through."""
        subject = _subject(self.limit, call, target)
        if subject is None:
            return
        if self.limit.unit == "concurrency":
            heapq.heappush(self._running[subject], call.end)
            return
        self._window[subject].append((call.start, self._weight(call)))
        self._used[subject] += self._weight(call)

    def _weight(self, call: Call) -> int:
        return 1 if self.limit.unit == "requests" else call.usage.total_tokens


class _BudgetMeter:
    """A budget's periods."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.refused = 0
        self.most = 0
        self._spent: defaultdict[tuple[str, str], int] = defaultdict(int)

    def spent_up(self, call: Call, target: Target) -> bool:
        """Whether the call would be refused."""
        subject = _subject(self.budget, call, target)
        if subject is None or not self.budget.hard:
            return False
        return self._spent[subject, self._period(call)] >= self.budget.amount

    def take(self, call: Call, target: Target, cost: int) -> None:
        """Count a call that was let through."""
        subject = _subject(self.budget, call, target)
        if subject is not None:
            place = subject, self._period(call)
            self._spent[place] += cost
            self.most = max(self.most, self._spent[place])

    def alerts(self) -> tuple[int, ...]:
        """The thresholds that somebody reached, in percent."""
        return tuple(percent for percent in self.budget.alerts if self.most * 100 >= self.budget.amount * percent)

    def _period(self, call: Call) -> str:
        return day_of(call.start)[: 10 if self.budget.period == "day" else 7]


def _stopped(call: Call, target: Target, limits: Iterable[_LimitMeter], budgets: Iterable[_BudgetMeter]) -> str:
    """The first rule that refuses a call; empty when none does."""
    for limit in limits:
        if limit.full(call, target):
            limit.refused += 1
            return f"limit:{limit.limit.name}"
    for budget in budgets:
        if budget.spent_up(call, target):
            budget.refused += 1
            return f"budget:{budget.budget.name}"
    return ""


# What became of whom


def _lost(
    calls: Iterable[Call], before: Configuration, after: Configuration, keys: Mapping[str, Key]
) -> Iterable[LostAccess]:
    gone = {name for name, route in _routes(before).items() if route.targets} - {
        name for name, route in _routes(after).items() if route.targets
    }
    made = Counter((call.key_id, call.asked) for call in calls)
    for key in sorted(keys.values(), key=lambda key: (key.name, key.id)):
        named = set(key.routes) if key.routes else {asked for caller, asked in made if caller == key.id}
        routes = tuple(sorted(named & gone))
        if routes:
            yield LostAccess(key.id, key.name, routes, sum(made[key.id, route] for route in routes))


def _examples(calls: Sequence[Call], was: Replayed, now: Replayed) -> list[Example]:
    """Of each way to be answered no more the first calls, then those that grow dearest."""
    stopped: defaultdict[str, list[Example]] = defaultdict(list)
    dearer: list[tuple[int, str, Example]] = []
    for call, old, new in zip(calls, was.fates, now.fates, strict=True):
        if old.outcome == new.outcome == ANSWERED:
            grown = (new.cost or 0) - (old.cost or 0)
            if grown > 0 and old.cost is not None:
                dearer.append((-grown, call.span_id, _example(call, old, new)))
        elif old.outcome == ANSWERED and len(stopped[new.outcome]) < 3:
            stopped[new.outcome].append(_example(call, old, new))
    found = [example for outcome in sorted(stopped) for example in stopped[outcome]]
    found += [example for _grown, _span, example in heapq.nsmallest(3, dearer, key=lambda entry: entry[:2])]
    return found[:EXAMPLES]


def _example(call: Call, old: Fate, new: Fate) -> Example:
    return Example(call.trace_id, call.asked, old.outcome, new.outcome, old.cost, new.cost)
