"""Routes and their rules."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from detent.api.schemas.common import In, ModelText, NameText, Out, time_of
from detent.gateway.model import Route, Target


class TargetIn(In):
    """Where a route may send a call."""

    provider: NameText
    model: ModelText
    weight: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class RouteIn(In):
    """A route's targets, in order."""

    targets: Annotated[list[TargetIn], Field(min_length=1, max_length=50)]

    @property
    def parsed(self) -> tuple[Target, ...]:
        """The domain's targets."""
        return tuple(Target(target.provider, target.model, target.weight) for target in self.targets)


class NewRouteIn(RouteIn):
    """A route to add."""

    name: NameText


class TargetOut(Out):
    """Where a route may send a call."""

    provider: str
    model: str
    weight: int


class RouteOut(Out):
    """A name that applications call, and where its calls go."""

    name: str
    targets: list[TargetOut]
    changed: str | None
    built_in: bool

    @classmethod
    def of(cls, route: Route) -> Self:
        """From the domain's route."""
        targets = [TargetOut(provider=t.provider, model=t.model, weight=t.weight) for t in route.targets]
        return cls(name=route.name, targets=targets, changed=time_of(route.changed), built_in=not route.changed)
