"""A plan as JSON and in sentences: what every face shows of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from detent.gateway.planning.model import Change, DryRun, Plan, Replayed
from detent.kernel.clock import iso
from detent.kernel.money import NANO

_SIGNS: Final = {"added": "+", "changed": "~", "removed": "-"}


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan; times are RFC 3339, money USD."""
    return {
        "base": plan.base,
        "digest": plan.digest,
        "changes": [
            {
                "noun": change.noun,
                "name": change.name,
                "action": change.action,
                "fields": [
                    {"field": field.field, "before": field.before, "after": field.after} for field in change.fields
                ],
            }
            for change in plan.changes
        ],
        "warnings": list(plan.warnings),
        "dry_run": _dry_run_json(plan.dry_run) if plan.dry_run else None,
    }


def _dry_run_json(run: DryRun) -> dict[str, Any]:
    return {
        "since": iso(run.since),
        "until": iso(run.until),
        "calls": run.calls,
        "complete": run.complete,
        "recorded_cost_usd": run.recorded_cost / NANO,
        "before": _replayed_json(run.before),
        "after": _replayed_json(run.after),
        "keys_losing_access": [
            {"key_id": lost.key_id, "name": lost.name, "routes": list(lost.routes), "calls": lost.calls}
            for lost in run.lost
        ],
        "examples": [
            {
                "trace_id": example.trace_id,
                "asked": example.asked,
                "before": example.before,
                "after": example.after,
                "cost_before_usd": _usd(example.cost_before),
                "cost_after_usd": _usd(example.cost_after),
            }
            for example in run.examples
        ],
        "assumptions": list(run.assumptions),
    }


def _replayed_json(replayed: Replayed) -> dict[str, Any]:
    return {
        "answered": sum(fate.outcome == "answered" for fate in replayed.fates),
        "refused": replayed.refused,
        "not_found": replayed.not_found,
        "targets": [{"route": s.route, "target": s.target, "calls": s.calls} for s in replayed.shares],
        "limits": [{"name": rule.name, "refused": rule.refused} for rule in replayed.limits],
        "budgets": [
            {
                "name": rule.name,
                "refused": rule.refused,
                "most_spent_usd": rule.spent / NANO,
                "alerts": list(rule.alerts),
            }
            for rule in replayed.budgets
        ],
        "cost_usd": replayed.cost / NANO,
        "unpriced": replayed.unpriced,
    }


def _usd(nano: int | None) -> float | None:
    return None if nano is None else nano / NANO


# Sentences


def sign_of(change: Change) -> str:
    """`+` for what is added, `~` for what is changed, `-` for what is removed."""
    return _SIGNS[change.action]


def change_lines(change: Change) -> Iterator[str]:
    """A change as text, its fields below; each line says in words what happens."""
    yield f"{sign_of(change)} {change.noun} {change.name}: {change.action}"
    for field in change.fields:
        if change.action == "changed":
            yield f"    {field.field}: {shown(field.before)} -> {shown(field.after)}"
        elif change.action == "added":
            yield f"    {field.field}: {shown(field.after)}"


def summary(changes: Sequence[Change]) -> str:
    """How many of which, in a sentence."""
    if not changes:
        return "No changes: the configuration is as the document says."
    counts = [(action, sum(change.action == action for change in changes)) for action in _SIGNS]
    return ", ".join(f"{count} {action}" for action, count in counts if count) + "."


def shown(value: Any) -> str:
    """A field's value in a line."""
    if value is None:
        return "none"
    if value == "":
        return '""'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value) or "none"
    if isinstance(value, dict):
        if set(value) == {"route", "on"}:
            return f"{value['route']}" + (f" on {'|'.join(value['on'])}" if value["on"] else "")
        return " ".join(f"{name}={shown(item)}" for name, item in value.items())
    return str(value)
