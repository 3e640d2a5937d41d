"""Dialects: what is written in one is read back the same, whole and streamed, however the bytes are cut."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from detent.gateway.dialects import CLIENTS, PROVIDERS
from detent.gateway.dialects.folding import fold, unfold
from detent.gateway.dialects.quirks import ANTHROPIC, FLAVOURS, Quirks
from detent.kernel.chat import (
    AnswerStarted,
    ChatAnswer,
    ChatEvent,
    ChatRequest,
    ChoiceFinished,
    FilePart,
    ImagePart,
    Message,
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
    ToolCallStarted,
    ToolChoice,
    ToolResultPart,
    Usage,
    UsageReported,
)

DEPTH = 64
ALL = Quirks(reasoning_field="reasoning_content", cache_marks=True, top_k=True)

said = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=10).map(lambda text: f"x{text}")
name = st.text("abcXYZ019_-", min_size=1, max_size=8)
data = st.binary(min_size=1, max_size=8).map(lambda raw: base64.b64encode(raw).decode())
url = name.map(lambda word: f"https://example.com/{word}.png")
value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | said,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(name, inner, max_size=2),
    max_leaves=4,
)
arguments = st.dictionaries(name, value, max_size=3).map(lambda found: msgspec.json.encode(found).decode())
schema = st.dictionaries(name, st.sampled_from([{"type": "string"}, {"type": "integer"}]), min_size=1, max_size=2).map(
    lambda found: {"type": "object", "properties": found}
)
cache = st.sampled_from(["", "", "default", "5m", "1h"])
text = st.builds(TextPart, said, cache)
image = st.one_of(
    st.builds(lambda found, mark: ImagePart(url=found, cache=mark), url, cache),
    st.builds(lambda found, mark: ImagePart(data=found, media_type="image/png", cache=mark), data, cache),
)
pdf = st.builds(
    lambda found, title, mark: FilePart(data=found, name=title, media_type="application/pdf", cache=mark),
    data,
    name,
    cache,
)
thought = st.one_of(
    st.builds(ReasoningPart, said, name),
    st.builds(lambda sealed: ReasoningPart(redacted=sealed), name),
)
call = st.builds(ToolCallPart, name, name, arguments, st.just(""), cache)
plain_call = st.builds(ToolCallPart, name, name, arguments)
tool = st.builds(Tool, name, said, schema, st.sampled_from([None, True, False]), cache)
choice = st.one_of(
    st.sampled_from([ToolChoice("auto"), ToolChoice("none"), ToolChoice("required")]),
    name.map(lambda found: ToolChoice("tool", found)),
)
one_text = said.map(lambda found: (TextPart(found),))
result = st.builds(ToolResultPart, name, one_text | st.just(()))
rich_result = st.builds(
    lambda key, content, failed, mark: ToolResultPart(key, tuple(content), is_error=failed, cache=mark),
    name,
    st.lists(text | image | pdf, max_size=3),
    st.booleans(),
    cache,
)
number = st.floats(0, 1).map(lambda found: round(found, 3))


def assistant(order: str) -> st.SearchStrategy[Message]:
    """A message of the assistant: in the one dialect parts stand in any order, in the other in a fixed one."""
    if order == "any":
        parts: st.SearchStrategy[Any] = st.lists(text | thought | call, min_size=1, max_size=4).map(tuple)
    else:
        parts = st.builds(
            lambda thoughts, texts, calls: (*thoughts, *texts, *calls),
            st.lists(thought, max_size=2),
            st.lists(text, max_size=2),
            st.lists(call, max_size=2),
        )
    return parts.map(lambda found: Message("assistant", found))


def openai_messages() -> st.SearchStrategy[tuple[Message, ...]]:
    user = st.lists(text | image | pdf, max_size=3).map(lambda found: Message("user", tuple(found)))
    tools = st.builds(lambda found: Message("tool", (found,)), result)
    system = st.builds(lambda role, found: Message(role, (found,)), st.sampled_from(["system", "developer"]), text)
    return st.lists(system | user | assistant("fixed") | tools, min_size=1, max_size=5).map(tuple)


def anthropic_messages() -> st.SearchStrategy[tuple[Message, ...]]:
    user = st.lists(text | image | pdf, min_size=1, max_size=3).map(lambda found: (Message("user", tuple(found)),))
    tools = st.lists(rich_result, min_size=1, max_size=2).map(
        lambda found: tuple(Message("tool", (one,)) for one in found)
    )
    turn = st.builds(
        lambda results, says, answers: (*results, *says, answers), tools, user | st.just(()), assistant("any")
    )
    begin = st.builds(lambda says, answers: (*says, answers), user, assistant("any"))
    system = st.lists(text, min_size=1, max_size=2).map(lambda found: (Message("system", tuple(found)),))
    return st.builds(
        lambda first, start, turns, last: (*first, *start, *(m for turn in turns for m in turn), *last),
        system | st.just(()),
        begin,
        st.lists(turn, max_size=2),
        user,
    )


common: dict[str, Any] = {
    "model": st.just("route"),
    "max_tokens": st.integers(1, 9999),
    "temperature": st.none() | number,
    "top_p": st.none() | number,
    "stop": st.lists(said, max_size=2).map(tuple),
    "stream": st.booleans(),
    "user": st.just("") | name,
}
openai_request = st.builds(
    ChatRequest,
    **common,
    messages=openai_messages(),
    tools=st.lists(tool, max_size=2).map(tuple),
    tool_choice=st.none() | choice,
    parallel_tool_calls=st.sampled_from([None, True, False]),
    response_format=st.sampled_from(
        [
            None,
            ResponseFormat(),
            ResponseFormat("json_object"),
            ResponseFormat("json_schema", "answer", "what", {"type": "object"}, True),
        ]
    ),
    reasoning=st.none() | st.sampled_from(["minimal", "high", "max"]).map(lambda found: Reasoning(effort=found)),
    top_k=st.none() | st.integers(1, 9),
    presence_penalty=st.none() | number,
    frequency_penalty=st.none() | number,
    seed=st.none() | st.integers(0, 9),
    n=st.none() | st.integers(1, 3),
    metadata=st.dictionaries(name, said, max_size=1),
    service_tier=st.sampled_from(["", "flex"]),
    extra=st.just({}) | st.just({"logit_bias": {"1": 2}, "unheard_of": [1]}),
    dialect=st.just("openai"),
)
anthropic_request = st.builds(
    lambda request, found: msgspec.structs.replace(
        request,
        tool_choice=found[0] if request.tools else None,
        parallel_tool_calls=found[1] if request.tools else None,
    ),
    st.builds(
        ChatRequest,
        **common,
        messages=anthropic_messages(),
        tools=st.lists(tool, max_size=2).map(tuple),
        response_format=st.none() | schema.map(lambda found: ResponseFormat("json_schema", schema=found)),
        reasoning=st.sampled_from(
            [
                None,
                Reasoning(effort="none"),
                Reasoning(budget_tokens=2000),
                Reasoning(effort="max"),
                Reasoning(effort="low", budget_tokens=1024),
            ]
        ),
        top_k=st.none() | st.integers(1, 9),
        service_tier=st.sampled_from(["", "standard_only"]),
        extra=st.just({}) | st.just({"container": "c", "thinking": {"type": "adaptive", "display": "omitted"}}),
        dialect=st.just("anthropic"),
    ),
    st.sampled_from(
        [(None, None), (ToolChoice("auto"), False), (ToolChoice("required"), True), (ToolChoice("none"), None)]
    ),
)


@given(openai_request)
def test_an_openai_request_survives(request: ChatRequest) -> None:
    out = PROVIDERS["openai"].write_request(request, model="route", quirks=ALL)
    assert out.dropped == ()
    assert CLIENTS["openai"].read(out.body, max_depth=DEPTH).neutral() == request


@given(anthropic_request)
def test_an_anthropic_request_survives(request: ChatRequest) -> None:
    if "thinking" in request.extra:
        request = msgspec.structs.replace(request, reasoning=Reasoning(effort="low"))
    out = PROVIDERS["anthropic"].write_request(request, model="route", quirks=ANTHROPIC)
    assert out.dropped == ()
    assert CLIENTS["anthropic"].read(out.body, max_depth=DEPTH).neutral() == request


@given(openai_request, st.sampled_from(["claude-3-5-haiku", "claude-sonnet-4-5", "claude-opus-4-8", "kimi-k3"]))
def test_an_openai_request_makes_a_good_anthropic_one(request: ChatRequest, model: str) -> None:
    assume(any(not isinstance(part, ReasoningPart) for message in request.messages for part in message.parts))
    out = PROVIDERS["anthropic"].write_request(request, model=model, quirks=ANTHROPIC)
    body = json.loads(out.body)
    read = CLIENTS["anthropic"].read(out.body, max_depth=DEPTH).neutral()
    assert read.max_tokens
    roles = [message["role"] for message in body["messages"]]
    assert all(one != after for one, after in itertools.pairwise(roles))
    thinking = body.get("thinking", {})
    if thinking.get("type") == "enabled":
        assert 1024 <= thinking["budget_tokens"] < body["max_tokens"]
        assert "temperature" not in body
        assert body.get("tool_choice", {}).get("type") not in {"any", "tool"}
    wrote = {part.text for message in request.messages for part in message.parts if isinstance(part, TextPart)}
    found = {part.text for message in read.messages for part in message.parts if isinstance(part, TextPart)}
    assert wrote <= found
    calls = [part for message in request.messages for part in message.parts if isinstance(part, ToolCallPart)]
    kept = [part for message in read.messages for part in message.parts if isinstance(part, ToolCallPart)]
    assert [(c.id, c.name, json.loads(c.arguments)) for c in calls] == [
        (c.id, c.name, json.loads(c.arguments)) for c in kept
    ]


@given(anthropic_request, st.sampled_from(sorted(FLAVOURS)))
def test_an_anthropic_request_makes_a_good_openai_one(request: ChatRequest, flavour: str) -> None:
    quirks = FLAVOURS[flavour]
    out = PROVIDERS["openai"].write_request(request, model="gpt-4.1", quirks=quirks)
    body = json.loads(out.body)
    assert not set(quirks.refused) & set(body)
    read = CLIENTS["openai"].read(out.body, max_depth=DEPTH).neutral()
    assert read.max_tokens == request.max_tokens
    spoken = "".join(part.text for message in read.messages for part in message.parts if isinstance(part, TextPart))
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, TextPart):
                assert part.text in spoken
    asked = [m for m in body["messages"] if m["role"] == "tool"]
    results = [p for m in request.messages for p in m.parts if isinstance(p, ToolResultPart)]
    assert [m["tool_call_id"] for m in asked] == [p.id for p in results]


# Answers

usage = st.builds(
    lambda cached, written, more, thought_, output: Usage(
        cached + written + more, thought_ + output, cached, written, thought_
    ),
    *[st.integers(0, 50)] * 5,
)
openai_message = st.builds(
    lambda thoughts, words, calls: Message("assistant", (*thoughts, *((TextPart(words),) if words else ()), *calls)),
    st.lists(thought, max_size=2),
    st.just("") | said,
    st.lists(plain_call, max_size=3, unique_by=lambda part: part.id),
)
refusal = said.map(lambda words: (Message("assistant", (RefusalPart(words),)), "refusal"))


def ended(message: Message) -> st.SearchStrategy[tuple[Message, str]]:
    called = any(isinstance(part, ToolCallPart) for part in message.parts)
    reasons = ["tool_calls", "length"] if called else ["stop", "length", "content_filter"]
    return st.sampled_from(reasons).map(lambda reason: (message, reason))


openai_choice = openai_message.flatmap(ended) | refusal
openai_answer = st.builds(
    lambda key, first, more, counted: ChatAnswer(key, "m", first[0], first[1], counted, "", 7, tuple(more)),
    name,
    openai_choice,
    st.lists(openai_choice, max_size=2),
    usage,
)
anthropic_message = st.lists(said.map(TextPart) | thought | plain_call, max_size=4).map(
    lambda parts: Message("assistant", tuple(parts))
)
anthropic_answer = st.builds(
    lambda key, message, end, counted: ChatAnswer(key, "m", message, end[0], counted, end[1]),
    name,
    anthropic_message,
    st.sampled_from(
        [("stop", ""), ("stop", "END"), ("length", ""), ("tool_calls", ""), ("refusal", ""), ("pause", "")]
    ),
    usage,
)


def _openai_asked() -> Any:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return CLIENTS["openai"].read(json.dumps(body).encode(), max_depth=DEPTH)


def _anthropic_asked() -> Any:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "stream": True}
    return CLIENTS["anthropic"].read(json.dumps(body).encode(), max_depth=DEPTH)


ASKED: dict[str, Callable[[], Any]] = {"openai": _openai_asked, "anthropic": _anthropic_asked}


@given(openai_answer)
def test_an_openai_answer_survives(answer: ChatAnswer) -> None:
    raw = CLIENTS["openai"].write_answer(_openai_asked(), answer)
    assert PROVIDERS["openai"].read_answer(raw) == answer


@given(anthropic_answer)
def test_an_anthropic_answer_survives(answer: ChatAnswer) -> None:
    raw = CLIENTS["anthropic"].write_answer(_anthropic_asked(), answer)
    assert PROVIDERS["anthropic"].read_answer(raw) == answer


@given(openai_answer | anthropic_answer)
def test_folding_an_unfolded_answer_gives_it_back(answer: ChatAnswer) -> None:
    assert fold(unfold(answer)) == answer


# Streams


def split(events: list[ChatEvent], sizes: list[int]) -> list[ChatEvent]:
    """The same said in smaller pieces."""
    found: list[ChatEvent] = []
    for event in events:
        field = "arguments" if isinstance(event, ToolCallDelta) else "text"
        whole = getattr(event, field, None)
        if not isinstance(event, TextDelta | ToolCallDelta | ReasoningDelta) or not whole:
            found.append(event)
            continue
        at, turn = 0, 0
        while at < len(whole):
            size = sizes[turn % len(sizes)]
            piece = whole[at : at + size]
            at, turn = at + size, turn + 1
            last = at >= len(whole)
            more = {"signature": "", "redacted": ""} if isinstance(event, ReasoningDelta) and not last else {}
            found.append(msgspec.structs.replace(event, **{field: piece}, **more))
    return found


def read_back(dialect: str, raw: bytes, sizes: list[int]) -> tuple[list[ChatEvent], bytes]:
    reader = PROVIDERS[dialect].stream_reader()
    events: list[ChatEvent] = []
    kept = b""
    at, turn = 0, 0
    while at < len(raw):
        size = sizes[turn % len(sizes)]
        out, told = reader.feed(raw[at : at + size])
        kept += out
        events += told
        at, turn = at + size, turn + 1
    assert reader.done
    assert reader.failure is None
    return events, kept


sizes = st.lists(st.integers(1, 90), min_size=1, max_size=6)


def streamed(dialect: str, answer: ChatAnswer, pieces: list[int], cuts: list[int]) -> ChatAnswer:
    writer = CLIENTS[dialect].stream_writer(ASKED[dialect]())
    events = split(unfold(answer), pieces)
    raw = b"".join(writer.write([event]) for event in events) + writer.finish(answer.usage or Usage())
    told, kept = read_back(dialect, raw, cuts)
    assert kept == raw
    return fold(told)


@given(openai_answer, sizes, sizes)
def test_an_openai_stream_survives(answer: ChatAnswer, pieces: list[int], cuts: list[int]) -> None:
    assert streamed("openai", answer, pieces, cuts) == answer


@given(anthropic_answer, sizes, sizes)
def test_an_anthropic_stream_survives(answer: ChatAnswer, pieces: list[int], cuts: list[int]) -> None:
    assert streamed("anthropic", answer, pieces, cuts) == answer


@given(
    st.lists(plain_call, min_size=2, max_size=4, unique_by=lambda part: part.id),
    sizes,
    st.randoms(use_true_random=False),
)
def test_interleaved_calls_become_blocks(calls: list[ToolCallPart], pieces: list[int], random: Any) -> None:
    """Parallel calls, told in any interleaving: each block is whole, and none begins before the last has ended."""
    queues = []
    for index, part in enumerate(calls):
        told: list[ChatEvent] = [ToolCallStarted(part.id, part.name, index), ToolCallDelta(part.arguments, index)]
        queues.append(split(told, pieces))
    events: list[ChatEvent] = [AnswerStarted("a", "m")]
    started = 0
    while any(queues):
        ready = [queue for queue in queues[: started + 1] if queue]
        queue = random.choice(ready)
        if isinstance(queue[0], ToolCallStarted):
            started += 1
        events.append(queue.pop(0))
    events += [ChoiceFinished("tool_calls"), UsageReported(Usage(1, 1))]
    writer = CLIENTS["anthropic"].stream_writer(_anthropic_asked())
    raw = b"".join(writer.write([event]) for event in events) + writer.finish(Usage(1, 1))
    found = fold(read_back("anthropic", raw, [len(raw)])[0])
    assert found.message.parts == tuple(calls)
    depth = 0
    for line in raw.split(b"\n"):
        depth += line.startswith(b"event: content_block_start")
        depth -= line.startswith(b"event: content_block_stop")
        assert depth in {0, 1}


@given(openai_answer, sizes)
def test_an_openai_stream_for_an_anthropic_client(answer: ChatAnswer, pieces: list[int]) -> None:
    """What an OpenAI provider streams reaches an Anthropic client whole: the first choice, its parts in order."""
    source = CLIENTS["openai"].stream_writer(_openai_asked())
    raw = source.write(split(unfold(answer), pieces)) + source.finish(answer.usage or Usage())
    told, _ = read_back("openai", raw, [len(raw)])
    writer = CLIENTS["anthropic"].stream_writer(_anthropic_asked())
    out = writer.write(told) + writer.finish(answer.usage or Usage())
    found = fold(read_back("anthropic", out, [len(out)])[0])
    parts = tuple(TextPart(part.text) if isinstance(part, RefusalPart) else part for part in answer.message.parts)
    assert found.message.parts == parts
    reason = "refusal" if answer.finish_reason == "content_filter" else answer.finish_reason
    assert (found.finish_reason, found.usage) == (reason, answer.usage)


@given(anthropic_answer, sizes)
def test_an_anthropic_stream_for_an_openai_client(answer: ChatAnswer, pieces: list[int]) -> None:
    source = CLIENTS["anthropic"].stream_writer(_anthropic_asked())
    raw = source.write(split(unfold(answer), pieces)) + source.finish(answer.usage or Usage())
    told, _ = read_back("anthropic", raw, [len(raw)])
    writer = CLIENTS["openai"].stream_writer(_openai_asked())
    out = writer.write(told) + writer.finish(answer.usage or Usage())
    found = fold(read_back("openai", out, [len(out)])[0])
    assert found.message.text == answer.message.text
    wanted = [part for part in answer.message.parts if isinstance(part, ToolCallPart | ReasoningPart)]
    kept = [part for part in found.message.parts if isinstance(part, ToolCallPart | ReasoningPart)]
    for kind in (ToolCallPart, ReasoningPart):
        assert [part for part in kept if isinstance(part, kind)] == [part for part in wanted if isinstance(part, kind)]
    assert found.usage == answer.usage
