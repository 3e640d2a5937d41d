"""The Responses API, Gemini and Bedrock: read back the same, whole and streamed, however the bytes are cut."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from detent.gateway.dialects import CLIENTS, PROVIDERS
from detent.gateway.dialects.eventstream import packed
from detent.gateway.dialects.folding import fold, unfold
from detent.gateway.dialects.quirks import OPENAI
from detent.kernel.chat import (
    AudioPart,
    ChatAnswer,
    ChatEvent,
    ChatRequest,
    FilePart,
    ImagePart,
    Message,
    Part,
    Reasoning,
    ReasoningDelta,
    ReasoningPart,
    RefusalPart,
    ResponseFormat,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Usage,
)

said = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=10).map(lambda text: f"x{text}")
name = st.text("abcXYZ019_-", min_size=1, max_size=8)
data = st.binary(min_size=1, max_size=8).map(lambda raw: base64.b64encode(raw).decode())
arguments = st.dictionaries(name, st.integers() | said | st.none(), max_size=3).map(json.dumps)
text = said.map(TextPart)
image = st.one_of(
    name.map(lambda word: ImagePart(f"https://example.com/{word}.png", detail="low")),
    data.map(lambda found: ImagePart(data=found, media_type="image/png", detail="auto")),
)
pdf = st.builds(lambda found, title: FilePart(found, name=title, media_type="application/pdf"), data, name)
schema = st.dictionaries(name, st.sampled_from([{"type": "string"}, {"type": "integer"}]), min_size=1, max_size=2).map(
    lambda found: {"type": "object", "properties": found}
)
state = st.builds(lambda mark, word: mark + word, st.sampled_from(["openai.", "gemini.", ""]), name)
call = st.builds(ToolCallPart, name, name, arguments, st.just("") | state)
thought = st.builds(ReasoningPart, said, state) | name.map(lambda sealed: ReasoningPart(redacted=sealed))
usage = st.builds(
    lambda cached, written, more, thinking, output: Usage(
        cached + written + more, thinking + output, cached, written, thinking
    ),
    *[st.integers(0, 50)] * 5,
)
sizes = st.lists(st.integers(1, 90), min_size=1, max_size=6)


def merged(parts: list[Part]) -> tuple[Part, ...]:
    """Texts that follow each other as the one text that they are."""
    found: list[Part] = []
    for part in parts:
        if found and isinstance(part, TextPart) and isinstance(found[-1], TextPart):
            found[-1] = TextPart(found[-1].text + part.text)
        else:
            found.append(part)
    return tuple(found)


def split(events: list[ChatEvent], cuts: list[int]) -> list[ChatEvent]:
    """The same said in smaller pieces."""
    found: list[ChatEvent] = []
    for event in events:
        field = "arguments" if isinstance(event, ToolCallDelta) else "text"
        whole = getattr(event, field, None)
        if not isinstance(event, TextDelta | ToolCallDelta | ReasoningDelta) or not whole:
            found.append(event)
            continue
        for piece, last in pieces(whole, cuts):
            more = {"signature": "", "redacted": ""} if isinstance(event, ReasoningDelta) and not last else {}
            found.append(msgspec.structs.replace(event, **{field: piece}, **more))
    return found


def pieces(whole: Any, cuts: list[int]) -> list[tuple[Any, bool]]:
    found = []
    at = turn = 0
    while at < len(whole):
        end = at + cuts[turn % len(cuts)]
        found.append((whole[at:end], end >= len(whole)))
        at, turn = end, turn + 1
    return found


def read_back(dialect: str, raw: bytes, cuts: list[int]) -> tuple[list[ChatEvent], bytes]:
    reader = PROVIDERS[dialect].stream_reader()
    events: list[ChatEvent] = []
    kept = b""
    for piece, _ in pieces(raw, cuts):
        out, told = reader.feed(piece)
        kept += out
        events += told
    assert reader.done
    assert reader.failure is None
    return events, kept


# The Responses API

turn = st.lists(text | thought | call, min_size=1, max_size=4).map(lambda parts: Message("assistant", merged(parts)))
user = st.lists(text | image | pdf | data.map(lambda found: AudioPart(found, "mp3")), min_size=1, max_size=3).map(
    lambda parts: Message("user", tuple(parts))
)
system = st.builds(lambda role, part: Message(role, (part,)), st.sampled_from(["system", "developer"]), text)
result = st.builds(ToolResultPart, name, text.map(lambda part: (part,)) | st.lists(image | pdf, min_size=1).map(tuple))
tools = st.lists(
    st.builds(Tool, name, said, schema, st.sampled_from([None, True, False])), max_size=2, unique_by=lambda t: t.name
).map(tuple)
number = st.floats(0, 1).map(lambda found: round(found, 3))
responses_request = st.builds(
    ChatRequest,
    model=st.just("route"),
    messages=st.lists(system | user | turn | result.map(lambda part: Message("tool", (part,))), min_size=1, max_size=5),
    tools=tools,
    tool_choice=st.sampled_from([None, ToolChoice("none"), ToolChoice("required"), ToolChoice("tool", "f")]),
    parallel_tool_calls=st.sampled_from([None, True, False]),
    response_format=st.sampled_from(
        [None, ResponseFormat("json_object"), ResponseFormat("json_schema", "a", "what", {"type": "object"}, True)]
    ),
    reasoning=st.sampled_from([None, Reasoning("none"), Reasoning("max", None, "detailed")]),
    max_tokens=st.none() | st.integers(1, 9999),
    temperature=st.none() | number,
    top_p=st.none() | number,
    stream=st.booleans(),
    user=st.just("") | name,
    metadata=st.dictionaries(name, said, max_size=1),
    service_tier=st.sampled_from(["", "flex"]),
    extra=st.just({}) | st.just({"truncation": "auto", "verbosity": "low", "prompt_cache_key": "k"}),
    dialect=st.just("responses"),
)


def openais(message: Message) -> list[Message]:
    """What OpenAI can be sent of a message: of thinking, its own."""
    if message.role != "assistant":
        return [message]
    parts = [
        msgspec.structs.replace(part, signature="") if isinstance(part, ToolCallPart) else part
        for part in message.parts
        if not isinstance(part, ReasoningPart) or part.signature.startswith("openai.")
    ]
    return [Message("assistant", merged(parts))] if parts else []


def joined(messages: list[Message]) -> tuple[Message, ...]:
    """Turns of the assistant that follow each other as one."""
    found: list[Message] = []
    for message in messages:
        if found and message.role == found[-1].role == "assistant":
            found[-1] = Message("assistant", merged([*found[-1].parts, *message.parts]))
        else:
            found.append(message)
    return tuple(found)


def texts(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(Message(m.role, merged(list(m.parts)) if m.role == "assistant" else m.parts) for m in messages)


@given(responses_request)
def test_a_responses_request_survives(request: ChatRequest) -> None:
    out = PROVIDERS["responses"].write_request(request, model="route", quirks=OPENAI)
    assert out.dropped == ()
    assert json.loads(out.body)["store"] is False
    again = CLIENTS["responses"].read(out.body, max_depth=64).neutral()
    kept = joined([part for message in request.messages for part in openais(message)])
    include = {"include": ["reasoning.encrypted_content"]} if request.reasoning is not None else {}
    expected = msgspec.structs.replace(request, messages=kept, extra={**request.extra, **include})
    assert msgspec.structs.replace(again, messages=texts(again.messages)) == expected


response_parts = st.lists(text | thought | call, max_size=5).map(merged)
responses_answer = st.builds(
    lambda key, parts, length, counted: ChatAnswer(
        f"resp_{key}",
        "m",
        Message("assistant", parts),
        "length" if length else "tool_calls" if any(isinstance(p, ToolCallPart) for p in parts) else "stop",
        counted,
        created=7,
    ),
    st.text("0123456789abcdef", min_size=16, max_size=16),
    response_parts | said.map(lambda words: (TextPart("Well."), RefusalPart(words))),
    st.booleans(),
    usage,
)


def asked() -> Any:
    return CLIENTS["responses"].read(b'{"model":"m","input":"x","stream":true}', max_depth=64)


def without_ids(answer: ChatAnswer) -> ChatAnswer:
    """Items are named by the writer."""
    parts = tuple(
        msgspec.structs.replace(part, id="") if isinstance(part, ReasoningPart) else part
        for part in answer.message.parts
    )
    return msgspec.structs.replace(answer, message=Message("assistant", parts))


def refused(answer: ChatAnswer) -> ChatAnswer:
    """A refusal is a reason of its own."""
    if answer.finish_reason == "stop" and any(isinstance(part, RefusalPart) for part in answer.message.parts):
        return msgspec.structs.replace(answer, finish_reason="refusal")
    return answer


@given(responses_answer)
def test_a_response_survives(answer: ChatAnswer) -> None:
    raw = CLIENTS["responses"].write_answer(asked(), answer)
    assert without_ids(PROVIDERS["responses"].read_answer(raw)) == refused(answer)


@given(responses_answer, sizes, sizes)
def test_a_responses_stream_survives(answer: ChatAnswer, cuts: list[int], reads: list[int]) -> None:
    writer: Any = CLIENTS["responses"].stream_writer(asked())
    events = split(unfold(answer), cuts)
    raw = b"".join(writer.write([event]) for event in events) + writer.finish(answer.usage or Usage())
    told, kept = read_back("responses", raw, reads)
    assert kept == raw
    assert without_ids(fold(told)) == refused(answer)
    # The last event holds what a whole answer would have held.
    assert json.loads(writer.response) == json.loads(CLIENTS["responses"].write_answer(asked(), answer))
    numbers = [json.loads(line[6:])["sequence_number"] for line in raw.split(b"\n") if line.startswith(b"data: ")]
    assert numbers == list(range(len(numbers)))


@given(responses_answer)
def test_what_was_answered_can_be_sent_back(answer: ChatAnswer) -> None:
    """The output of one turn is input of the next, to the last byte of every maker's state."""
    output = json.loads(CLIENTS["responses"].write_answer(asked(), answer))["output"]
    body = {"model": "m", "input": [*output, {"role": "user", "content": "Go on."}]}
    *before, _ = CLIENTS["responses"].read(json.dumps(body).encode(), max_depth=64).neutral().messages
    assert joined([without_ids(ChatAnswer("", "", message, "stop")).message for message in before]) == (
        (Message("assistant", answer.message.parts),) if answer.message.parts else ()
    )


