"""OTLP requests off the wire, protobuf or JSON, to plain spans: ids in hex, attributes as Python values.

Knows nothing of language models; `otlp` reads the meaning.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from detent.kernel.errors import InvalidInput, TooLarge

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

MAX_BODY = 64 * 1024 * 1024
"""Bytes of a request once decompressed."""

_MAX_DEPTH = 32
_KINDS = ("", "internal", "server", "client", "producer", "consumer")


class RawSpan(msgspec.Struct, gc=False):
    """A span as sent; `shared` are the attributes of its resource and scope."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    failed: bool
    status_message: str
    attributes: dict[str, Any]
    events: list[dict[str, Any]]
    links: list[dict[str, Any]]
    trace_state: str
    shared: dict[str, Any]


class Refused(msgspec.Struct, frozen=True):
    """A span that cannot be read, and why."""

    reason: str


def decompress(body: bytes, encoding: str) -> bytes:
    """The body as it was before it was compressed.

    Raises:
        InvalidInput: the encoding is unknown or the body is not of it.
        TooLarge: it grows beyond 64 MiB.
    """
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        if len(body) > MAX_BODY:
            raise TooLarge(f"The request is larger than {MAX_BODY} bytes.", hint="Send smaller batches.")
        return body
    if encoding == "gzip":
        return _gunzip(body)
    if encoding == "zstd":
        return _unzstd(body)
    raise InvalidInput(f"The content encoding {encoding!r} is not supported.", hint="Use gzip, zstd or none.")


def _gunzip(body: bytes) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        data = inflater.decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise InvalidInput("The body is not gzip.", hint="Check the content encoding.") from None
    if len(data) > MAX_BODY:
        raise TooLarge(f"The request is larger than {MAX_BODY} bytes.", hint="Send smaller batches.")
    if not inflater.eof:
        raise InvalidInput("The gzip body ends early.", hint="Send it again.")
    return data


def _unzstd(body: bytes) -> bytes:
    import zstandard

    try:
        # Read as a stream: a frame's own word about its size is not to be trusted with memory.
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(body) as reader:
            data = reader.read(MAX_BODY + 1)
    except zstandard.ZstdError:
        raise InvalidInput("The body is not zstd.", hint="Check the content encoding.") from None
    if len(data) > MAX_BODY:
        raise TooLarge(f"The request is larger than {MAX_BODY} bytes.", hint="Send smaller batches.")
    return data


# Protobuf


def read_protobuf(body: bytes) -> Iterator[RawSpan | Refused]:
    """Spans of an ExportTraceServiceRequest.

    Raises:
        InvalidInput: the body is no such message.
    """
    request = _parsed(body)
    yield from _read_piecewise(body) if request is None else _spans(request)


def _parsed(body: bytes) -> ExportTraceServiceRequest | None:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
        return request
    except DecodeError:
        return None


def _spans(request: ExportTraceServiceRequest) -> Iterator[RawSpan | Refused]:
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scoped in group.scope_spans:
            shared = dict(resource)
            if scoped.scope.name:
                shared["otel.scope.name"] = scoped.scope.name
            if scoped.scope.version:
                shared["otel.scope.version"] = scoped.scope.version
            for span in scoped.spans:
                try:
                    yield _span(span, shared)
                except InvalidInput as error:
                    yield Refused(error.message)


def _span(span: WireSpan, shared: dict[str, Any]) -> RawSpan:
    return RawSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=_KINDS[span.kind] if 0 <= span.kind < len(_KINDS) else "",
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == 2,
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        events=[
            {"name": event.name, "time": event.time_unix_nano, "attributes": _attributes(event.attributes)}
            for event in span.events
        ],
        links=[
            {
                "trace_id": link.trace_id.hex(),
                "span_id": link.span_id.hex(),
                "attributes": _attributes(link.attributes),
            }
            for link in span.links
        ],
        trace_state=span.trace_state,
        shared=shared,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        value = pair.value
        kind = value.WhichOneof("value")
        if kind == "string_value":
            found[pair.key] = value.string_value
        elif kind is not None:
            found[pair.key] = _value(value, kind, 0)
    return found


