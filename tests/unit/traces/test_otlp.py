"""OTLP: both encodings give the same spans, every convention reaches its field, what is wrong is refused alone."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from detent.kernel.errors import CallerError, InvalidInput, TooLarge
from detent.kernel.telemetry import Batch, Span
from detent.traces import wire
from detent.traces.otlp import JSON, PROTOBUF, OtlpBatch, otlp_response, read_otlp

TRACE, SPAN, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
START = 1_767_225_600_000_000_000


def any_value(value: Any) -> AnyValue:
    found = AnyValue()
    if isinstance(value, bool):
        found.bool_value = value
    elif isinstance(value, int):
        found.int_value = value
    elif isinstance(value, float):
        found.double_value = value
    elif isinstance(value, str):
        found.string_value = value
    elif isinstance(value, bytes):
        found.bytes_value = value
    elif isinstance(value, list):
        found.array_value.SetInParent()
        found.array_value.values.extend(map(any_value, value))
    elif isinstance(value, dict):
        found.kvlist_value.SetInParent()
        for key, item in value.items():
            found.kvlist_value.values.add(key=key).value.CopyFrom(any_value(item))
    return found


def put(holder: Any, attributes: dict[str, Any]) -> None:
    for key, value in attributes.items():
        holder.attributes.add(key=key).value.CopyFrom(any_value(value))


def request(attributes: dict[str, Any] | None = None, **fields: Any) -> ExportTraceServiceRequest:
    """One span, as small as it can be."""
    built = ExportTraceServiceRequest()
    add(built, attributes or {}, **fields)
    return built


def add(built: ExportTraceServiceRequest, attributes: dict[str, Any], **fields: Any) -> Any:
    if not built.resource_spans:
        built.resource_spans.add().scope_spans.add()
    span = built.resource_spans[0].scope_spans[0].spans.add()
    span.trace_id = fields.get("trace_id", bytes.fromhex(TRACE))
    span.span_id = fields.get("span_id", bytes.fromhex(SPAN))
    span.parent_span_id = fields.get("parent_id", b"")
    span.name = fields.get("name", "chat gpt")
    span.start_time_unix_nano = fields.get("start", START)
    span.end_time_unix_nano = fields.get("end", START + 5)
    put(span, attributes)
    return span


def read(built: ExportTraceServiceRequest) -> OtlpBatch:
    return read_otlp(built.SerializeToString(), PROTOBUF, project="p")


def one(attributes: dict[str, Any], **fields: Any) -> Span:
    (span,) = read(request(attributes, **fields)).batch.spans
    return span


CURRENT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4.1",
    "gen_ai.response.model": "gpt-4.1-2026",
    "gen_ai.usage.input_tokens": 11,
    "gen_ai.usage.output_tokens": 7,
    "gen_ai.usage.cache_read.input_tokens": 3,
    "gen_ai.usage.reasoning.output_tokens": 2,
    "gen_ai.response.finish_reasons": ["stop", "length"],
    "gen_ai.conversation.id": "s1",
    "user.id": "u1",
    "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"Hi"}]}]',
    "gen_ai.output.messages": '[{"role":"assistant","parts":[{"type":"text","content":"Hello"}]}]',
    "gen_ai.request.temperature": 0.2,
    "my.own": ["a", 1, True, 0.5, {"deep": ["b"]}],
    "raw": b"\x00\xff",
}
EXPECTED = Span(
    trace_id=TRACE,
    span_id=SPAN,
    project="p",
    name="chat gpt",
    start=START,
    end=START + 5,
    operation="chat",
    provider="openai",
    request_model="gpt-4.1",
    response_model="gpt-4.1-2026",
    input_tokens=11,
    output_tokens=7,
    cached_input_tokens=3,
    reasoning_tokens=2,
    finish_reason="stop",
    session_id="s1",
    user_id="u1",
    input=CURRENT["gen_ai.input.messages"],  # type: ignore[arg-type]
    output=CURRENT["gen_ai.output.messages"],  # type: ignore[arg-type]
    attributes={
        "gen_ai.request.temperature": 0.2,
        "my.own": ["a", 1, True, 0.5, {"deep": ["b"]}],
        "raw": "AP8=",
    },
)


def test_the_current_conventions() -> None:
    assert one(CURRENT) == EXPECTED


@pytest.mark.parametrize(
    "older",
    [
        {
            "gen_ai.system": "openai",
            "gen_ai.request.model": "gpt-4.1",
            "gen_ai.usage.prompt_tokens": 11,
            "gen_ai.usage.completion_tokens": 7,
            "gen_ai.response.finish_reasons": '["stop"]',
            "gen_ai.operation.name": "chat",
            "session.id": "s1",
            "gen_ai.prompt": '[{"role":"user","content":"Hi"}]',
            "gen_ai.completion": '[{"role":"assistant","content":"Hello"}]',
        },
        {
            "gen_ai.system": "openai",
            "llm.request.type": "chat",
            "gen_ai.request.model": "gpt-4.1",
            "gen_ai.usage.prompt_tokens": "11",
            "gen_ai.usage.completion_tokens": 7.0,
            "gen_ai.response.finish_reason": "stop",
            "traceloop.association.properties.session_id": "s1",
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": "Hi",
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": "Hello",
        },
        {
            "llm.provider": "openai",
            "openinference.span.kind": "LLM",
            "llm.model_name": "gpt-4.1",
            "llm.token_count.prompt": 11,
            "llm.token_count.completion": 7,
            "llm.response.finish_reason": "stop",
            "session.id": "s1",
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "Hi",
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": "Hello",
        },
    ],
)
def test_older_and_other_conventions(older: dict[str, Any]) -> None:
    span = one(older)
    assert span == Span(
        trace_id=TRACE,
        span_id=SPAN,
        project="p",
        name="chat gpt",
        start=START,
        end=START + 5,
        operation="chat",
        provider="openai",
        request_model="gpt-4.1",
        input_tokens=11,
        output_tokens=7,
        finish_reason="stop",
        session_id="s1",
        input=span.input,
        output=span.output,
    )
    assert json.loads(span.input) == [{"role": "user", "content": "Hi"}]
    assert json.loads(span.output) == [{"role": "assistant", "content": "Hello"}]


def test_the_current_name_wins_over_the_older_one() -> None:
    span = one({"gen_ai.system": "old", "gen_ai.provider.name": "new", "gen_ai.usage.prompt_tokens": 1})
    assert (span.provider, span.input_tokens, span.attributes) == ("new", 1, {})


def test_content_in_events() -> None:
    built = request({"gen_ai.operation.name": "chat"})
    span = built.resource_spans[0].scope_spans[0].spans[0]
    for name, attributes in (
        ("gen_ai.system.message", {"content": "Be kind."}),
        ("gen_ai.user.message", {"content": "Hi"}),
        ("gen_ai.choice", {"index": 0, "message": {"content": "Hello"}}),
        ("something.else", {"a": 1}),
    ):
        event = span.events.add(name=name, time_unix_nano=START)
        put(event, attributes)
    (found,) = read(built).batch.spans
    assert json.loads(found.input) == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert json.loads(found.output) == [{"role": "assistant", "index": 0, "message": {"content": "Hello"}}]
    kept = [{"name": "something.else", "time": START, "attributes": {"a": 1}}]
    assert found.attributes == {"otel.events": kept}


def test_system_instructions_stand_before_the_messages() -> None:
    span = one({"gen_ai.system_instructions": "Be kind.", "gen_ai.input.messages": '[{"role":"user"}]'})
    parts = [{"type": "text", "content": "Be kind."}]
    assert json.loads(span.input) == [{"role": "system", "parts": parts}, {"role": "user"}]


def test_content_that_is_no_json_becomes_json() -> None:
    span = one({"input.value": 'plain "text"', "output.value": {"answer": ["structured"]}})
    assert (json.loads(span.input), json.loads(span.output)) == ('plain "text"', {"answer": ["structured"]})
    assert json.loads(one({"input.value": "[broken"}).input) == "[broken"


def test_status_kind_resource_and_scope() -> None:
    built = request({"service.name": "own"}, parent_id=bytes.fromhex(PARENT))
    group = built.resource_spans[0]
    put(group.resource, {"service.name": "shop", "host.name": "h"})
    group.scope_spans[0].scope.name = "lib"
    group.scope_spans[0].scope.version = "1"
    span = group.scope_spans[0].spans[0]
    span.kind = 3
    span.status.code = 2
    span.status.message = "went wrong"
    span.trace_state = "a=b"
    span.links.add(trace_id=b"\x01" * 16, span_id=b"\x02" * 8)
    (found,) = read(built).batch.spans
    assert (found.status, found.error_type, found.parent_id) == ("error", "", PARENT)
    assert found.attributes == {
        "service.name": "own",
        "host.name": "h",
        "otel.scope.name": "lib",
        "otel.scope.version": "1",
        "otel.kind": "client",
        "otel.status_description": "went wrong",
        "otel.trace_state": "a=b",
        "otel.links": [{"trace_id": "01" * 16, "span_id": "02" * 8, "attributes": {}}],
    }


def test_an_exception_event_names_the_error() -> None:
    built = request()
    event = built.resource_spans[0].scope_spans[0].spans[0].events.add(name="exception")
    put(event, {"exception.type": "TimeoutError", "exception.message": "slow"})
    (span,) = read(built).batch.spans
    assert (span.status, span.error_type) == ("error", "TimeoutError")
    assert span.attributes["otel.events"][0]["attributes"]["exception.message"] == "slow"


def test_money_and_time_to_the_first_token() -> None:
    span = one(
        {"gen_ai.usage.cost": 0.0000125, "gen_ai.response.time_to_first_chunk": 0.25, "gen_ai.request.stream": True}
    )
    assert (span.cost, span.ttft, span.stream) == (12_500, 250_000_000, True)
    own = one({"detent.cost": 0, "detent.ttft": 7, "detent.status": "cancelled", "llm.cost.total": 5})
    assert (own.cost, own.ttft, own.status, own.attributes) == (0, 7, "cancelled", {})
    assert one({}).cost is None


def test_a_value_of_the_wrong_type_stays_an_attribute() -> None:
    wrong = {
        "gen_ai.usage.input_tokens": -1,
        "gen_ai.usage.output_tokens": "many",
        "gen_ai.request.model": 5,
        "gen_ai.usage.cost": float("nan"),
        "user.id": "x" * 2000,
        "http.response.status_code": True,
    }
    span = one(wrong)
    assert (span.input_tokens, span.output_tokens, span.request_model, span.cost, span.user_id) == (0, 0, "", None, "")
    assert span.attributes.keys() == wrong.keys()


def test_a_key_is_no_sender_s_to_claim() -> None:
    span = one({"detent.key_id": "somebody", "detent.project": "other", "detent.route": "r"})
    assert (span.key_id, span.project, span.route) == ("", "p", "r")


# What is refused


@pytest.mark.parametrize(
    "wrong",
    [
        {"trace_id": b"short"},
        {"trace_id": bytes(16)},
        {"span_id": b""},
        {"span_id": bytes(8)},
        {"parent_id": b"12345"},
        {"start": 0},
        {"start": 2**64 - 1},
        {"end": 2**64 - 1},
    ],
)
def test_an_invalid_span_is_refused_alone(wrong: dict[str, Any]) -> None:
    built = request()
    add(built, {}, **wrong)
    add(built, {}, span_id=b"\x01" * 8)
    found = read(built)
    assert [span.span_id for span in found.batch.spans] == [SPAN, "01" * 8]
    assert found.rejected == 1
    assert len(found.reasons) == 1


def test_text_that_is_not_utf8_costs_one_span() -> None:
    built = request({"a": "good"})
    put(built.resource_spans[0].resource, {"service.name": "shop"})
    add(built, {"a": "MARK"}, span_id=b"\x01" * 8)
    add(built, {"a": "good"}, span_id=b"\x02" * 8)
    body = built.SerializeToString().replace(b"MARK", b"\xff\xfe\xfd\xfc")
    found = read_otlp(body, PROTOBUF, project="p")
    assert [span.span_id for span in found.batch.spans] == [SPAN, "02" * 8]
    assert all(span.attributes == {"a": "good", "service.name": "shop"} for span in found.batch.spans)
    assert (found.rejected, len(found.reasons)) == (1, 1)


def test_an_attribute_that_is_nested_too_deeply_costs_its_span() -> None:
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    found = read(request({"deep": deep}))
    assert (found.batch.spans, found.rejected) == ((), 1)


@pytest.mark.parametrize(
    ("body", "kind", "encoding"),
    [
        (b"\xff\xff\xff", PROTOBUF, ""),
        (b"hello", PROTOBUF, ""),
        (b"{", JSON, ""),
        (b"[]", JSON, ""),
        (b'{"resourceSpans": 5}', JSON, ""),
        (b"{}", "text/plain", ""),
        (b"", "", ""),
        (b"not gzip", PROTOBUF, "gzip"),
        (b"not zstd", PROTOBUF, "zstd"),
        (gzip.compress(b"{}", mtime=0)[:-3], JSON, "gzip"),
        (b"{}", JSON, "br"),
        (b"[" * 10_000, JSON, ""),
    ],
)
def test_a_body_that_cannot_be_read_is_the_caller_s_mistake(body: bytes, kind: str, encoding: str) -> None:
    with pytest.raises(InvalidInput):
        read_otlp(body, kind, project="p", content_encoding=encoding)


def test_a_bomb_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_BODY", 10_000)
    bomb = bytes(10**6)
    for body, encoding in ((gzip.compress(bomb), "gzip"), (zstandard.compress(bomb), "zstd"), (bytes(10_001), "")):
        with pytest.raises(TooLarge):
            read_otlp(body, PROTOBUF, project="p", content_encoding=encoding)


def test_nothing_is_an_empty_batch() -> None:
    for body, kind in ((b"", PROTOBUF), (b"{}", JSON), (b'{"resourceSpans":[]}', "application/json; charset=utf-8")):
        assert read_otlp(body, kind, project="p") == OtlpBatch(Batch(), 0, ())


@given(st.binary(max_size=200))
def test_noise_never_breaks_the_reader(noise: bytes) -> None:
    body = request({"a": "b"}).SerializeToString()
    for data in (noise, body[: len(noise)] + noise, noise + body):
        for kind in (PROTOBUF, JSON):
            try:
                read_otlp(data, kind, project="p")
            except CallerError:
                continue


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(("traceId", "spanId", "attributes", "events", "status", "kind", "name")), json_values
    )
)
def test_json_of_any_shape_never_breaks_the_reader(span: dict[str, Any]) -> None:
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    found = read_otlp(body, JSON, project="p")
    assert len(found.batch.spans) + found.rejected == 1


# JSON


def json_span(attributes: list[dict[str, Any]], /, **fields: Any) -> bytes:
    span = {
        "traceId": TRACE.upper(),
        "spanId": SPAN,
        "name": "chat gpt",
        "startTimeUnixNano": str(START),
        "endTimeUnixNano": str(START + 5),
        "attributes": attributes,
        **fields,
    }
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()


def json_attributes(attributes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    def value(given: Any) -> dict[str, Any]:
        if isinstance(given, bool):
            return {"boolValue": given}
        if isinstance(given, int):
            return {"intValue": str(given)}
        if isinstance(given, float):
            return {"doubleValue": given}
        if isinstance(given, str):
            return {"stringValue": given}
        if isinstance(given, bytes):
            return {"bytesValue": "AP8="}
        if isinstance(given, list):
            return {"arrayValue": {"values": [value(item) for item in given]}}
        return {"kvlistValue": {"values": [{"key": key, "value": value(item)} for key, item in given.items()]}}

    return ({"key": key, "value": value(given)} for key, given in attributes.items())


def test_json_gives_the_same_span_and_compression_changes_nothing() -> None:
    body = json_span(list(json_attributes(CURRENT)))
    for data, encoding in ((body, ""), (gzip.compress(body), "gzip"), (zstandard.compress(body), "ZSTD")):
        found = read_otlp(data, JSON, project="p", content_encoding=encoding)
        assert found == OtlpBatch(Batch((EXPECTED,)), 0, ())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"kind": 2}, {"attributes": {"otel.kind": "server"}}),
        ({"kind": "SPAN_KIND_CLIENT"}, {"attributes": {"otel.kind": "client"}}),
        ({"status": {"code": "STATUS_CODE_ERROR"}}, {"status": "error"}),
        ({"status": {"code": 2, "message": "m"}}, {"status": "error", "attributes": {"otel.status_description": "m"}}),
        ({"parentSpanId": PARENT.upper()}, {"parent_id": PARENT}),
        ({"parentSpanId": None, "unknownField": [1]}, {}),
        ({"startTimeUnixNano": START}, {}),
    ],
)
def test_json_forms(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    plain = Span(trace_id=TRACE, span_id=SPAN, project="p", name="chat gpt", start=START, end=START + 5)
    (span,) = read_otlp(json_span([], **fields), JSON, project="p").batch.spans
    assert span == msgspec.structs.replace(plain, **expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"traceId": "zz" * 16},
        {"traceId": 5},
        {"startTimeUnixNano": "soon"},
        {"name": ["x"]},
        {"attributes": [{"value": {}}]},
        {"attributes": [{"key": "a", "value": {"intValue": "x"}}]},
        {"attributes": [{"key": "a", "value": {"bytesValue": "*"}}]},
        {"attributes": [{"key": "a", "value": {"intValue": str(2**70)}}]},
    ],
)
def test_json_spans_that_are_wrong(fields: dict[str, Any]) -> None:
    found = read_otlp(json_span([], **fields), JSON, project="p")
    assert (found.batch.spans, found.rejected) == ((), 1)


def test_the_answer_speaks_the_request_s_encoding() -> None:
    assert otlp_response(JSON) == b"{}"
    partial = {"rejectedSpans": "2", "errorMessage": "why"}
    assert json.loads(otlp_response(JSON, rejected=2, message="why")) == {"partialSuccess": partial}
    response = ExportTraceServiceResponse.FromString(otlp_response(PROTOBUF, rejected=2, message="why"))
    assert (response.partial_success.rejected_spans, response.partial_success.error_message) == (2, "why")
    assert otlp_response(PROTOBUF) == b""
