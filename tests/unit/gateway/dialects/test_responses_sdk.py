"""The Responses API as OpenAI's own SDK sees it: a server on loopback answers with the writer's bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import openai
import pydantic
import pytest

from detent.gateway.conversations import Conversations
from detent.gateway.dialects.folding import unfold
from detent.gateway.dialects.responses import ResponsesClient
from detent.gateway.errors import UpstreamCut
from detent.kernel.chat import (
    ChatAnswer,
    ChatEvent,
    ChatRequest,
    Message,
    ReasoningPart,
    RefusalPart,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from detent.kernel.errors import DetentError

NOW = 1_700_000_000.0
USAGE = Usage(12, 8, 4, 2, 3)


class Gateway:
    """What the data plane does, without the data plane: read, answer by a script, write, store."""

    def __init__(self, folder: Path) -> None:
        self.client = ResponsesClient()
        self.store = Conversations(folder)
        self.requests: list[ChatRequest] = []
        self.script: Callable[[ChatRequest], ChatAnswer] = lambda _: answer(TextPart("Hello."))
        self.breaks = False
        self.count = 0

    def create(self, body: bytes) -> Iterator[bytes]:
        asked = self.client.read(body, max_depth=64)
        self.store.expand("p", asked, now=NOW)
        request = asked.neutral()
        self.requests.append(request)
        self.count += 1
        asked.response_id, asked.created = f"resp_{self.count:032x}", int(NOW)
        found = self.script(request)
        if not asked.stream:
            raw = self.client.write_answer(asked, found)
            self.store.save("p", asked, raw, now=NOW)
            yield raw
            return
        writer = self.client.stream_writer(asked)
        events = pieces(unfold(found))
        if self.breaks:
            yield writer.write(events[:2])
            yield self.client.error_event(UpstreamCut("The provider went away."))
            return
        for event in events:
            yield writer.write([event])
        yield writer.finish(found.usage or Usage())
        self.store.save("p", asked, writer.response, now=NOW)


def answer(*parts: object, reason: str = "stop") -> ChatAnswer:
    return ChatAnswer("chatcmpl-1", "real-model", Message("assistant", parts), reason, USAGE)  # type: ignore[arg-type]


def pieces(events: list[ChatEvent]) -> list[ChatEvent]:
    """Text and arguments three characters at a time."""
    found: list[ChatEvent] = []
    for event in events:
        if isinstance(event, TextDelta):
            found += [TextDelta(event.text[i : i + 3], event.index) for i in range(0, len(event.text), 3)]
        elif isinstance(event, ToolCallDelta):
            found += [ToolCallDelta(event.arguments[i : i + 3], event.index) for i in range(0, len(event.arguments), 3)]
        else:
            found.append(event)
    return found


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path / "conversations")


@pytest.fixture
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    class Answer(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            try:
                self._send(list(gateway.create(body)), b'"stream":true' in body.replace(b": ", b":"))
            except DetentError as error:
                self._send([gateway.client.error_body(error)], False, error.status)

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            name = url.path.split("/")[3]
            query = {key: value[0] for key, value in parse_qs(url.query).items()}
            try:
                if url.path.endswith("/input_items"):
                    limit, order = int(query.get("limit", 20)), query.get("order", "desc")
                    self._send(
                        [
                            gateway.store.input_items(
                                "p",
                                name,
                                now=NOW,
                                limit=limit,
                                order=order,
                                after=query.get("after", ""),  # type: ignore[arg-type]
                            )
                        ]
                    )
                else:
                    self._send([gateway.store.get("p", name, now=NOW)])
            except DetentError as error:
                self._send([gateway.client.error_body(error)], False, error.status)

        def do_DELETE(self) -> None:
            self._send([gateway.store.delete("p", self.path.split("/")[3], now=NOW)])

        def _send(self, chunks: list[bytes], stream: bool = False, status: int = 200) -> None:
            body = b"".join(chunks)
            self.send_response(status)
            self.send_header("content-type", "text/event-stream" if stream else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with openai.OpenAI(api_key="k", base_url=f"http://127.0.0.1:{server.server_port}/v1", max_retries=0) as client:
            yield client
        server.shutdown()
        thread.join()


def test_whole(sdk: openai.OpenAI, gateway: Gateway) -> None:
    found = sdk.responses.create(
        model="route", input="Hi", instructions="Be brief.", metadata={"a": "b"}, max_output_tokens=50, temperature=0.5
    )
    assert found.output_text == "Hello."
    assert found.status == "completed"
    assert found.model == "real-model"
    assert found.instructions == "Be brief."
    assert found.metadata == {"a": "b"}
    assert found.temperature == 0.5
    assert found.created_at == int(NOW)
    assert found.usage is not None
    assert found.usage.to_dict() == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 20,
    }
    (request,) = gateway.requests
    assert request.messages == (
        Message("developer", (TextPart("Be brief."),)),
        Message("user", (TextPart("Hi"),)),
    )
    assert (request.max_tokens, request.temperature, request.metadata) == (50, 0.5, {"a": "b"})


def test_stream(sdk: openai.OpenAI, gateway: Gateway) -> None:
    gateway.script = lambda _: answer(
        ReasoningPart("I think.", "sig"),
        TextPart("Hello, world."),
        ToolCallPart("call_1", "add", '{"a":1}'),
        ToolCallPart("call_2", "add", '{"a":2}'),
        reason="tool_calls",
    )
    events = list(sdk.responses.create(model="route", input="Hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert list(dict.fromkeys(kinds)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
    ]
    final = events[-1].response  # type: ignore[union-attr]
    again = sdk.responses.create(model="route", input="Hi")
    assert [item.to_dict(exclude_unset=False) for item in final.output] == [
        {**item.to_dict(exclude_unset=False), "id": item.id.replace("2_", "1_")}  # type: ignore[union-attr]
        for item in again.output
    ]
    assert final.usage == again.usage


def test_stream_helper_and_parse(sdk: openai.OpenAI, gateway: Gateway) -> None:
    class Place(pydantic.BaseModel):
        city: str

    gateway.script = lambda _: answer(TextPart('{"city":"Bern"}'))
    with sdk.responses.stream(model="route", input="Where?", text_format=Place) as stream:
        final = stream.get_final_response()
    assert final.output_parsed == Place(city="Bern")
    assert sdk.responses.parse(model="route", input="Where?", text_format=Place).output_parsed == Place(city="Bern")
    form = gateway.requests[-1].response_format
    assert form is not None
    assert (form.kind, form.name, form.strict) == ("json_schema", "Place", True)
    assert form.schema["properties"]["city"]["type"] == "string"


def test_tools_over_previous_response(sdk: openai.OpenAI, gateway: Gateway) -> None:
    gateway.script = lambda _: answer(
        ReasoningPart("Let me see.", "c2ln"),
        ToolCallPart("call_1", "weather", '{"city":"Bern"}', "gemini.abc"),
        reason="tool_calls",
    )
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
    first = sdk.responses.create(model="route", input="Weather?", tools=[tool], tool_choice="required")  # type: ignore[list-item]
    call = next(item for item in first.output if item.type == "function_call")
    assert (call.call_id, call.name, json.loads(call.arguments)) == ("call_1", "weather", {"city": "Bern"})
    gateway.script = lambda _: answer(TextPart("Sunny."))
    second = sdk.responses.create(
        model="route",
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": "call_1", "output": "sun"}],
    )
    assert second.output_text == "Sunny."
    assert second.previous_response_id == first.id
    assert gateway.requests[-1].messages == (
        Message("user", (TextPart("Weather?"),)),
        Message(
            "assistant",
            (
                ReasoningPart("Let me see.", "c2ln"),
                ToolCallPart("call_1", "weather", '{"city":"Bern"}', "gemini.abc"),
            ),
        ),
        Message("tool", (ToolResultPart("call_1", (TextPart("sun"),)),)),
    )
    third = sdk.responses.create(model="route", previous_response_id=second.id, input="And tomorrow?")
    assert [message.role for message in gateway.requests[-1].messages] == [
        "user", "assistant", "tool", "assistant", "user",
    ]  # fmt: skip
    listed = sdk.responses.input_items.list(third.id, limit=2, order="asc")
    assert [item.type for item in listed] == [
        "message", "reasoning", "reasoning", "function_call", "function_call_output", "message", "message",
    ]  # fmt: skip


def test_items_by_reference(sdk: openai.OpenAI, gateway: Gateway) -> None:
    """As clients do that send their whole history, but only the names of what the server has."""
    first = sdk.responses.create(model="route", input="Hi")
    sdk.responses.create(
        model="route",
        input=[
            {"role": "user", "content": "Hi"},
            {"type": "item_reference", "id": first.output[0].id or ""},
            {"role": "user", "content": "Again"},
        ],
    )
    assert [(m.role, m.text) for m in gateway.requests[-1].messages] == [
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "Again"),
    ]
    with pytest.raises(openai.NotFoundError, match="Item with id 'msg_no' not found"):
        sdk.responses.create(model="route", input=[{"type": "item_reference", "id": "msg_no"}])


def test_retrieve_and_delete(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model="route", input="Hi")
    assert sdk.responses.retrieve(first.id) == first
    sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError, match="Previous response with id") as caught:
        sdk.responses.create(model="route", input="Hi", previous_response_id=first.id)
    assert caught.value.param == "previous_response_id"
    assert caught.value.code == "response_not_found"


def test_what_is_not_stored_is_not_found(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model="route", input="Hi", store=False)
    assert first.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        sdk.responses.create(model="route", input="Hi", previous_response_id=first.id)


def test_refusal_and_cut_answers(sdk: openai.OpenAI, gateway: Gateway) -> None:
    gateway.script = lambda _: answer(RefusalPart("I will not."), reason="refusal")
    found = sdk.responses.create(model="route", input="Hi")
    assert found.output[0].content[0].refusal == "I will not."  # type: ignore[union-attr]
    kinds = [event.type for event in sdk.responses.create(model="route", input="Hi", stream=True)]
    assert kinds[-5:] == [
        "response.refusal.delta",
        "response.refusal.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    gateway.script = lambda _: answer(TextPart("I was go"), reason="length")
    found = sdk.responses.create(model="route", input="Hi")
    assert found.status == "incomplete"
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"
    events = list(sdk.responses.create(model="route", input="Hi", stream=True))
    assert events[-1].type == "response.incomplete"


def test_a_stream_that_breaks_raises(sdk: openai.OpenAI, gateway: Gateway) -> None:
    gateway.breaks = True
    with pytest.raises(openai.APIError, match="The provider went away"):
        list(sdk.responses.create(model="route", input="Hi", stream=True))


def test_custom_tools_run_over_any_provider(sdk: openai.OpenAI, gateway: Gateway) -> None:
    gateway.script = lambda _: answer(ToolCallPart("c1", "patch", '{"input":"*** Begin\\n+x"}'), reason="tool_calls")
    tools = [{"type": "custom", "name": "patch", "description": "Patches."}]
    found = sdk.responses.create(model="route", input="Hi", tools=tools)  # type: ignore[arg-type]
    assert found.output[0].type == "custom_tool_call"
    assert found.output[0].input == "*** Begin\n+x"
    events = list(sdk.responses.create(model="route", input="Hi", tools=tools, stream=True))  # type: ignore[arg-type]
    deltas = [event.delta for event in events if event.type == "response.custom_tool_call_input.delta"]
    assert deltas == ["*** Begin\n+x"]
    sdk.responses.create(
        model="route",
        previous_response_id=found.id,
        input=[{"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}],
    )
    call, result = gateway.requests[-1].messages[1:]
    assert call.parts == (ToolCallPart("c1", "patch", '{"input":"*** Begin\\n+x"}', extra={"type": "custom"}),)
    assert result.parts == (ToolResultPart("c1", (TextPart("done"),), extra={"type": "custom"}),)
