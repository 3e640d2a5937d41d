"""The route editor: change everything about a route, see what that does, then do it.

It is one form. What adds, moves and removes its rows, plans and applies are all buttons that send it, so it works
without scripts; with them only the part that changed is put in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Final, TypeVar, get_args

import msgspec

from detent.gateway.checks import MAX_FALLBACKS, MAX_TARGETS, ROUTE_RANGES
from detent.gateway.model import EMBEDDED, EMBEDDED_MODEL, Band, Route, Target
from detent.gateway.planning.document import read_document
from detent.gateway.planning.model import Configuration, DryRun, Plan, Replayed
from detent.gateway.planning.report import shown
from detent.kernel.clock import DAY
from detent.kernel.errors import CallerError, InvalidInput, NotFound
from detent.kernel.identity import Permission
from detent.kernel.money import write_usd
from detent.kernel.refs import check_name
from detent.web.page import Action, Goto, Outcome, Page, Stay
from detent.web.views.rules import FAILURES, POLICIES, POLICY_SENTENCES
from detent.web.visit import Form, Visit

NEW: Final = "-"
"""Stands in the path for a route that has no name yet; no name may be it."""

T = TypeVar("T")
_RANGES: Final = {path: (low, high) for path, low, high in ROUTE_RANGES}
_PLAIN: Final = Route(name="", project="", targets=())


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of a route's rules, as the form asks for it.

    Attributes:
        path: as in the document, and the form field's name.
        least, most: what it may be.
    """

    path: str
    label: str
    help: str = ""
    least: float
    most: float
    default: str


class FieldGroup(msgspec.Struct, frozen=True):
    """Figures that belong together."""

    name: str
    title: str
    lead: str
    fields: tuple[Field, ...]


def _field(path: str, label: str, help: str = "") -> Field:
    least, most = _RANGES[path]
    return Field(path=path, label=label, help=help, least=least, most=most, default=_figure(attrgetter(path)(_PLAIN)))


def _figure(value: float) -> str:
    return f"{value:.12g}"


GROUPS: Final = (
    FieldGroup(
        "retry",
        "Retries",
        "Tries of each target before the next is asked. A Retry-After is kept.",
        (
            _field("retry.attempts", "Tries of each target", "The first included."),
            _field("retry.backoff_ms", "First pause, ms", "Doubles; the true pause is drawn below it."),
            _field("retry.budget", "Budget, share of calls", "Keeps an outage from multiplying the load."),
        ),
    ),
    FieldGroup(
        "breaker",
        "Breaker",
        "When a deployment is left alone for a while. A share of 0 never opens it.",
        (
            _field("breaker.error_rate", "Share of failed calls"),
            _field("breaker.slow_rate", "Share of slow calls"),
            _field("breaker.slow_seconds", "Slow beyond, seconds", "To the first output."),
            _field("breaker.min_calls", "Calls at least"),
            _field("breaker.window_seconds", "Within, seconds"),
            _field("breaker.open_seconds", "Left alone for, seconds", "Doubles with each probe that fails."),
            _field("breaker.probes", "Good probes to close it"),
        ),
    ),
    FieldGroup(
        "hedge",
        "Hedge",
        "A second target is asked when the first is late. A quantile of 0 sends none.",
        (
            _field("hedge.quantile", "After which quantile", "Of the last minute's time to first output, e.g. 0.95."),
            _field("hedge.max_extra", "Share of calls at most"),
        ),
    ),
    FieldGroup(
        "timeouts",
        "Time-outs",
        "Seconds; 0 takes the installation's setting.",
        (
            _field("timeouts.connect", "To connect"),
            _field("timeouts.first_token", "To the first token"),
            _field("timeouts.idle", "Between tokens"),
            _field("timeouts.total", "In all"),
        ),
    ),
    FieldGroup(
        "queue",
        "Queue",
        "What happens to calls that a deployment has no room for.",
        (
            _field("queue.deadline_ms", "Wait at most, ms"),
            _field("queue.length", "Calls in line at most", "Per deployment and worker."),
            _field("queue.pace_ms", "Pace to keep, ms per token", "0 finds a number of calls at once by itself."),
        ),
    ),
    FieldGroup(
        "cache",
        "Cache",
        "Answers that are kept and given again within the project.",
        (
            _field("cache.ttl_seconds", "Good for, seconds"),
            _field("cache.threshold", "Least similarity", "Of a semantic hit."),
        ),
    ),
)
"""All figures of a route's rules."""