# Gemini and Bedrock as providers: what they say is sent back to them as they said it

gemini_part = st.one_of(
    said.map(lambda words: {"text": words}),
    said.map(lambda words: {"text": words, "thought": True}),
    st.builds(lambda words, sign: {"text": words, "thought": True, "thoughtSignature": sign}, said, name),
    st.builds(lambda words, sign: {"text": words, "thoughtSignature": sign}, said, name),
    st.builds(
        lambda tool, given_, sign: {"functionCall": {"name": tool, "args": given_}, **sign},
        name,
        st.dictionaries(name, st.integers(-(2**53), 2**53) | said, max_size=2),
        st.just({}) | name.map(lambda word: {"thoughtSignature": word}),
    ),
)
COUNTS = {"promptTokenCount": 7, "candidatesTokenCount": 3, "thoughtsTokenCount": 2}


@given(st.lists(gemini_part, min_size=1, max_size=6), sizes)
def test_a_gemini_stream_tells_what_the_whole_answer_tells(parts: list[dict[str, Any]], reads: list[int]) -> None:
    def response(some: list[dict[str, Any]], more: dict[str, str]) -> bytes:
        candidate = {"content": {"role": "model", "parts": some}, "index": 0, **more}
        shared = {"usageMetadata": COUNTS, "responseId": "r", "modelVersion": "m"}
        return json.dumps({"candidates": [candidate], **shared}).encode()

    whole = PROVIDERS["gemini"].read_answer(response(parts, {"finishReason": "STOP"}))
    raw = b"".join(
        b"data: " + response([part], {"finishReason": "STOP"} if at == len(parts) - 1 else {}) + b"\n\n"
        for at, part in enumerate(parts)
    )
    told, kept = read_back("gemini", raw, reads)
    assert kept == raw
    assert fold(told) == whole
    request = ChatRequest("r", (Message("user", (TextPart("x"),)), whole.message))
    sent = json.loads(PROVIDERS["gemini"].write_request(request, model="gemini-2.5-pro", quirks=OPENAI).body)
    back = [part for content in sent["contents"][1:] for part in content["parts"]]
    assert signed(back) == signed(parts)
    assert "".join(p["text"] for p in back if "text" in p and not p.get("thought")) == "".join(
        p["text"] for p in parts if "text" in p and not p.get("thought")
    )


