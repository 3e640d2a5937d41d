"""Generated telemetry: OTLP requests as an instrumented application sends them, the same for the same seed.

Traces of four to six spans (an agent, its chat calls, tools), about 3.3 kB of protobuf each: a system prompt that many
share, questions and answers of words drawn by Zipf's law, about twenty attributes, ids that occur once.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import accumulate

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR

MODELS = (
    ("gpt-4.1", "openai"),
    ("gpt-4.1-mini", "openai"),
    ("o4-mini", "openai"),
    ("claude-sonnet-4-5", "anthropic"),
    ("claude-haiku-4-5", "anthropic"),
    ("gemini-2.5-pro", "gcp.gemini"),
    ("gemini-2.5-flash", "gcp.gemini"),
    ("mistral-large", "mistral_ai"),
)
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


class Text:
    """Words by Zipf's law over a vocabulary of 20,000."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        words: set[str] = set()
        while len(words) < 20_000:
            words.add("".join(self.random.choices(_SYLLABLES, k=self.random.choice((1, 2, 2, 3, 3, 4)))))
        self._words = sorted(words)
        self.random.shuffle(self._words)
        self._weights = list(accumulate(1 / (rank + 5) for rank in range(len(self._words))))

    def prose(self, length: int) -> str:
        """Sentences of about that many characters."""
        words = self.random.choices(self._words, cum_weights=self._weights, k=max(length // 7, 1))
        for at in range(0, len(words), 11):
            words[at] = words[at].capitalize()
        for at in range(10, len(words), 11):
            words[at] += "."
        return " ".join(words)


def requests(spans: int, *, begin: int, days: int = 7, batch: int = 200, seed: int = 1) -> Iterator[tuple[bytes, int]]:
    """Serialised ExportTraceServiceRequests with the number of spans in each, in order of time."""
    text = Text(seed)
    prompts = [text.prose(520) for _ in range(12)]
    step = days * DAY // max(spans // 5, 1)
    done = trace = 0
    pending: list[OtlpSpan] = []
    while done < spans:
        made = list(_trace(text, prompts, begin + trace * step, trace))[: spans - done]
        trace += 1
        done += len(made)
        pending += made
        while len(pending) >= batch or (pending and done >= spans):
            yield _request(pending[:batch]), len(pending[:batch])
            pending = pending[batch:]


def _request(spans: list[OtlpSpan]) -> bytes:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    _put(resource.resource, "service.name", "support-agent")
    _put(resource.resource, "service.version", "2026.3.1")
    _put(resource.resource, "deployment.environment.name", "production")
    scope = resource.scope_spans.add()
    scope.scope.name = "opentelemetry.instrumentation.openai"
    scope.spans.extend(spans)
    return request.SerializeToString()


def _trace(text: Text, prompts: list[str], start: int, number: int) -> Iterator[OtlpSpan]:
    rnd = text.random
    trace_id, session, user = rnd.randbytes(16), f"session-{number // 4:07d}", f"user-{rnd.randrange(2000):05d}"
    count = rnd.choice((4, 5, 5, 6))
    system = rnd.choice(prompts)
    question = f"Order A-{rnd.randrange(10**9):09d}: {text.prose(620)}"
    root = rnd.randbytes(8)
    at = start
    for index in range(count):
        span = OtlpSpan(trace_id=trace_id, span_id=root if index == 0 else rnd.randbytes(8))
        span.start_time_unix_nano = at if index else start
        took = int(rnd.lognormvariate(0, 0.8) * SECOND)
        at += took // 2
        span.end_time_unix_nano = span.start_time_unix_nano + took
        if index:
            span.parent_span_id = root
        if rnd.random() < 0.02:
            span.status.code = 2
            _put(span, "error.type", rnd.choice(("timeout", "rate_limit_exceeded", "server_error")))
        _put(span, "session.id", session)
        _put(span, "user.id", user)
        _put(span, "thread.id", rnd.randrange(10**6))
        _put(span, "code.function.name", f"support.flow.step_{index}")
        _put(span, "app.tenant", f"tenant-{rnd.randrange(40)}")
        _put(span, "app.experiment", rnd.choice(("control", "shorter-answers")))
        _put(span, "app.retrieval.documents", rnd.randrange(20))
        _put(span, "app.retrieval.score", rnd.random())
        if index == 0:
            span.name = "invoke_agent support"
            _put(span, "gen_ai.operation.name", "invoke_agent")
            _put(span, "gen_ai.agent.name", "support")
        elif index == count - 1 and count > 4:
            span.name = "execute_tool look_up_order"
            _put(span, "gen_ai.operation.name", "execute_tool")
            _put(span, "gen_ai.tool.name", "look_up_order")
        else:
            model, provider = rnd.choices(MODELS, weights=(8, 20, 5, 10, 12, 6, 15, 2))[0]
            span.name = f"chat {model}"
            _put(span, "gen_ai.operation.name", "chat")
            _put(span, "gen_ai.provider.name", provider)
            _put(span, "gen_ai.request.model", model)
            _put(span, "gen_ai.response.model", model)
            _put(span, "gen_ai.response.id", f"chatcmpl-{rnd.randbytes(12).hex()}")
            _put(span, "gen_ai.request.temperature", 0.2)
            _put(span, "gen_ai.request.max_tokens", 1024)
            _put(span, "gen_ai.usage.input_tokens", rnd.randrange(200, 1500))
            _put(span, "gen_ai.usage.output_tokens", rnd.randrange(20, 700))
            _put(span, "detent.cost", rnd.randrange(10_000, 9_000_000))
        messages = [
            {"role": "system", "parts": [{"type": "text", "content": system}]},
            {"role": "user", "parts": [{"type": "text", "content": question}]},
            {"role": "assistant", "parts": [{"type": "text", "content": text.prose(350)}]},
            {"role": "user", "parts": [{"type": "text", "content": text.prose(220)}]},
        ]
        answer = [
            {"role": "assistant", "parts": [{"type": "text", "content": text.prose(420)}], "finish_reason": "stop"}
        ]
        _put(span, "gen_ai.input.messages", json.dumps(messages))
        _put(span, "gen_ai.output.messages", json.dumps(answer))
        yield span


def _put(holder: object, key: str, value: str | float) -> None:
    item = holder.attributes.add()  # type: ignore[attr-defined]
    item.key = key
    if isinstance(value, str):
        item.value.string_value = value
    elif isinstance(value, int):
        item.value.int_value = value
    else:
        item.value.double_value = value