WORDS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "sticky": ("Calls keep to one target", {"": "no", "session": "of a session", "user": "of a user"}),
    "priority": ("Calls that name no band are", {band: band for band in get_args(Band)}),
    "queue.order": ("Served", {"newest_first": "newest first", "fifo": "oldest first"}),
    "cache.mode": ("Mode", {"off": "off", "exact": "exact", "semantic": "semantic"}),
}
"""Fields that take one of a few words: name to label, and word to what it is called."""


class EditorView(msgspec.Struct, frozen=True, kw_only=True):
    """The editor of a route; a name that none has yet begins a new one.

    Attributes:
        fields: what the form holds at first, by name.
        groups: the figures that it asks for.
        providers, models, routes: what can be chosen.
    """

    name: str
    new: bool
    builtin: bool
    fields: dict[str, str]
    groups: tuple[FieldGroup, ...]
    policies: dict[str, str]
    policy_sentences: dict[str, str]
    failures: dict[str, str]
    providers: tuple[str, ...]
    models: tuple[str, ...]
    routes: tuple[str, ...]

    @property
    def form(self) -> Form:
        """The form as it is at first."""
        return Form(tuple(self.fields.items()))


class PlannedField(msgspec.Struct, frozen=True):
    """A field that changes, in words."""

    field: str
    before: str
    after: str


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A plan as the page shows it.

    Attributes:
        digest: what applying it must name.
        calls, complete: recorded calls that were tried, and whether these are all of the last 24 hours.
        cost_before, cost_after: nano-dollars.
        moved: by target, expected calls before and after, where they differ.
    """

    digest: str
    changes: tuple[PlannedField, ...]
    others: int
    warnings: tuple[str, ...]
    tried: bool
    calls: int
    complete: bool
    cost_before: int
    cost_after: int
    unpriced: int
    answered: tuple[int, int]
    refused: tuple[int, int]
    not_found: tuple[int, int]
    moved: tuple[tuple[str, float, float], ...]
    lost: tuple[tuple[str, str, int], ...]
    examples: tuple[tuple[str, str, str], ...]
    assumptions: tuple[str, ...]


def view(visit: Visit) -> EditorView:
    """A route with all its rules as a form, to change it: first plan, then apply."""
    caller, gateway, name = visit.caller, visit.platform.gateway, visit.args["name"]
    every = {route.name: route for route in gateway.routes(caller)}
    route = every.get(name)
    if route is None and name != NEW:
        raise NotFound(f"There is no route '{name[:64]}'.", hint="Choose one from the list, or make a new one.")
    targets = {str(target) for other in every.values() for target in other.targets}
    targets |= {f"{entry.provider}/{entry.model}" for entry in gateway.prices(caller)}
    start = route or Route(name="", project="", targets=(Target("", ""),))
    return EditorView(
        name=name,
        new=route is None,
        builtin=route is not None and not route.changed,
        fields=fields_of(start),
        groups=GROUPS,
        policies=dict(POLICIES),
        policy_sentences=dict(POLICY_SENTENCES),
        failures=dict(FAILURES),
        providers=(EMBEDDED, *(provider.name for provider in gateway.providers(caller))),
        models=tuple(sorted(targets | {f"{EMBEDDED}/{EMBEDDED_MODEL}"})),
        routes=tuple(other for other in every if other != name),
    )


def fields_of(route: Route) -> dict[str, str]:
    """A route as the fields of the form."""
    fields = {"name": route.name, "policy": route.policy}
    for number, target in enumerate(route.targets):
        fields[f"target.{number}"] = str(target) if target.provider else ""
        fields[f"weight.{number}"] = str(target.weight)
    for number, fallback in enumerate(route.fallbacks):
        fields[f"fallback.{number}"] = fallback.route
        for failure in fallback.on:
            fields[f"on.{number}.{failure}"] = "1"
    for group in GROUPS:
        for field in group.fields:
            fields[field.path] = _figure(attrgetter(field.path)(route))
    for path in WORDS:
        fields[path] = attrgetter(path)(route)
    shadow = route.shadow
    fields["shadow.route"] = shadow.route if shadow else ""
    fields["shadow.share"] = _figure(shadow.share) if shadow else "1"
    fields["shadow.daily_usd"] = write_usd(shadow.daily_budget) if shadow and shadow.daily_budget else ""
    return fields


# The form


def read_form(form: Form) -> dict[str, Any]:
    """The route's entry in a configuration document.

    Raises:
        InvalidInput: a figure is none; names the field.
    """
    entry: dict[str, Any] = {
        "targets": [_target(form, number) for number in form.rows("target") if form.get(f"target.{number}")],
        "policy": form.get("policy") or "ordered",
        "fallbacks": [
            {"route": form.get(f"fallback.{number}"), "on": [f for f in FAILURES if form.get(f"on.{number}.{f}")]}
            for number in form.rows("fallback")
            if form.get(f"fallback.{number}")
        ],
    }
    for group in GROUPS:
        for field in group.fields:
            text = form.get(field.path) or field.default
            _put(entry, field.path, _number(text, field.path))
    for path in WORDS:
        _put(entry, path, form.get(path) or attrgetter(path)(_PLAIN))
    if form.get("shadow.route"):
        entry["shadow"] = {
            "route": form.get("shadow.route"),
            "share": _number(form.get("shadow.share") or "1", "shadow.share"),
            "daily_usd": form.get("shadow.daily_usd") or "0",
        }
    return entry


def _target(form: Form, number: int) -> dict[str, Any]:
    text, weight = form.get(f"target.{number}"), form.get(f"weight.{number}") or "1"
    provider, slash, model = text.partition("/")
    if not slash or not provider or not model:
        raise InvalidInput(
            f"'{text[:80]}' is no target.", hint="Use PROVIDER/MODEL, e.g. openai/gpt-4o-mini.", field="targets"
        )
    if not weight.isdecimal() or len(weight) > 9:
        raise InvalidInput(f"'{weight[:20]}' is no weight.", hint="Give 1 to 1000000.", field="targets")
    return {"provider": provider, "model": model, "weight": int(weight)}


def _number(text: str, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    least, most = _RANGES.get(field, (0.0, 1.0))
    if not least <= value <= most:
        raise InvalidInput(
            f"'{text[:20]}' cannot be {field}.", hint=f"Give a number from {least:g} to {most:.12g}.", field=field
        )
    return int(value) if value.is_integer() else value


def _put(entry: dict[str, Any], path: str, value: Any) -> None:
    head, _dot, rest = path.partition(".")
    if rest:
        entry.setdefault(head, {})[rest] = value
    else:
        entry[head] = value


def arranged(form: Form) -> Form:
    """The form after one of its rows was added, moved or removed, as the pressed button says."""
    verb, _colon, place = form.get("do").partition(":")
    kind, _dot, number = place.partition(".")
    rows: dict[str, list[dict[str, str]]] = {
        "target": [_row(form, n, ("target", "weight"), ()) for n in form.rows("target")],
        "fallback": [_row(form, n, ("fallback",), tuple(FAILURES)) for n in form.rows("fallback")],
    }
    if kind in rows:
        _rearrange(rows[kind], verb, int(number) if number.isdecimal() and len(number) < 4 else -1, kind)
    kept = [(name, value) for name, value in form.fields if name.partition(".")[0] not in _ROWS and name != "do"]
    for found in rows.values():
        for index, row in enumerate(found):
            for name, value in row.items():
                head, _dot, rest = name.partition(".")
                kept.append((f"{head}.{index}" + (f".{rest}" if rest else ""), value))
    return Form(tuple(kept))


_ROWS: Final = frozenset({"target", "weight", "fallback", "on"})


def _row(form: Form, number: int, names: tuple[str, ...], boxes: tuple[str, ...]) -> dict[str, str]:
    row = {name: form.get(f"{name}.{number}") for name in names}
    row.update({f"on.{box}": "1" for box in boxes if form.get(f"on.{number}.{box}")})
    return row


def _rearrange(rows: list[dict[str, str]], verb: str, at: int, kind: str) -> None:
    if verb == "add" and len(rows) < (MAX_TARGETS if kind == "target" else MAX_FALLBACKS):
        rows.append({"target": "", "weight": "1"} if kind == "target" else {"fallback": ""})
    elif verb == "remove" and 0 <= at < len(rows):
        del rows[at]
    elif verb in {"up", "down"} and 0 <= at < len(rows):
        to = at + (-1 if verb == "up" else 1)
        if 0 <= to < len(rows):
            rows[at], rows[to] = rows[to], rows[at]


# The verbs


def arrange(_visit: Visit, form: Form) -> Outcome:
    """Add, move or remove a row of the form; the focus goes with the row."""
    verb, _colon, place = form.get("do").partition(":")
    kind, _dot, number = place.partition(".")
    after = arranged(form)
    at = int(number) + {"up": -1, "down": 1}.get(verb, 0) if number.isdecimal() and len(number) < 4 else 0
    last = len(after.rows(kind)) - 1
    focus = f"{kind}.{last}" if verb == "add" else f"{verb}:{kind}.{min(max(at, 0), max(last, 0))}"
    return Stay({"focus": focus}, after)


def plan(visit: Visit, form: Form) -> Outcome:
    """Show what applying the form would change, and what it would have done with the last 24 hours' calls."""
    name, wanted = _wanted(visit, form)
    dry = visit.may(Permission.TRACES_READ) and visit.may(Permission.KEYS_READ)
    made = _at(
        name, lambda: visit.platform.planning.plan(visit.caller, wanted, keep=True, since=visit.now - DAY if dry else 0)
    )
    return Stay({"plan": planned(made, name)}, form)


