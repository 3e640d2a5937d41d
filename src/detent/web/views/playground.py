"""The playground: send a call through a route by hand and see all of it, from the request to the span."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from detent.gateway.model import EMBEDDED_MODEL
from detent.kernel.errors import NotFound
from detent.kernel.identity import Permission
from detent.kernel.telemetry import Span
from detent.web.page import Page
from detent.web.visit import Visit

ROLES: Final = ("system", "user", "assistant")
RAW: Final = "json"
"""A turn that is written as the whole message's JSON: tool calls, images, names."""

_LONGEST: Final = 200_000
"""Characters of a recorded input that are taken over."""

_MODELS: Final = frozenset({"chat", "text_completion", "generate_content"})


class PlayTurn(msgspec.Struct, frozen=True):
    """A turn of the form: a role and its text, or `json` and the message as it is."""

    role: str
    text: str


class PlaygroundView(msgspec.Struct, frozen=True, kw_only=True):
    """The playground as it opens.

    Attributes:
        route: chosen at first.
        turns: the conversation at first; of a recorded call where the URL names one.
        more: further parameters, as JSON.
        source: the trace that it was taken from, empty for none.
        problem: why nothing could be taken from it.
    """

    routes: tuple[str, ...]
    route: str
    turns: tuple[PlayTurn, ...]
    temperature: str
    max_tokens: str
    more: str
    source: str
    problem: str
    gateway_url: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the lake knows of a call that the playground made.

    Attributes:
        found: whether its span is there yet.
        cost: nano-dollars; null when no price is known.
    """

    found: bool
    span_id: str = ""
    status: str = ""
    error_type: str = ""
    provider: str = ""
    model: str = ""
    duration: int = 0
    ttft: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    attempts: int = 0
    cost: int | None = None


def view(visit: Visit) -> PlaygroundView:
    """A form for a call by hand: a route, the turns, parameters; its answer streams in beside it."""
    caller = visit.caller
    names = (
        tuple(route.name for route in visit.platform.gateway.routes(caller))
        if caller.may(Permission.PROVIDERS_READ)
        else ()
    )
    span, problem = _recorded(visit)
    turns = _turns(span.input) if span else ()
    if span and not turns:
        problem = "The call holds no conversation that can be taken over."
    wanted = visit.get("route") or (span.route if span else "")
    attributes = span.attributes if span else {}
    more = {"top_p": attributes["gen_ai.request.top_p"]} if "gen_ai.request.top_p" in attributes else {}
    return PlaygroundView(
        routes=names,
        route=wanted if wanted in names else EMBEDDED_MODEL,
        turns=turns or (PlayTurn("system", ""), PlayTurn("user", "")),
        temperature=_figure(attributes.get("gen_ai.request.temperature")),
        max_tokens=_figure(attributes.get("gen_ai.request.max_tokens")),
        more=msgspec.json.encode(more).decode() if more else "",
        source=visit.get("trace") if span else "",
        problem=problem,
        gateway_url=visit.platform.status().gateway_url,
    )


def _recorded(visit: Visit) -> tuple[Span | None, str]:
    """The call that the URL names, and why it cannot be taken over when it cannot."""
    trace_id = visit.get("trace")
    if not trace_id:
        return None, ""
    if not visit.may(Permission.CONTENT_READ):
        return None, "Your role does not show what was said, so nothing was taken over."
    try:
        spans = visit.platform.traces.get(visit.caller, trace_id)
    except NotFound:
        return None, "There is no such trace any more."
    wanted = visit.get("span")
    chosen = next((span for span in spans if span.span_id == wanted), None) or next(
        (span for span in spans if span.input and span.operation in _MODELS), spans[0]
    )
    return (chosen, "") if chosen.input else (None, "No content was kept of that call.")


def _turns(recorded: str) -> tuple[PlayTurn, ...]:
    """A recorded input as turns; what is more than text is kept as the JSON that it was."""
    if len(recorded) > _LONGEST:
        return ()
    try:
        value = msgspec.json.decode(recorded.encode("utf-8", "replace"))
    except (msgspec.MsgspecError, RecursionError):
        return ()
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list) or not all(isinstance(m, dict) and m.get("role") for m in messages):
        return ()
    return tuple(_turn(message) for message in messages)


def _turn(message: dict[str, Any]) -> PlayTurn:
    role, content = message["role"], message.get("content")
    if set(message) == {"role", "content"} and role in ROLES and isinstance(content, str):
        return PlayTurn(role, content)
    return PlayTurn(RAW, msgspec.json.format(msgspec.json.encode(message), indent=2).decode())


def _figure(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else ""


def outcome(visit: Visit) -> Outcome:
    """The span of a call, as soon as it is in the lake."""
    visit.caller.require(Permission.TRACES_READ)
    try:
        spans = visit.platform.traces.get(visit.caller, visit.get("trace"))
    except NotFound:
        return Outcome(found=False)
    span = next((span for span in spans if span.span_id == visit.get("span")), None)
    if span is None:
        return Outcome(found=False)
    return Outcome(
        found=True,
        span_id=span.span_id,
        status=span.status,
        error_type=span.error_type,
        provider=span.provider,
        model=span.response_model or span.request_model,
        duration=span.duration,
        ttft=span.ttft,
        input_tokens=span.input_tokens,
        output_tokens=span.output_tokens,
        cached_input_tokens=span.cached_input_tokens,
        reasoning_tokens=span.reasoning_tokens,
        estimated=span.usage_estimated,
        attempts=span.attempts,
        cost=span.cost,
    )


PAGE = Page("/playground", Permission.GATEWAY_CALL, "playground.html", view)