def signed(parts: list[dict[str, Any]]) -> list[Any]:
    """Calls and signatures, in order."""
    return [
        (part.get("functionCall"), part.get("thoughtSignature"))
        for part in parts
        if "functionCall" in part or "thoughtSignature" in part
    ]


bedrock_block = st.one_of(
    said.map(lambda words: {"text": words}),
    st.builds(
        lambda words, sign: {"reasoningContent": {"reasoningText": {"text": words, "signature": sign}}}, said, name
    ),
    data.map(lambda sealed: {"reasoningContent": {"redactedContent": sealed}}),
    st.builds(
        lambda key, tool, given_: {"toolUse": {"toolUseId": key, "name": tool, "input": given_}},
        name,
        name,
        st.dictionaries(name, st.integers(-(2**53), 2**53) | said, max_size=2),
    ),
)


def frame(kind: str, **payload: Any) -> bytes:
    return packed({":event-type": kind, ":message-type": "event"}, msgspec.json.encode(payload))


def told_by(blocks: list[dict[str, Any]], cuts: list[int]) -> bytes:
    frames = [frame("messageStart", role="assistant")]
    for at, block in enumerate(blocks):
        deltas: list[dict[str, Any]]
        if "text" in block:
            deltas = [{"text": piece} for piece, _ in pieces(block["text"], cuts)]
        elif "toolUse" in block:
            use = {"toolUseId": block["toolUse"]["toolUseId"], "name": block["toolUse"]["name"]}
            frames.append(frame("contentBlockStart", contentBlockIndex=at, start={"toolUse": use}))
            written = msgspec.json.encode(block["toolUse"]["input"]).decode()
            deltas = [{"toolUse": {"input": piece}} for piece, _ in pieces(written, cuts)]
        elif "redactedContent" in block["reasoningContent"]:
            deltas = [block]
        else:
            found = block["reasoningContent"]["reasoningText"]
            deltas = [{"reasoningContent": {"text": piece}} for piece, _ in pieces(found["text"], cuts)]
            deltas.append({"reasoningContent": {"signature": found["signature"]}})
        frames += [frame("contentBlockDelta", contentBlockIndex=at, delta=delta) for delta in deltas]
        frames.append(frame("contentBlockStop", contentBlockIndex=at))
    frames.append(frame("messageStop", stopReason="end_turn"))
    frames.append(frame("metadata", usage={"inputTokens": 3, "outputTokens": 2}))
    return b"".join(frames)