def _value(value: AnyValue, kind: str | None, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise InvalidInput(f"An attribute is nested deeper than {_MAX_DEPTH} levels.")
    if kind == "array_value":
        return [_value(item, item.WhichOneof("value"), depth + 1) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {
            pair.key: _value(pair.value, pair.value.WhichOneof("value"), depth + 1)
            for pair in value.kvlist_value.values
        }
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return None if kind is None else getattr(value, kind)


def _read_piecewise(body: bytes) -> Iterator[RawSpan | Refused]:
    """When the whole cannot be parsed: each span alone, so that one bad string costs one span."""
    found = False
    for resource, group in _fields(body, 1):
        shell = b"".join(_tagged(1, part) for _, part in _fields(group, 1))
        for _, scoped in _fields(group, 2):
            scope = b"".join(_tagged(1, part) for _, part in _fields(scoped, 1))
            for _, span in _fields(scoped, 2):
                found = True
                piece = _tagged(resource, shell + _tagged(2, scope + _tagged(2, span)))
                request = _parsed(piece)
                if request is None:
                    yield Refused("A span is no valid protobuf, perhaps for text that is not UTF-8.")
                else:
                    yield from _spans(request)
    if not found:
        raise InvalidInput("The body is no ExportTraceServiceRequest.", hint="Check the content type.")


def _fields(message: bytes, wanted: int) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message that have this number."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind in {1, 5}:
            at += 8 if kind == 1 else 4
        elif kind == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise InvalidInput("The protobuf body ends early.", hint="Send it again.")
            if number == wanted:
                yield number, message[at : at + size]
            at += size
        else:
            raise InvalidInput("The body is no protobuf.", hint="Check the content type.")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise InvalidInput("The body is no protobuf.", hint="Check the content type.")


def _tagged(number: int, message: bytes) -> bytes:
    head, size = bytearray([number << 3 | 2]), len(message)
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + message


# JSON


def read_json(body: bytes) -> Iterator[RawSpan | Refused]:
    """Spans of the JSON form: camelCase names, ids in hex, 64-bit numbers as strings.

    Raises:
        InvalidInput: the body is no such document.
    """
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"The body is no JSON: {error}.", hint="Check the content type.") from None
    if not isinstance(request, dict) or not isinstance(request.get("resourceSpans", []), list):
        raise InvalidInput("The body is no ExportTraceServiceRequest.", hint="It has a list `resourceSpans`.")
    for group in _list(request, "resourceSpans"):
        resource = _lenient(_object(group, "resource"))
        for scoped in _list(group, "scopeSpans"):
            shared = dict(resource)
            scope = _object(scoped, "scope")
            for key in ("name", "version"):
                if isinstance(scope.get(key), str) and scope[key]:
                    shared[f"otel.scope.{key}"] = scope[key]
            for span in _list(scoped, "spans"):
                try:
                    yield _json_span(span, shared)
                except InvalidInput as error:
                    yield Refused(error.message)


def _lenient(holder: dict[str, Any]) -> dict[str, Any]:
    try:
        return _json_attributes(holder)
    except InvalidInput:
        return {}


def _json_span(span: Any, shared: dict[str, Any]) -> RawSpan:
    if not isinstance(span, dict):
        raise InvalidInput("A span is an object.")
    status = _object(span, "status")
    return RawSpan(
        trace_id=_text(span, "traceId").lower(),
        span_id=_text(span, "spanId").lower(),
        parent_id=_text(span, "parentSpanId").lower(),
        name=_text(span, "name"),
        kind=_json_kind(span.get("kind")),
        start=_integer(span, "startTimeUnixNano"),
        end=_integer(span, "endTimeUnixNano"),
        failed=status.get("code") in (2, "STATUS_CODE_ERROR"),
        status_message=_text(status, "message"),
        attributes=_json_attributes(span),
        events=[
            {
                "name": _text(event, "name"),
                "time": _integer(event, "timeUnixNano"),
                "attributes": _json_attributes(event),
            }
            for event in _list(span, "events")
        ],
        links=[
            {
                "trace_id": _text(link, "traceId"),
                "span_id": _text(link, "spanId"),
                "attributes": _json_attributes(link),
            }
            for link in _list(span, "links")
        ],
        trace_state=_text(span, "traceState"),
        shared=shared,
    )


def _json_kind(kind: Any) -> str:
    if isinstance(kind, str):
        kind = kind.removeprefix("SPAN_KIND_").lower()
        return kind if kind in _KINDS else ""
    return _KINDS[kind] if isinstance(kind, int) and 0 <= kind < len(_KINDS) else ""


def _list(holder: Any, key: str) -> list[Any]:
    found = holder.get(key) if isinstance(holder, dict) else None
    return found if isinstance(found, list) else []


def _object(holder: Any, key: str) -> dict[str, Any]:
    found = holder.get(key) if isinstance(holder, dict) else None
    return found if isinstance(found, dict) else {}


def _text(holder: Any, key: str) -> str:
    found = holder.get(key, "") if isinstance(holder, dict) else ""
    if found is None:
        return ""
    if not isinstance(found, str):
        raise InvalidInput(f"A span's {key} is text.", field=key)
    return found


def _integer(holder: Any, key: str) -> int:
    found = holder.get(key, 0) if isinstance(holder, dict) else 0
    try:
        if isinstance(found, int | str) and not isinstance(found, bool):
            return int(found)
    except ValueError:
        pass
    raise InvalidInput(f"A span's {key} is a whole number.", field=key)


def _json_attributes(holder: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in _list(holder, "attributes"):
        if not isinstance(pair, dict) or not isinstance(pair.get("key"), str):
            raise InvalidInput("An attribute has a key.", field="attributes")
        found[pair["key"]] = _json_value(pair.get("value"), 0)
    return found


def _json_value(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise InvalidInput(f"An attribute is nested deeper than {_MAX_DEPTH} levels.")
    if not isinstance(value, dict) or not value:
        return None
    kind, inner = next(iter(value.items()))
    try:
        if kind == "stringValue" and isinstance(inner, str):
            return inner
        if kind == "boolValue" and isinstance(inner, bool):
            return inner
        if kind == "intValue" and isinstance(inner, int | str) and not isinstance(inner, bool):
            number = int(inner)
            if -(2**63) <= number < 2**63:
                return number
        if kind == "doubleValue" and isinstance(inner, int | float | str):
            return float(inner)
        if kind == "bytesValue" and isinstance(inner, str):
            return base64.b64encode(base64.b64decode(inner, validate=True)).decode()
        if kind == "arrayValue":
            return [_json_value(item, depth + 1) for item in _list(inner, "values")]
        if kind == "kvlistValue":
            return {
                str(pair["key"]): _json_value(pair.get("value"), depth + 1)
                for pair in _list(inner, "values")
                if isinstance(pair, dict) and "key" in pair
            }
    except (ValueError, binascii.Error):
        pass
    raise InvalidInput("An attribute's value is not of the type it names.", field="attributes")
