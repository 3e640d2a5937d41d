"""The gateway as it stands now: its workers, the queue, and every deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import msgspec

from detent.app.status import Part
from detent.gateway.model import Band
from detent.kernel.identity import Permission
from detent.web.page import Page
from detent.web.table import Table
from detent.web.views.deployments import DeploymentLine, deployments, deployments_table, standing_of
from detent.web.visit import Visit


class GatewayView(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway's page. Figures of calls are those of the visitor's project.

    Attributes:
        parts: the gateway's processes.
        workers: that wrote down in the last seconds how they stand.
        waiting: calls in line, by band, the most urgent first.
        refused, shed: calls refused on arrival, and calls that waited in vain, since the workers began.
        trouble: deployments that get no calls now, or fail.
    """

    url: str
    parts: tuple[Part, ...]
    workers: int
    in_flight: int
    room: int
    waiting: dict[Band, int]
    oldest_wait: int
    refused: int
    shed: int
    requests: int
    cost: int
    unpriced: int
    trouble: int
    deployments: tuple[DeploymentLine, ...]

    @property
    def waits(self) -> int:
        """Calls in line, all bands."""
        return sum(self.waiting.values())


def view(visit: Visit) -> GatewayView:
    """How the gateway stands: calls in flight and in line, each deployment's health, latency, tokens and spend."""
    status = visit.platform.status()
    standing = standing_of(visit)
    lines = deployments(visit, standing, visit.platform.gateway.routes(visit.caller))
    return GatewayView(
        url=status.gateway_url,
        parts=tuple(part for part in status.parts if part.kind == "gateway"),
        workers=standing.workers,
        in_flight=sum(line.in_flight for line in lines),
        room=sum(line.limit or 0 for line in lines),
        waiting={band: sum(line.waiting.get(band, 0) for line in lines) for band in get_args(Band)},
        oldest_wait=max((line.oldest_wait for line in lines), default=0),
        refused=sum(line.refused for line in lines),
        shed=sum(line.shed for line in lines),
        requests=sum(line.today.requests for line in lines),
        cost=sum(line.today.cost for line in lines),
        unpriced=sum(line.today.unpriced for line in lines),
        trouble=sum(line.state in {"failing", "resting", "probing", "asked to wait"} for line in lines),
        deployments=lines,
    )


def tables(view: GatewayView) -> Mapping[str, Table]:
    """The deployments."""
    return {"deployments": deployments_table(view.deployments)}


PAGE = Page("/gateway", Permission.PROVIDERS_READ, "gateway.html", view, tables)
