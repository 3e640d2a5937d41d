"""Spans as an OTLP trace request in JSON (OpenTelemetry protocol 1.x, ExportTraceServiceRequest)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from detent.sdk.span import ActiveSpan

_MAX_CONTENT: Final = 256 * 1024
_INTERNAL: Final = 1
_OK: Final = 1
_ERROR: Final = 2
_ENCODER: Final = msgspec.json.Encoder(enc_hook=repr)


def encode(spans: Sequence[ActiveSpan], *, service: str = "") -> bytes:
    """One request with all spans."""
    resource = [_attribute("service.name", service or "unknown_service"), _attribute("telemetry.sdk.name", "detent")]
    scope = {"scope": {"name": "detent.sdk"}, "spans": [_span(span) for span in spans]}
    request = {"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [scope]}]}
    return msgspec.json.encode(request)


def _span(span: ActiveSpan) -> dict[str, Any]:
    attributes = [_attribute(name, value) for name, value in span.attributes.items()]
    if span.operation:
        attributes.append(_attribute("gen_ai.operation.name", span.operation))
    for side in ("input", "output"):
        if span.content and span.has(side):
            attributes.append(_attribute(f"{side}.value", content(getattr(span, side))))
            attributes.append(_attribute(f"{side}.mime_type", "application/json"))
    data: dict[str, Any] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": _INTERNAL,
        "startTimeUnixNano": str(span.start),
        "endTimeUnixNano": str(span.start + span.duration),
        "attributes": attributes,
        "status": {"code": _ERROR, "message": span.error} if span.error_type else {"code": _OK},
    }
    if span.parent_id:
        data["parentSpanId"] = span.parent_id
    if span.error_type:
        attributes.append(_attribute("error.type", span.error_type))
    return data


def content(value: Any) -> str:
    """Anything as JSON text: what JSON has no form for is shown as its repr, what is too long is cut."""
    try:
        text = _ENCODER.encode(value).decode()
    except Exception:  # noqa: BLE001  # objects of the application may do anything when they are looked at
        text = msgspec.json.encode(f"<{type(value).__name__}>").decode()
    if len(text) > _MAX_CONTENT:
        text = msgspec.json.encode(text[:_MAX_CONTENT] + "…").decode()
    return text


def _attribute(name: str, value: Any) -> dict[str, Any]:
    return {"key": name, "value": _value(value)}


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list | tuple):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": value if isinstance(value, str) else content(value)}
