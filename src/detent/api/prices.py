"""What models cost: a project's own prices by date, and past calls worked out anew."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from detent.api.border import Caller, Name, ThePlatform, moment_of, nouns
from detent.api.schemas.common import Page, ReasonText, Removed, TimeText
from detent.api.schemas.jobs import JobOut
from detent.api.schemas.models import PriceEntryOut, PriceIn, RecalculationIn
from detent.app.http import needs
from detent.app.recalculation import Range, start_recalculation
from detent.gateway.model import Target
from detent.gateway.prices import read_price
from detent.kernel.clock import parse_iso
from detent.kernel.errors import InvalidInput
from detent.kernel.identity import Permission
from detent.kernel.refs import check_name

routes = nouns("models")
ModelPath = Annotated[str, Path(min_length=1, max_length=200, description="The model's name there; may hold slashes.")]


@routes.get("/prices")
@needs(Permission.PROVIDERS_READ)
def list_prices(caller: Caller, platform: ThePlatform) -> Page[PriceEntryOut]:
    """The project's own prices: what holds now, and all of them by date."""
    now = platform.clock.now()
    return Page(items=[PriceEntryOut.of(entry, now=now) for entry in platform.gateway.prices(caller)])


@routes.put("/prices/{provider}/{model:path}")
@needs(Permission.ROUTES_WRITE)
def set_price(provider: Name, model: ModelPath, body: PriceIn, caller: Caller, platform: ThePlatform) -> PriceEntryOut:
    """Set the project's own price for a provider's model, from now on or from `effective` on.

    A date in the past changes no call that was recorded; a recalculation does.
    """
    target = Target(check_name(provider, field="provider"), model)
    saved = platform.gateway.set_price(
        caller,
        target,
        read_price(body.model_dump(exclude={"effective"})),
        effective=_date(body.effective) if body.effective else 0,
    )
    return PriceEntryOut.of(saved, now=platform.clock.now())


@routes.delete("/prices/{provider}/{model:path}")
@needs(Permission.ROUTES_WRITE)
def remove_price(
    provider: Name,
    model: ModelPath,
    caller: Caller,
    platform: ThePlatform,
    effective: Annotated[TimeText, Query(description="Only the price that begins then; all if empty.")] = "",
    reason: Annotated[ReasonText, Query()] = "",
) -> Removed:
    """Remove the project's own prices for a model, or the one of a date, as if they had not been set."""
    target = Target(check_name(provider, field="provider"), model)
    platform.gateway.remove_price(caller, target, effective=_date(effective) if effective else 0, reason=reason)
    return Removed(removed=f"{provider}/{model}")


@routes.post("/prices/recalculate", status_code=201)
@needs(Permission.ROUTES_WRITE)
def recalculate(body: RecalculationIn, caller: Caller, platform: ThePlatform) -> JobOut:
    """Queue a job that works out the cost of past calls anew, at the prices that held when they were made.

    Its result has the totals before and after in nano-dollars, by model. With `dry_run` it changes nothing.
    """
    now = platform.clock.now()
    wanted = Range(
        since=moment_of(body.since, now, field="since"),
        until=moment_of(body.until, now, field="until") or now,
        provider=body.provider,
        model=body.model,
        dry_run=body.dry_run,
    )
    return JobOut.of(start_recalculation(platform.jobs, caller, wanted))


def _date(text: str) -> int:
    """A date as it was given out: RFC 3339, to the millisecond."""
    try:
        return parse_iso(text)
    except ValueError:
        raise InvalidInput(f"'{text}' is no time.", hint="Give RFC 3339.", field="effective") from None
