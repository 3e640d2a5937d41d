"""Client dialects against the makers' own SDKs: their requests are read, what is written back they understand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import openai
import pydantic
import pytest

from detent.gateway.dialects import CLIENTS
from detent.gateway.dialects.anthropic import read_count, write_count
from detent.gateway.dialects.counting import estimate_tokens
from detent.gateway.dialects.folding import unfold
from detent.gateway.errors import (
    InvalidKey,
    MalformedBody,
    MayNotCall,
    NoUpstream,
    UnknownModel,
    UpstreamBusy,
    UpstreamCut,
)
from detent.kernel.chat import (
    ChatAnswer,
    ChatRequest,
    ImagePart,
    Message,
    Reasoning,
    ReasoningPart,
    RefusalPart,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Usage,
)
from detent.kernel.errors import DetentError, TooLarge

PATHS = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic"}
USAGE = Usage(100, 20, 60, 10, 5)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Server(ThreadingHTTPServer):
    """Reads what clients ask and answers what it was told to.

    Attributes:
        answer: an answer, or an error.
        late: an error after the answer's events, in place of its end.
        asked: the requests, read.
    """

    answer: ChatAnswer | DetentError
    late: DetentError | None = None
    asked: list[ChatRequest]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        path = self.path.partition("?")[0]
        if path == "/v1/messages/count_tokens":
            request = read_count(raw, max_depth=64).neutral()
            self.server.asked.append(request)
            self.give(200, write_count(estimate_tokens(request)))
            return
        dialect = CLIENTS[PATHS[path]]
        asked = dialect.read(raw, max_depth=64)
        self.server.asked.append(asked.neutral())
        answer = self.server.answer
        if isinstance(answer, DetentError):
            self.give(answer.status, dialect.error_body(answer))
        elif not asked.stream:
            self.give(200, dialect.write_answer(asked, answer))
        else:
            writer = dialect.stream_writer(asked)
            events = unfold(answer)
            out = b"".join(writer.write([event]) for event in events)
            out += dialect.error_event(self.server.late) if self.server.late else writer.finish(answer.usage or Usage())
            self.give(200, out, "text/event-stream")

    def give(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(("127.0.0.1", 0), Handler)
    found.asked = []
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="k", base_url=f"http://127.0.0.1:{server.server_port}", max_retries=0) as client:
        yield client


@pytest.fixture
def gpt(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=f"http://127.0.0.1:{server.server_port}/v1", max_retries=0) as client:
        yield client


def said(*parts: Any, reason: Any = "stop", **more: Any) -> ChatAnswer:
    return ChatAnswer("msg_1", "claude-x", Message("assistant", parts), reason, USAGE, **more)


CALLS = (
    ToolCallPart("toolu_1", "weather", '{"city":"Wien"}'),
    ToolCallPart("toolu_2", "weather", '{"city":"Graz"}'),
)
THOUGHTS = (ReasoningPart("Let me see.", "sig=="), ReasoningPart(redacted="sealed"))


# Anthropic


def test_a_message(claude: anthropic.Anthropic, server: Server) -> None:
    server.answer = said(TextPart("Grüß Gott"), stop_sequence="END")
    found = claude.messages.create(
        model="chat",
        max_tokens=50,
        system="Be brief.",
        stop_sequences=["END"],
        metadata={"user_id": "u1"},
        messages=[{"role": "user", "content": "Hello"}],
    )
    assert [block.to_dict() for block in found.content] == [{"type": "text", "text": "Grüß Gott"}]
    assert (found.id, found.model, found.stop_reason, found.stop_sequence) == (
        "msg_1",
        "claude-x",
        "stop_sequence",
        "END",
    )
    usage = found.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (30, 60, 10)
    assert usage.output_tokens == 20
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == 5
    assert server.asked == [
        ChatRequest(
            model="chat",
            messages=(Message("system", (TextPart("Be brief."),)), Message("user", (TextPart("Hello"),))),
            max_tokens=50,
            stop=("END",),
            user="u1",
            dialect="anthropic",
        )
    ]


def test_a_message_streamed(claude: anthropic.Anthropic, server: Server) -> None:
    server.answer = said(*THOUGHTS, TextPart("Two calls."), *CALLS, reason="tool_calls")
    with claude.messages.stream(
        model="chat", max_tokens=50, messages=[{"role": "user", "content": "Weather?"}]
    ) as stream:
        texts = "".join(stream.text_stream)
        found = stream.get_final_message()
    assert texts == "Two calls."
    assert [block.to_dict() for block in found.content] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": "sig=="},
        {"type": "redacted_thinking", "data": "sealed"},
        {"type": "text", "text": "Two calls."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Wien"}},
        {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "Graz"}},
    ]
    assert found.stop_reason == "tool_use"
    assert (found.usage.input_tokens, found.usage.cache_read_input_tokens, found.usage.output_tokens) == (30, 60, 20)


def test_a_turn_goes_back_as_it_came(claude: anthropic.Anthropic, server: Server) -> None:
    """The loop of an agent: thinking with its signature, calls, results with a megabyte of text and an image."""
    server.answer = said(*THOUGHTS, *CALLS, reason="tool_calls")
    tools: Any = [
        {"name": "weather", "description": "w", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}},
        {"type": "web_search_20250305", "name": "web_search"},
    ]
    question: Any = {"role": "user", "content": [{"type": "text", "text": "Weather?"}]}
    first = claude.messages.create(model="chat", max_tokens=9, tools=tools, messages=[question])
    log = "line\n" * 200_000
    image = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    results: Any = {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": log, "is_error": True},
            {
                "type": "tool_result",
                "tool_use_id": "toolu_2",
                "content": [{"type": "text", "text": "see"}, {"type": "image", "source": image}],
            },
            {"type": "text", "text": "Go on.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ],
    }
    claude.messages.create(
        model="chat",
        max_tokens=9,
        tools=tools,
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 2000},
        messages=[question, first.to_param(), results],
    )
    assert server.asked[1] == ChatRequest(
        model="chat",
        messages=(
            Message("user", (TextPart("Weather?"),)),
            Message("assistant", (*THOUGHTS, *CALLS)),
            Message("tool", (ToolResultPart("toolu_1", (TextPart(log),), is_error=True),)),
            Message(
                "tool",
                (ToolResultPart("toolu_2", (TextPart("see"), ImagePart(data="iVBORw0KGgo=", media_type="image/png"))),),
            ),
            Message("user", (TextPart("Go on.", "1h"),)),
        ),
        tools=(Tool("weather", "w", SCHEMA, cache="default"),),
        tool_choice=ToolChoice("auto"),
        parallel_tool_calls=False,
        reasoning=Reasoning(budget_tokens=2000),
        max_tokens=9,
        extra={"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        dialect="anthropic",
    )


class Answer(pydantic.BaseModel):
    city: str


def test_structured_output(claude: anthropic.Anthropic, server: Server) -> None:
    server.answer = said(TextPart('{"city":"Wien"}'))
    found = claude.messages.parse(
        model="chat",
        max_tokens=9,
        messages=[{"role": "user", "content": "Where?"}],
        output_format=Answer,
        output_config={"effort": "low"},
        thinking={"type": "adaptive"},
    )
    assert found.parsed_output == Answer(city="Wien")
    asked = server.asked[0]
    assert asked.response_format is not None
    assert (asked.response_format.kind, asked.response_format.schema["required"]) == ("json_schema", ["city"])
    assert asked.reasoning == Reasoning(effort="low")
    assert asked.extra == {"thinking": {"type": "adaptive"}}


def test_tokens_are_counted(claude: anthropic.Anthropic, server: Server) -> None:
    found = claude.messages.count_tokens(model="chat", messages=[{"role": "user", "content": "x" * 400}])
    assert found.input_tokens == 104


@pytest.mark.parametrize(
    ("error", "wanted", "kind"),
    [
        (MalformedBody("No."), anthropic.BadRequestError, "invalid_request_error"),
        (InvalidKey("No."), anthropic.AuthenticationError, "authentication_error"),
        (MayNotCall("No."), anthropic.PermissionDeniedError, "permission_error"),
        (UnknownModel("No."), anthropic.NotFoundError, "not_found_error"),
        (TooLarge("No."), anthropic.ContentTooLargeError, "request_too_large"),
        (UpstreamBusy("No."), anthropic.RateLimitError, "rate_limit_error"),
        (UpstreamCut("No."), anthropic.InternalServerError, "api_error"),
        (NoUpstream("No."), anthropic.ServiceUnavailableError, "overloaded_error"),
    ],
)
def test_errors_raise_the_sdks_own(
    claude: anthropic.Anthropic, server: Server, error: DetentError, wanted: type[Exception], kind: str
) -> None:
    server.answer = error
    with pytest.raises(wanted) as raised:
        claude.messages.create(model="chat", max_tokens=9, messages=[{"role": "user", "content": "x"}])
    assert isinstance(raised.value, anthropic.APIStatusError)
    body: Any = raised.value.body
    assert (body["type"], body["error"]["type"], body["error"]["message"]) == ("error", kind, "No.")
    assert body["error"]["details"]["error_code"] == error.code


def test_a_late_error_ends_the_stream(claude: anthropic.Anthropic, server: Server) -> None:
    server.answer = said(TextPart("Half"))
    server.late = UpstreamCut("The provider went away.")
    seen: list[str] = []

    def read() -> None:
        question: Any = {"role": "user", "content": "x"}
        with claude.messages.stream(model="chat", max_tokens=9, messages=[question]) as stream:
            seen.extend(stream.text_stream)

    with pytest.raises(anthropic.APIStatusError, match="went away"):
        read()
    assert seen == ["Half"]


# OpenAI


def test_a_completion(gpt: openai.OpenAI, server: Server) -> None:
    server.answer = said(TextPart("Hi"), more=((Message("assistant", (TextPart("Ho"),)), "length"),))
    found = gpt.chat.completions.create(
        model="chat", n=2, seed=1, user="u", max_completion_tokens=5, messages=[{"role": "user", "content": "Hello"}]
    )
    assert [(choice.message.content, choice.finish_reason) for choice in found.choices] == [
        ("Hi", "stop"),
        ("Ho", "length"),
    ]
    assert found.usage is not None
    assert found.usage.to_dict() == {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    assert server.asked == [
        ChatRequest(
            model="chat",
            messages=(Message("user", (TextPart("Hello"),)),),
            n=2,
            seed=1,
            user="u",
            max_tokens=5,
            dialect="openai",
        )
    ]


def test_a_completion_streamed(gpt: openai.OpenAI, server: Server) -> None:
    server.answer = said(*THOUGHTS, TextPart("Two calls."), *CALLS, reason="tool_calls")
    with gpt.chat.completions.stream(
        model="chat", messages=[{"role": "user", "content": "Weather?"}], stream_options={"include_usage": True}
    ) as stream:
        found = stream.get_final_completion()
    message = found.choices[0].message
    assert (message.content, found.choices[0].finish_reason) == ("Two calls.", "tool_calls")
    assert message.tool_calls is not None
    assert [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls] == [
        (call.id, call.name, call.arguments) for call in CALLS
    ]
    assert found.usage is not None
    assert found.usage.total_tokens == 120
    assert message.to_dict()["reasoning_content"] == "Let me see."


def test_usage_comes_only_when_asked_for(gpt: openai.OpenAI, server: Server) -> None:
    server.answer = said(TextPart("x"))
    stream = gpt.chat.completions.create(model="chat", stream=True, messages=[{"role": "user", "content": "x"}])
    chunks = list(stream)
    assert all(chunk.usage is None for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "x"


def test_thinking_goes_back_with_its_signature(gpt: openai.OpenAI, server: Server) -> None:
    server.answer = said(*THOUGHTS, *CALLS, reason="tool_calls")
    first = gpt.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Weather?"}])
    message: Any = first.choices[0].message.to_dict()
    results: Any = [
        {"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "sunny"}]} for call in CALLS
    ]
    gpt.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "Weather?"}, message, *results], reasoning_effort="high"
    )
    asked = server.asked[1]
    assert asked.messages[1].parts == (*THOUGHTS, *CALLS)
    assert asked.messages[2] == Message("tool", (ToolResultPart("toolu_1", (TextPart("sunny"),)),))
    assert asked.reasoning == Reasoning(effort="high")


def test_a_parsed_completion(gpt: openai.OpenAI, server: Server) -> None:
    server.answer = said(TextPart('{"city":"Wien"}'))
    found = gpt.chat.completions.parse(
        model="chat", messages=[{"role": "user", "content": "Where?"}], response_format=Answer
    )
    assert found.choices[0].message.parsed == Answer(city="Wien")
    wish = server.asked[0].response_format
    assert isinstance(wish, ResponseFormat)
    assert (wish.kind, wish.name, wish.strict) == ("json_schema", "Answer", True)


def test_a_refusal(gpt: openai.OpenAI, server: Server) -> None:
    server.answer = said(RefusalPart("I will not."), reason="refusal")
    for stream in (False, True):
        with gpt.chat.completions.stream(model="chat", messages=[{"role": "user", "content": "x"}]) as told:
            found = (
                told.get_final_completion()
                if stream
                else gpt.chat.completions.create(model="chat", messages=[{"role": "user", "content": "x"}])
            )
        choice = found.choices[0]
        assert (choice.message.refusal, choice.message.content, choice.finish_reason) == ("I will not.", None, "stop")


def test_functions_of_old(gpt: openai.OpenAI, server: Server) -> None:
    server.answer = said(CALLS[0], reason="tool_calls")
    functions: Any = [{"name": "weather", "parameters": SCHEMA}]
    question: Any = {"role": "user", "content": "Weather?"}
    found = gpt.chat.completions.create(
        model="chat", functions=functions, function_call={"name": "weather"}, messages=[question]
    )
    choice = found.choices[0]
    assert choice.message.function_call is not None
    assert choice.message.function_call.to_dict() == {"name": "weather", "arguments": '{"city":"Wien"}'}
    assert (choice.finish_reason, choice.message.tool_calls) == ("function_call", None)
    back: Any = [question, choice.message.to_dict(), {"role": "function", "name": "weather", "content": "sunny"}]
    chunks = list(gpt.chat.completions.create(model="chat", functions=functions, messages=back, stream=True))
    deltas = [chunk.choices[0].delta.function_call for chunk in chunks]
    assert "".join(delta.arguments or "" for delta in deltas if delta) == '{"city":"Wien"}'
    asked = server.asked
    assert (asked[0].tools, asked[0].tool_choice) == (
        (Tool("weather", parameters=SCHEMA),),
        ToolChoice("tool", "weather"),
    )
    assert [message.parts for message in asked[1].messages[1:]] == [
        (ToolCallPart("call_1", "weather", '{"city":"Wien"}'),),
        (ToolResultPart("call_1", (TextPart("sunny"),), "weather"),),
    ]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MalformedBody("No."), openai.BadRequestError),
        (InvalidKey("No."), openai.AuthenticationError),
        (MayNotCall("No."), openai.PermissionDeniedError),
        (UnknownModel("No."), openai.NotFoundError),
        (UpstreamBusy("No."), openai.RateLimitError),
        (NoUpstream("No."), openai.InternalServerError),
    ],
)
def test_errors_raise_openais_own(
    gpt: openai.OpenAI, server: Server, error: DetentError, wanted: type[Exception]
) -> None:
    server.answer = error
    with pytest.raises(wanted) as raised:
        gpt.chat.completions.create(model="chat", messages=[{"role": "user", "content": "x"}])
    assert isinstance(raised.value, openai.APIStatusError)
    assert raised.value.code == error.code


def test_a_late_error_raises(gpt: openai.OpenAI, server: Server) -> None:
    server.answer = said(TextPart("Half"))
    server.late = UpstreamCut("The provider went away.")
    stream = gpt.chat.completions.create(model="chat", stream=True, messages=[{"role": "user", "content": "x"}])
    seen: list[str | None] = []
    with pytest.raises(openai.APIError, match="went away"):
        seen.extend(chunk.choices[0].delta.content for chunk in stream)
    assert "Half" in seen
