"""Limits and budgets: how much may be asked for and spent, and how much of that is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, get_args
from urllib.parse import quote, urlencode

import msgspec

from detent.gateway.limits.spending import Spent
from detent.gateway.model import Budget, Limit, Period, Scope, Unit
from detent.kernel.errors import InvalidInput
from detent.kernel.identity import Permission
from detent.kernel.money import read_usd, write_usd
from detent.web.page import Action, Goto, Outcome, Page
from detent.web.table import Table
from detent.web.views.facts import names_of
from detent.web.views.usage import read_usage, unused
from detent.web.visit import Form, Visit
from detent.web.words import window

_SHOWN: Final = 5
"""Rows of one rule that the page shows, the fullest; the CSV has all."""

_WINDOW: Final = re.compile(r"(\d{1,9})\s*([smhd]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_EACH: Final[Mapping[Scope, str]] = {
    "project": "all calls of the project",
    "key": "each key",
    "user": "each user",
    "route": "each route",
    "model": "each deployment",
}
_BLANK: Final[Mapping[str, str]] = {"scope": "project", "period": "month", "alerts": "50, 80, 100", "hard": "1"}


class UsageLine(msgspec.Struct, frozen=True):
    """How far a rule is for one of those whom it counts by themselves."""

    spent: Spent
    who: str
    href: str


class RuleLine(msgspec.Struct, frozen=True, kw_only=True):
    """A limit or budget.

    Attributes:
        counts: whose calls, in words; `href` leads to them where it is one.
        says: what is allowed, in words.
        rows: how far it is, the fullest first; `more` are not shown.
    """

    kind: Literal["budget", "limit"]
    name: str
    scope: Scope
    subject: str
    counts: str
    href: str
    says: str
    hard: bool
    alerts: tuple[int, ...]
    rows: tuple[UsageLine, ...]
    more: int
    changed: int


class BudgetsView(msgspec.Struct, frozen=True, kw_only=True):
    """Both tables.

    Attributes:
        all: every row of use, for the CSV.
        problem: why nothing is known of what is used.
        editing: which form is open: of something new, or of what the URL names.
        fields: what that form holds at first.
        subjects: what there is to name, by scope.
    """

    budgets: tuple[RuleLine, ...]
    limits: tuple[RuleLine, ...]
    all: tuple[Spent, ...]
    problem: str
    editing: Literal["", "budget", "limit"]
    fields: dict[str, str]
    subjects: dict[str, tuple[str, ...]]

    @property
    def form(self) -> Form:
        """The open form as it is at first."""
        return Form(tuple(self.fields.items()))


def view(visit: Visit) -> BudgetsView:
    """Budgets and limits with what is used of each, when that comes back, and the forms to change them."""
    caller, gateway = visit.caller, visit.platform.gateway
    budgets, limits = gateway.budgets(caller), gateway.limits(caller)
    usage, names = read_usage(visit), names_of(visit)
    editing, fields = _form(visit)
    return BudgetsView(
        budgets=tuple(_line(rule, usage.rows, names, visit.now) for rule in budgets),
        limits=tuple(_line(rule, usage.rows, names, visit.now) for rule in limits),
        all=usage.rows,
        problem=usage.problem,
        editing=editing,
        fields=fields,
        subjects=_subjects(visit),
    )


def _line(rule: Budget | Limit, rows: tuple[Spent, ...], names: dict[str, str], now: int) -> RuleLine:
    kind: Literal["budget", "limit"] = "budget" if isinstance(rule, Budget) else "limit"
    own = [row for row in rows if row.kind == kind and row.name == rule.name]
    if not own and (rule.subject or rule.scope == "project"):
        own = [unused(rule, rule.subject, now)]
    lines = tuple(UsageLine(row, *_who(row.scope, row.subject, names)) for row in own)
    counts, href = _who(rule.scope, rule.subject, names) if rule.subject else (_EACH[rule.scope], "")
    return RuleLine(
        kind=kind,
        name=rule.name,
        scope=rule.scope,
        subject=rule.subject,
        counts=counts,
        href=href,
        says=_says(rule),
        hard=rule.hard if isinstance(rule, Budget) else True,
        alerts=rule.alerts if isinstance(rule, Budget) else (),
        rows=lines[:_SHOWN],
        more=max(len(lines) - _SHOWN, 0),
        changed=rule.changed,
    )


def _who(scope: Scope, subject: str, names: dict[str, str]) -> tuple[str, str]:
    """Whom a row counts, and the page that leads to them."""
    if scope == "project":
        return "", ""
    if not subject:
        return {"user": "calls that name no user", "key": "people's own calls"}.get(scope, "all others"), ""
    if subject.startswith("sha256:"):
        return subject[:15] + "…", ""
    if scope == "key":
        return names.get(f"key:{subject}", f"key {subject[-12:]}"), f"/keys/{quote(subject)}"
    if scope == "route":
        return subject, f"/routes/{quote(subject)}"
    if scope == "user":
        return names.get(subject, subject), "/traces?" + urlencode({"user": subject})
    provider, _slash, model = subject.partition("/")
    return subject, "/traces?" + urlencode({"provider": provider, "model": model})


def _says(rule: Budget | Limit) -> str:
    if isinstance(rule, Budget):
        return f"per {rule.period}"
    if rule.unit == "concurrency":
        return "at once"
    return f"in any {window(rule.window_seconds)}"


def _subjects(visit: Visit) -> dict[str, tuple[str, ...]]:
    caller, gateway = visit.caller, visit.platform.gateway
    keys = gateway.keys(caller) if caller.may(Permission.KEYS_READ) else ()
    routes = gateway.routes(caller)
    return {
        "key": tuple(key.name for key in keys if key.live(visit.now)),
        "route": tuple(route.name for route in routes),
        "model": tuple(sorted({str(target) for route in routes for target in route.targets})),
    }


# The forms


def _form(visit: Visit) -> tuple[Literal["", "budget", "limit"], dict[str, str]]:
    """Which form the URL opens, and what it holds: of something new, or of a rule that is to be changed."""
    gateway, caller = visit.platform.gateway, visit.caller
    if not visit.may(Permission.ROUTES_WRITE):
        return "", {}
    if name := visit.get("budget"):
        version, budget = gateway.version(caller.project, "budget", name), gateway.budget(caller, name)
        return "budget", {
            **_rule_fields(budget, version),
            "usd": write_usd(budget.amount),
            "period": budget.period,
            "alerts": ", ".join(map(str, budget.alerts)),
            "hard": "1" if budget.hard else "",
        }
    if name := visit.get("limit"):
        version, limit = gateway.version(caller.project, "limit", name), gateway.limit(caller, name)
        return "limit", {
            **_rule_fields(limit, version),
            "unit": limit.unit,
            "amount": str(limit.amount),
            "window_seconds": str(limit.window_seconds or 60),
        }
    new = visit.choice("new", ("budget", "limit"))
    start = {
        **_BLANK,
        "scope": visit.choice("scope", get_args(Scope), "project"),
        "subject": visit.get("subject")[:200],
    }
    return ("budget" if new == "budget" else "limit" if new == "limit" else ""), start


def _rule_fields(rule: Budget | Limit, version: int) -> dict[str, str]:
    return {
        "name": rule.name,
        "scope": rule.scope,
        "subject": rule.subject,
        "expected": str(version),
        "replace": "1",
    }


def _word(form: Form, name: str, allowed: tuple[str, ...]) -> str:
    value = form.get(name)
    if value not in allowed:
        raise InvalidInput(f"'{value[:40]}' is no {name}.", hint=f"Use one of: {', '.join(allowed)}.", field=name)
    return value


def _whole(text: str, field: str) -> int:
    plain = text.replace(",", "").replace("_", "").replace(" ", "")
    if not plain.isdecimal() or len(plain) > 16:
        raise InvalidInput(f"'{text[:40]}' is no whole number.", hint="Give one from 1.", field=field)
    return int(plain)


def _version(form: Form) -> int | None:
    text = form.get("expected")
    return int(text) if text.isdecimal() and len(text) < 10 else None


def set_budget(visit: Visit, form: Form) -> Outcome:
    """Add a budget, or change the one that the form was opened with."""
    alerts = [part for part in re.split(r"[,\s%]+", form.get("alerts")) if part]
    visit.platform.gateway.set_budget(
        visit.caller,
        form.get("name"),
        scope=_word(form, "scope", get_args(Scope)),  # type: ignore[arg-type]  # one of its words
        subject=form.get("subject"),
        amount=read_usd(form.get("usd"), field="usd"),
        period=_word(form, "period", get_args(Period)),  # type: ignore[arg-type]
        alerts=tuple(_whole(part, "alerts") for part in alerts),
        hard=form.flag("hard"),
        replace=form.flag("replace"),
        expected=_version(form) if form.flag("replace") else None,
    )
    return Goto("/budgets", "budget-set")


def set_limit(visit: Visit, form: Form) -> Outcome:
    """Add a limit, or change the one that the form was opened with."""
    asked = _WINDOW.fullmatch(form.get("window_seconds") or "60")
    if asked is None:
        raise InvalidInput("That is no window.", hint="Give seconds, or 1m, 1h, 1d.", field="window_seconds")
    visit.platform.gateway.set_limit(
        visit.caller,
        form.get("name"),
        scope=_word(form, "scope", get_args(Scope)),  # type: ignore[arg-type]  # one of its words
        subject=form.get("subject"),
        unit=_word(form, "unit", get_args(Unit)),  # type: ignore[arg-type]
        amount=_whole(form.get("amount"), "amount"),
        window_seconds=int(asked[1]) * _SECONDS[asked[2]],
        replace=form.flag("replace"),
        expected=_version(form) if form.flag("replace") else None,
    )
    return Goto("/budgets", "limit-set")


def remove_budget(visit: Visit, form: Form) -> Outcome:
    """Remove a budget."""
    visit.platform.gateway.remove_budget(visit.caller, visit.args["name"], reason=form.get("reason"))
    return Goto("/budgets", "budget-removed")


def remove_limit(visit: Visit, form: Form) -> Outcome:
    """Remove a limit."""
    visit.platform.gateway.remove_limit(visit.caller, visit.args["name"], reason=form.get("reason"))
    return Goto("/budgets", "limit-removed")


def tables(view: BudgetsView) -> Mapping[str, Table]:
    """What is used, one row for each whom a rule counts by themselves."""
    columns = ("name", "scope", "subject", "unit", "used", "held", "limit", "window_seconds", "period", "resets_ns")

    def of(kind: str) -> Table:
        return Table(
            columns,
            [
                (s.name, s.scope, s.subject, unit, s.used, s.held, s.limit, s.window_seconds, s.period, s.resets)
                for s in view.all
                if s.kind == kind
                for unit in ("nano_usd" if s.unit == "money" else s.unit,)
            ],
        )

    return {"budgets": of("budget"), "limits": of("limit")}


PAGE = Page("/budgets", Permission.PROVIDERS_READ, "budgets.html", view, tables)
ACTIONS = (
    Action("/budgets", Permission.ROUTES_WRITE, PAGE, set_budget),
    Action("/limits", Permission.ROUTES_WRITE, PAGE, set_limit),
    Action("/budgets/{name}/remove", Permission.ROUTES_WRITE, PAGE, remove_budget),
    Action("/limits/{name}/remove", Permission.ROUTES_WRITE, PAGE, remove_limit),
)
