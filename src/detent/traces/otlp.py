"""OTLP trace requests to spans: the meaning of attributes, by the GenAI conventions as they are and as they were.

Where one fact has several names, the current one wins and the others are taken out too. What has no field in `Span`
stays an attribute under its own name. Beside OpenTelemetry's own names, those of OpenLLMetry (`gen_ai.prompt.0.role`,
`traceloop.*`) and OpenInference (`llm.*`, `input.value`) are read, because much of what people run sends them.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
import orjson

from detent.kernel.errors import InvalidInput
from detent.kernel.telemetry import Batch, Span
from detent.traces.wire import RawSpan, Refused, decompress, read_json, read_protobuf

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"

_MAX_REASONS = 5
_LATEST = 2**63 - 1
_MAX_COUNT = 2**47
_NANO = 1_000_000_000

_TEXT: Final[dict[str, tuple[str, ...]]] = {
    "operation": ("gen_ai.operation.name", "llm.request.type", "traceloop.span.kind", "openinference.span.kind"),
    "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"),
    "request_model": ("gen_ai.request.model", "llm.request.model", "llm.model_name"),
    "response_model": ("gen_ai.response.model", "llm.response.model"),
    "session_id": ("session.id", "gen_ai.conversation.id", "traceloop.association.properties.session_id"),
    "user_id": ("user.id", "enduser.id", "traceloop.association.properties.user_id"),
    "error_type": ("error.type", "exception.type"),
    "route": ("detent.route",),
    "release": ("detent.release",),
}
_COUNTS: Final[dict[str, tuple[str, ...]]] = {
    "input_tokens": (
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.usage.prompt_tokens",
        "llm.token_count.prompt",
    ),
    "output_tokens": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.usage.completion_tokens",
        "llm.token_count.completion",
    ),
    "cached_input_tokens": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "reasoning_tokens": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
    "http_status": ("http.response.status_code", "http.status_code"),
    "attempts": ("detent.attempts",),
}
_FINISH: Final = ("gen_ai.response.finish_reasons", "gen_ai.response.finish_reason", "llm.response.finish_reason")
_DOLLARS: Final = ("gen_ai.usage.cost", "llm.cost.total")
_STREAM: Final = ("gen_ai.request.stream", "llm.is_streaming")
_INPUT: Final = ("gen_ai.input.messages", "gen_ai.prompt", "traceloop.entity.input", "input.value")
_OUTPUT: Final = ("gen_ai.output.messages", "gen_ai.completion", "traceloop.entity.output", "output.value")
_INPUT_PARTS: Final = re.compile(r"(?:gen_ai\.prompt|llm\.input_messages)\.(\d{1,4})\.(?:message\.)?(.+)")
_OUTPUT_PARTS: Final = re.compile(r"(?:gen_ai\.completion|llm\.output_messages)\.(\d{1,4})\.(?:message\.)?(.+)")
_PARTED: Final = ("gen_ai.prompt.0.", "gen_ai.completion.0.", "llm.input_messages.0.", "llm.output_messages.0.")

_OPERATIONS: Final = {
    "completion": "text_completion",
    "embedding": "embeddings",
    "tool": "execute_tool",
    "agent": "invoke_agent",
    "llm": "chat",
    "workflow": "invoke_workflow",
}
"""Older words for an operation and the ones that are used now."""

_MESSAGE_EVENTS: Final = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
_CONTENT_EVENTS: Final = {
    "gen_ai.content.prompt",
    "gen_ai.content.completion",
    "gen_ai.client.inference.operation.details",
}


class OtlpBatch(msgspec.Struct, frozen=True):
    """What could be read of a request: the spans, and how many were refused and why."""

    batch: Batch
    rejected: int
    reasons: tuple[str, ...]


def read_otlp(body: bytes, content_type: str, *, project: str, content_encoding: str = "") -> OtlpBatch:
    """Read an ExportTraceServiceRequest; a span that is invalid is refused alone.

    Raises:
        InvalidInput: the body as a whole cannot be read.
        TooLarge: it is over the limit, compressed or not.
    """
    data = decompress(body, content_encoding)
    kind = _kind(content_type)
    spans: list[Span] = []
    reasons: list[str] = []
    rejected = 0
    for raw in read_protobuf(data) if kind == PROTOBUF else read_json(data):
        try:
            if isinstance(raw, Refused):
                raise InvalidInput(raw.reason)
            spans.append(_span(raw, project))
        except InvalidInput as error:
            rejected += 1
            if error.message not in reasons and len(reasons) < _MAX_REASONS:
                reasons.append(error.message)
    return OtlpBatch(Batch(tuple(spans)), rejected, tuple(reasons))


def otlp_response(content_type: str, *, rejected: int = 0, message: str = "") -> bytes:
    """The ExportTraceServiceResponse in the encoding of the request."""
    if _kind(content_type) == JSON:
        partial = {"rejectedSpans": str(rejected), "errorMessage": message}
        return orjson.dumps({"partialSuccess": partial} if rejected or message else {})
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    response = ExportTraceServiceResponse()
    if rejected or message:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = message
    return bytes(response.SerializeToString())


def _kind(content_type: str) -> str:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in {PROTOBUF, "application/protobuf", JSON}:
        raise InvalidInput(f"The content type {kind!r} is not OTLP.", hint=f"Send {PROTOBUF} or {JSON}.")
    return JSON if kind == JSON else PROTOBUF


def _span(raw: RawSpan, project: str) -> Span:
    _check(raw)
    left = {**raw.shared, **raw.attributes}
    events = _fold_events(raw.events, left)
    fields: dict[str, Any] = {}
    for field, names in _TEXT.items():
        value = _first(left, names, _is_text)
        if value:
            fields[field] = value
    for field, names in _COUNTS.items():
        value = _first(left, names, _is_count)
        if value is not None:
            fields[field] = int(value)
    if "operation" in fields:
        operation = fields["operation"].lower()
        fields["operation"] = _OPERATIONS.get(operation, operation)
    failed = raw.failed or bool(fields.get("error_type"))
    if left.get("detent.status") == "cancelled":
        del left["detent.status"]
        fields["status"] = "cancelled"
    elif failed:
        fields["status"] = "error"
    _put_rest(raw, left, events)
    return Span(
        trace_id=raw.trace_id,
        span_id=raw.span_id,
        parent_id=raw.parent_id if raw.parent_id.strip("0") else "",
        project=project,
        name=raw.name or fields.get("operation") or "unnamed",
        start=raw.start,
        end=raw.end,
        cost=_cost(left),
        ttft=_ttft(left),
        stream=bool(_first(left, _STREAM, _is_flag)),
        finish_reason=_finish_reason(left),
        input=_content(left, _INPUT, _INPUT_PARTS, system=True),
        output=_content(left, _OUTPUT, _OUTPUT_PARTS, system=False),
        attributes=left,
        **fields,
    )


def _check(raw: RawSpan) -> None:
    for text, size, name in ((raw.trace_id, 32, "trace id"), (raw.span_id, 16, "span id")):
        if len(text) != size or not _is_hex(text) or not text.strip("0"):
            raise InvalidInput(f"A {name} is {size // 2} bytes, not all 0.")
    if raw.parent_id and (len(raw.parent_id) != 16 or not _is_hex(raw.parent_id)):
        raise InvalidInput("A parent span id is 8 bytes.")
    if not 0 < raw.start <= _LATEST or not 0 <= raw.end <= _LATEST:
        raise InvalidInput("A span's times are nanoseconds since 1970.")


_HEX = re.compile(r"[0-9a-f]+")


def _is_hex(text: str) -> bool:
    return _HEX.fullmatch(text) is not None


# Values


def _first(left: dict[str, Any], names: tuple[str, ...], fits: Any) -> Any:
    """The value under the first of the names that has a fitting one; all fitting ones are taken out."""
    found = None
    for name in names:
        if name in left and fits(left[name]):
            value = left.pop(name)
            found = value if found is None else found
    return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1024


def _is_count(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() and value.isdigit() and len(value) <= 14
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < _MAX_COUNT and value == int(value)


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MAX_COUNT / _NANO


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _cost(left: dict[str, Any]) -> int | None:
    nano = _first(left, ("detent.cost",), _is_count)
    dollars = _first(left, _DOLLARS, _is_amount)
    if nano is not None:
        return int(nano)
    return None if dollars is None else round(dollars * _NANO)


def _ttft(left: dict[str, Any]) -> int | None:
    nano = _first(left, ("detent.ttft",), _is_count)
    seconds = _first(left, ("gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token"), _is_amount)
    if nano is not None:
        return int(nano)
    return None if seconds is None else round(seconds * _NANO)


def _finish_reason(left: dict[str, Any]) -> str:
    value = _first(left, _FINISH, lambda found: isinstance(found, str | list))
    if isinstance(value, str) and value.startswith("["):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return str(value)[:200]
    if isinstance(value, list):
        return next((item[:200] for item in value if isinstance(item, str)), "")
    return value[:200] if value else ""


# Content


def _content(left: dict[str, Any], names: tuple[str, ...], parts: re.Pattern[str], *, system: bool) -> str:
    """Content as JSON text, wherever it stands: one attribute, numbered attributes, or messages out of events."""
    found = _first(left, names, lambda value: value is not None)
    if any(f"{prefix}role" in left or f"{prefix}content" in left for prefix in _PARTED) or any(
        f"{prefix}message.role" in left for prefix in _PARTED
    ):
        numbered = _numbered(left, parts)
        found = numbered or found
    instructions = left.pop("gen_ai.system_instructions", None) if system else None
    if instructions is not None:
        messages = _as_list(found)
        found = [{"role": "system", "parts": _as_list(instructions)}, *messages]
    if found is None:
        return ""
    if isinstance(found, str):
        return found if _is_json(found) else orjson.dumps(found).decode()
    return msgspec.json.encode(found).decode()


def _is_json(text: str) -> bool:
    """Whether the text is JSON already. Looked at closely only where it may be: what begins like a container."""
    if text[:1] not in {"[", "{"}:
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return [{"type": "text", "content": value}]
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _numbered(left: dict[str, Any], pattern: re.Pattern[str]) -> list[dict[str, Any]]:
    """Messages whose fields are attributes of their own: `gen_ai.prompt.0.role` and the like."""
    messages: dict[int, dict[str, Any]] = {}
    for key in list(left):
        match = pattern.fullmatch(key)
        if match:
            messages.setdefault(int(match.group(1)), {})[match.group(2)] = left.pop(key)
    return [messages[number] for number in sorted(messages)]


def _fold_events(events: list[dict[str, Any]], left: dict[str, Any]) -> list[dict[str, Any]]:
    """Content and failures that stand in events go where those of attributes go; the other events are given back."""
    rest: list[dict[str, Any]] = []
    given: list[dict[str, Any]] = []
    answered: list[dict[str, Any]] = []
    for event in events:
        name, attributes = event["name"], event["attributes"]
        if name in _MESSAGE_EVENTS:
            given.append({"role": _MESSAGE_EVENTS[name], **attributes})
        elif name == "gen_ai.choice":
            answered.append({"role": "assistant", **attributes})
        elif name in _CONTENT_EVENTS:
            for key, value in attributes.items():
                left.setdefault(key, value)
        else:
            if name == "exception" and "exception.type" in attributes and "error.type" not in left:
                left["error.type"] = attributes["exception.type"]
            rest.append(event)
    if given:
        left.setdefault("gen_ai.input.messages", given)
    if answered:
        left.setdefault("gen_ai.output.messages", answered)
    return rest


def _put_rest(raw: RawSpan, left: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """What OTLP has beside attributes and Span has no field for."""
    for key, value in (
        ("otel.kind", raw.kind if raw.kind != "internal" else ""),
        ("otel.status_description", raw.status_message),
        ("otel.trace_state", raw.trace_state),
        ("otel.events", events),
        ("otel.links", raw.links),
    ):
        if value:
            left[key] = value
