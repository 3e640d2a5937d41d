"""What is written down of a call: its span, its tokens, its money."""

from __future__ import annotations

from typing import Any

import msgspec

from detent.gateway.attempt import MAX_CONTENT, Attempt
from detent.gateway.cache import Answer
from detent.gateway.costing import usage_attributes
from detent.gateway.dialects.port import Asked
from detent.gateway.operations import Operation
from detent.gateway.snapshot import price_at
from detent.gateway.world import Way
from detent.kernel.chat import Usage
from detent.kernel.telemetry import Span, Status


class Origin(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a span belongs and whose it is.

    Attributes:
        start: ns since the epoch.
        session, user: as the application sent them.
        keep: whether texts are kept.
    """

    trace_id: str
    span_id: str
    parent_id: str
    start: int
    project: str
    key_id: str
    session: str
    user: str
    keep: bool


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How it ended.

    Attributes:
        elapsed, first: ns to the end, and to the first output.
        http_status: as the client saw it; 0 where none did.
        attributes: beside those that the request and the answer say.
    """

    elapsed: int
    status: Status
    error: str = ""
    http_status: int = 0
    attempts: int = 1
    first: int | None = None
    attributes: dict[str, Any] = {}


def bill(operation: Operation, asked: Asked | None, attempt: Attempt | None, now: int) -> tuple[Usage, int | None]:
    """What an attempt took, and what that costs in nano-dollars; None when nobody knows.

    Args:
        now: ns since the epoch; the price is the one that holds then.
    """
    if asked is None or attempt is None or not attempt.sent:
        return Usage(), 0
    usage = attempt.usage(asked.messages)
    price = price_at(attempt.deployment.target, now)
    if usage.total_tokens or usage.images:
        return usage, None if price is None else price.cost(usage)
    # Where text goes in, no tokens are no cost; else something was made, and nobody said how much of it.
    return usage, 0 if operation.by_tokens else None


def span_of(
    origin: Origin,
    operation: Operation,
    asked: Asked | None,
    way: Way | None,
    attempt: Attempt | None,
    billed: tuple[Usage, int | None],
    outcome: Outcome,
    kept: Answer | None = None,
) -> Span:
    """The span of a call, or of an attempt beside it (a lost hedge, a shadow copy).

    Args:
        kept: the answer from the cache that the client got instead of one of a provider's.
    """
    usage, cost = billed
    attributes: dict[str, Any] = {}
    content = output = user = ""
    if asked is not None:
        attributes = asked.parameters
        user = asked.user[:200]
        if origin.keep:
            messages = asked.messages
            if len(messages) <= MAX_CONTENT:
                content = messages.decode()
            else:
                attributes["detent.content_omitted_bytes"] = len(messages)
    provider = model = answered_id = answered_model = finish = ""
    if attempt is not None:
        provider, model = attempt.deployment.provider, attempt.deployment.model
        answer = attempt.stream or attempt.said
        if answer is not None:
            answered_id, answered_model, finish = answer.id, answer.model, answer.finish_reason
        output = attempt.output()
        if attempt.carrier.dropped:
            attributes["detent.dropped_fields"] = list(attempt.carrier.dropped)
    elif kept is not None:
        provider, model = kept.provider, kept.model
        answered_id, answered_model, finish = kept.response_id, kept.response_model, kept.finish_reason
        output = kept.output if origin.keep else ""
    elif asked is not None:
        model = asked.model
    if answered_id:
        attributes["gen_ai.response.id"] = answered_id
    attributes.update(usage_attributes(usage))
    attributes.update(outcome.attributes)
    return Span(
        trace_id=origin.trace_id,
        span_id=origin.span_id,
        parent_id=origin.parent_id,
        name=f"{operation.name} {way.name}" if way is not None else operation.name,
        start=origin.start,
        end=origin.start + outcome.elapsed,
        project=origin.project,
        operation=operation.name,
        status=outcome.status,
        error_type=outcome.error,
        provider=provider,
        request_model=model,
        response_model=answered_model,
        route=way.name if way is not None else "",
        key_id=origin.key_id,
        session_id=origin.session,
        user_id=origin.user or user,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        usage_estimated=usage.estimated,
        cost=cost,
        ttft=outcome.first,
        finish_reason=finish,
        stream=asked is not None and asked.stream,
        http_status=outcome.http_status,
        attempts=outcome.attempts,
        attributes=attributes,
        input=content,
        output=output,
    )