@given(st.lists(bedrock_block, min_size=1, max_size=5), sizes, sizes)
def test_a_bedrock_stream_tells_what_the_whole_answer_tells(
    blocks: list[dict[str, Any]], cuts: list[int], reads: list[int]
) -> None:
    raw = told_by(blocks, cuts)
    told, kept = read_back("bedrock", raw, reads)
    assert kept == raw
    whole = PROVIDERS["bedrock"].read_answer(
        msgspec.json.encode(
            {
                "output": {"message": {"role": "assistant", "content": blocks}},
                "stopReason": "end_turn",
                "usage": {"inputTokens": 3, "outputTokens": 2},
            }
        )
    )
    assert fold(told) == whole
    request = ChatRequest("r", (Message("user", (TextPart("x"),)), whole.message))
    sent = json.loads(PROVIDERS["bedrock"].write_request(request, model="m", quirks=OPENAI).body)
    assert sent["messages"][1]["content"] == [block for block in blocks if block.get("text", "x").strip()]


@given(st.binary(max_size=300), st.sampled_from(["responses", "gemini", "bedrock"]), sizes)
def test_noise_is_never_more_than_a_failure(noise: bytes, dialect: str, reads: list[int]) -> None:
    reader = PROVIDERS[dialect].stream_reader()
    for raw in (noise, b"data: " + noise + b"\n\n"):
        for piece, _ in pieces(raw, reads):
            reader.feed(piece)
