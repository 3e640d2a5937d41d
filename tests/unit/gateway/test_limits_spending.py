"""What people see of limits and budgets, which counters an installation has, and when a budget's alert is raised."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from detent.app.platform import Platform, open_platform
from detent.gateway.facts import BudgetAlerted, BudgetSet, LimitSet
from detent.gateway.limits import opening
from detent.gateway.limits.host import HostQuotas
from detent.gateway.limits.meter import Grant, Meter
from detent.gateway.limits.rules import Asked, period_of
from detent.gateway.limits.spending import Alerts, Spent
from detent.gateway.snapshot import load
from detent.kernel.clock import DAY, FixedClock, iso, parse_iso
from detent.kernel.errors import BadSettings, Forbidden
from detent.kernel.facts import Draft
from detent.kernel.identity import Actor, Principal, system
from detent.kernel.ports import Quotas
from detent.kernel.settings import Settings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def platform(home: Path, clock: FixedClock) -> Iterator[Platform]:
    with open_platform(Settings(home=str(home)), clock=clock) as opened:
        bodies = [
            BudgetSet(name="month", scope="project", amount=1000),
            BudgetSet(name="each", scope="user", amount=100, period="day", alerts=(100, 50), hard=False),
            LimitSet(name="rpm", scope="key", unit="requests", amount=10),
            LimitSet(name="slots", scope="route", subject="chat", unit="concurrency", amount=2),
        ]
        for body in bodies:
            noun = "budget" if isinstance(body, BudgetSet) else "limit"
            opened.ledger.append(
                [Draft(f"{noun}/default/{body.name}", body)], actor=system("test").actor, project="default"
            )
        opened.publish()
        yield opened


def spend(platform: Platform, clock: FixedClock, user: str, cost: int) -> Grant:
    """A call as a worker would account it."""
    meter = Meter(platform.quotas, clock=clock, sender="w")
    snapshot = load(platform.settings.folder / "snapshot")
    assert snapshot is not None
    meter.configure(snapshot.limits, snapshot.budgets)
    grant = meter.reserve_now(
        Asked(id=f"{user}{cost}", project="default", key="k1", user=user, route="chat", tokens=5, cost=cost)
    )
    assert grant is not None
    grant.settle(5, cost)
    return grant


def test_everything_is_there_before_the_first_call_and_each_subject_after_it(
    platform: Platform, clock: FixedClock
) -> None:
    begun = platform.spending.spent(system("test"))
    assert [(row.name, row.subject, row.used) for row in begun] == [("month", "", 0), ("slots", "chat", 0)]
    spend(platform, clock, "ann", 60)
    spend(platform, clock, "bob", 90)
    rows = platform.spending.spent(system("test"))
    assert rows[2] == Spent(
        kind="budget",
        name="month",
        scope="project",
        subject="",
        unit="money",
        used=150,
        held=0,
        limit=1000,
        period="month",
        resets=clock.now() + 31 * DAY,
    )
    assert [(row.name, row.subject, row.used, row.limit) for row in rows] == [
        ("each", "bob", 90, 100),
        ("each", "ann", 60, 100),
        ("month", "", 150, 1000),
        ("rpm", "k1", 2, 10),
        ("slots", "chat", 0, 2),
    ]


def test_whoever_may_not_see_the_configuration_sees_no_spending(platform: Platform) -> None:
    with pytest.raises(Forbidden):
        platform.spending.spent(Principal(Actor("user", "u"), "default", frozenset()))


def test_each_threshold_is_said_once_a_period_however_many_look(platform: Platform, clock: FixedClock) -> None:
    others = Alerts(platform.ledger, platform.quotas, clock=clock)
    assert platform.alerts.check() == ()
    spend(platform, clock, "ann", 60)
    (first,) = platform.alerts.check()
    assert isinstance(first.body, BudgetAlerted)
    assert (first.body.name, first.body.percent, first.body.period, first.body.spent) == ("each", 50, "2026-01-01", 60)
    assert first.body.subject.startswith("sha256:")
    assert "ann" not in str(first)
    assert others.check() == platform.alerts.check() == ()
    spend(platform, clock, "ann", 840)
    assert sorted((fact.body.name, fact.body.percent) for fact in others.check()) == [
        ("each", 100),
        ("month", 50),
        ("month", 80),
    ]
    assert platform.alerts.check() == ()
    clock.advance(DAY)
    spend(platform, clock, "ann", 50)
    assert [(fact.body.period, fact.body.percent) for fact in platform.alerts.check()] == [("2026-01-02", 50)]


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        ("2026-02-28T23:59:59Z", ("2026-02-28", "2026-03-01T00:00:00.000Z"), ("2026-02", "2026-03-01T00:00:00.000Z")),
        ("2026-12-01T00:00:00Z", ("2026-12-01", "2026-12-02T00:00:00.000Z"), ("2026-12", "2027-01-01T00:00:00.000Z")),
        ("2028-02-29T12:00:00Z", ("2028-02-29", "2028-03-01T00:00:00.000Z"), ("2028-02", "2028-03-01T00:00:00.000Z")),
    ],
)
def test_periods_are_days_and_months_of_utc(now: str, day: tuple[str, str], month: tuple[str, str]) -> None:
    at = parse_iso(now)
    for kind, expected in (("day", day), ("month", month)):
        period = period_of(kind, at)  # type: ignore[arg-type]
        assert (period.name, iso(period.ends)) == expected
        assert period.begins <= at < period.ends


# Which counters


def test_without_a_setting_the_host_counts(home: Path, clock: FixedClock) -> None:
    (home / "run").mkdir()
    quotas = opening.open_quotas("", home, clock=clock)
    assert isinstance(quotas, HostQuotas)
    assert (home / "run" / "quotas").stat().st_mode & 0o777 == 0o600
    quotas.close()


@pytest.mark.parametrize("url", ["mongodb://x", "redis", "nonsense"])
def test_a_scheme_that_nobody_serves_stops_the_start(
    url: str, home: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "entry_points", declared)
    with pytest.raises(BadSettings, match="none that counters") as refused:
        opening.open_quotas(url, home, clock=clock)
    assert "redis://" in refused.value.hint


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "redis", "rediss", "unix"])
def test_declared_schemes_open_without_reaching_anything(
    scheme: str, home: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "entry_points", declared)
    quotas: Quotas = opening.open_quotas(f"{scheme}://127.0.0.1:1/0", home, clock=clock)
    assert quotas.remote
    quotas.close()


def declared(*, group: str) -> EntryPoints:
    """The group as this checkout declares it, whatever is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [EntryPoint(name, value, group) for name, value in project["entry-points"][group].items()]
    for entry in found:
        assert callable(getattr(import_module(entry.module), entry.attr))
    return EntryPoints(found)