def apply(visit: Visit, form: Form) -> Outcome:
    """Make the changes that were planned, exactly those."""
    name, wanted = _wanted(visit, form)
    if not form.get("expect"):
        raise InvalidInput("Nothing was planned.", hint="Plan first, look at it, then apply it.", field="expect")
    _at(
        name,
        lambda: visit.platform.planning.apply(
            visit.caller, wanted, expect=form.get("expect"), keep=True, reason=form.get("reason")[:200]
        ),
    )
    return Goto(f"/routes/{name}", "route-applied")


def _wanted(visit: Visit, form: Form) -> tuple[str, Configuration]:
    """The route's name, and a configuration that holds nothing but it."""
    name = visit.args["name"]
    if name == NEW:
        name = check_name(form.get("name"))
        if any(route.name == name and route.changed for route in visit.platform.gateway.routes(visit.caller)):
            raise InvalidInput(f"There is a route '{name}' already.", hint="Open it and edit that.", field="name")
    else:
        visit.platform.gateway.route(visit.caller, name)
    entry = read_form(form)
    return name, _at(name, lambda: read_document({"routes": {name: entry}}))


def _at(name: str, work: Callable[[], T]) -> T:
    """Do it; an error's field is told as the form has it."""
    try:
        return work()
    except CallerError as error:
        place = (error.field or "").removeprefix(f"routes.{name}").removeprefix(".")
        head = place.partition("[")[0]
        raise type(error)(error.message, hint=error.hint, field=head or None) from None


