"""The gateway's whole configuration: read it, plan a change of it, apply what was planned."""

from __future__ import annotations

from detent.api.border import Caller, ThePlatform, moment_of, nouns
from detent.api.schemas.planning import ApplyIn, ConfigurationIn, ConfigurationOut, PlanIn, PlanOut
from detent.app.http import needs
from detent.gateway.planning.document import parse_toml, placed, read_document, write_toml
from detent.gateway.planning.model import Configuration
from detent.kernel.errors import CallerError, InvalidInput
from detent.kernel.identity import Permission
from detent.kernel.secret import Secret

routes = nouns("gateway")


@routes.get("/gateway/configuration")
@needs(Permission.PROVIDERS_READ)
def read_configuration(caller: Caller, platform: ThePlatform) -> ConfigurationOut:
    """Providers, routes, limits, budgets and prices as one document, without secrets."""
    return ConfigurationOut(toml=write_toml(platform.planning.export(caller)))


@routes.post("/gateway/plan")
@needs(Permission.PROVIDERS_READ)
def plan(body: PlanIn, caller: Caller, platform: ThePlatform) -> PlanOut:
    """What applying a configuration would change; with `since` also what it would have done with recorded calls.

    Looking at traffic takes `traces:read` and `keys:read` as well, giving credentials `providers:write`.
    """
    since = moment_of(body.since, platform.clock.now(), field="since")
    made = platform.planning.plan(caller, _wanted(body), keep=body.keep, since=since, credentials=_credentials(body))
    return PlanOut.of(made)


@routes.post("/gateway/apply")
@needs(Permission.ROUTES_WRITE)
def apply(body: ApplyIn, caller: Caller, platform: ThePlatform) -> PlanOut:
    """Make all the changes of a plan in one step, or none; 409 when the plan is another one by now.

    Changes of providers take `providers:write` as well.
    """
    applied = platform.planning.apply(
        caller,
        _wanted(body),
        expect=body.expect,
        keep=body.keep,
        credentials=_credentials(body),
        reason=body.reason,
    )
    return PlanOut.of(applied)


def _wanted(body: ConfigurationIn) -> Configuration:
    if (body.toml is None) == (body.document is None):
        raise InvalidInput("A configuration is given once.", hint="Give either `toml` or `document`.", field="toml")
    try:
        return parse_toml(body.toml) if body.toml is not None else read_document(body.document or {})
    except CallerError as error:
        raise placed(error, "toml" if body.toml is not None else "document") from None


def _credentials(body: ConfigurationIn) -> dict[str, Secret]:
    return {name: Secret(credential) for name, credential in body.credentials.items() if credential}