def planned(made: Plan, name: str) -> Planned:
    """A plan in the words of the page."""
    own = [change for change in made.changes if change.noun == "route" and change.name == name]
    run = made.dry_run
    return Planned(
        digest=made.digest,
        changes=tuple(
            PlannedField(
                field.field,
                "" if field.before is None else shown(field.before),
                "" if field.after is None else shown(field.after),
            )
            for change in own
            for field in change.fields
        ),
        others=len(made.changes) - len(own),
        warnings=made.warnings,
        tried=run is not None,
        calls=run.calls if run else 0,
        complete=run.complete if run else True,
        cost_before=run.before.cost if run else 0,
        cost_after=run.after.cost if run else 0,
        unpriced=run.after.unpriced if run else 0,
        answered=(_answered(run.before), _answered(run.after)) if run else (0, 0),
        refused=(run.before.refused, run.after.refused) if run else (0, 0),
        not_found=(sum(run.before.not_found.values()), sum(run.after.not_found.values())) if run else (0, 0),
        moved=tuple(_moved(run)) if run else (),
        lost=tuple((lost.name, ", ".join(lost.routes), lost.calls) for lost in run.lost) if run else (),
        examples=tuple((e.trace_id, e.before, e.after) for e in run.examples) if run else (),
        assumptions=run.assumptions if run else (),
    )


def _answered(replayed: Replayed) -> int:
    return sum(fate.outcome == "answered" for fate in replayed.fates)


def _moved(run: DryRun) -> Iterator[tuple[str, float, float]]:
    """Targets that would have got other calls than they do now."""
    before = {(share.route, share.target): share.calls for share in run.before.shares}
    after = {(share.route, share.target): share.calls for share in run.after.shares}
    for route, target in sorted({*before, *after}):
        was, now = before.get((route, target), 0.0), after.get((route, target), 0.0)
        if abs(was - now) >= 0.05:  # less is shown as the same
            yield f"{route} to {target}", was, now


PAGE = Page("/routes/{name}/edit", Permission.ROUTES_WRITE, "route_editor.html", view)
ACTIONS = (
    Action("/routes/{name}/arrange", Permission.ROUTES_WRITE, PAGE, arrange),
    Action("/routes/{name}/plan", Permission.ROUTES_WRITE, PAGE, plan),
    Action("/routes/{name}/apply", Permission.ROUTES_WRITE, PAGE, apply),
)
