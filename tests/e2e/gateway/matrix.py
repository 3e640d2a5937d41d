"""The failure matrix as data: what a provider or client does, and what must come of it.

`test_matrix.py` plays every situation against a real worker, between clients and providers of every dialect, once on a
route with one deployment and once on a route that has another; `test_refusals.py` plays what the gateway itself
refuses. `tools/docs.py` writes docs/reference/failures.md from the same rows. So the page says what is tested, and no
more. Nothing but the standard library is imported here, so that a page can be written without test tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.e2e.gateway.wires import (
    AnthropicClient,
    AnthropicWire,
    BedrockWire,
    Client,
    EmbeddingsClient,
    EmbeddingsWire,
    GeminiWire,
    ResponsesClient,
    ResponsesWire,
    SpeechClient,
    SpeechWire,
    Wire,
)

Steps = tuple[bytes | float | str, ...]
"""What the provider does with one request; see `Upstream` in `conftest.py`."""


@dataclass(frozen=True)
class Pair:
    """A client and the provider that its calls come to."""

    name: str
    client: Client
    wire: Wire
    kind: Literal["chat", "embeddings", "speech"] = "chat"
    same: bool = True
    """Whether they speak the same, so that the provider's own words reach the client as they are."""


PAIRS: Final = (
    Pair("OpenAI at OpenAI", Client(), Wire()),
    Pair("Anthropic at Anthropic", AnthropicClient(), AnthropicWire()),
    Pair("Responses at OpenAI", ResponsesClient(), ResponsesWire("openai")),
    Pair("OpenAI at Anthropic", Client(), AnthropicWire(), same=False),
    Pair("Anthropic at OpenAI", AnthropicClient(), Wire(), same=False),
    Pair("Responses at chat completions", ResponsesClient(), Wire("vllm"), same=False),
    Pair("OpenAI at Gemini", Client(), GeminiWire(), same=False),
    Pair("OpenAI at Bedrock", Client(), BedrockWire(), same=False),
    Pair("Embeddings", EmbeddingsClient(), EmbeddingsWire(), "embeddings"),
    Pair("Speech", SpeechClient(), SpeechWire(), "speech"),
)


@dataclass(frozen=True)
class Refused:
    """The client gets a status and an error body."""

    status: int
    code: str
    retry_after: bool = False


@dataclass(frozen=True)
class Broken:
    """The client gets a stream that has begun: the text so far, an error event, and nothing that says complete."""

    code: str
    status: int
    text: str


@dataclass(frozen=True)
class Answered:
    """The client gets a whole answer, or a stream to its end."""

    text: str


@dataclass(frozen=True)
class PassedOn:
    """The client gets the provider's own refusal: status and words; its very bytes where both speak the same."""

    status: int
    code: str


@dataclass(frozen=True)
class Gone:
    """Nobody is there any more."""

    text: str = ""


@dataclass(frozen=True)
class Situation:
    """Something that happens.

    Attributes:
        name: of the test.
        group: which part of the page it stands in.
        happens: in words.
        stream: whether the client asked for one.
        steps: what the provider does, made of the pieces that `conftest.py` and the provider's `Wire` have.
        sees: what the client gets where no other deployment can answer.
        counted: tokens and money: nothing; as the provider reported; estimated, of the prompt alone or of the output
            that came too.
        next_asked: whether another deployment of the route is asked.
        why: where it is not: the reason, in a few words.
        leaves: when the client hangs up: never; when the provider has the request; when it has the first text.
        listens: whether there is anybody at the provider's address.
        earlier: what the provider did with a call before; the one that is looked at does not reach it then.
        kinds: what it is played with.
        needs_last: only where a stream's end can be forgotten, because it is an event of its own.
        quick: times out after a fraction of the usual, so that nobody waits.
    """

    name: str
    group: str
    happens: str
    stream: bool
    steps: Callable[[Any, Wire], Steps]
    sees: Refused | Broken | Answered | PassedOn | Gone
    counted: Literal["nothing", "reported", "prompt", "estimated"]
    next_asked: bool = False
    why: str = "output had come"
    leaves: Literal["", "before output", "within the answer"] = ""
    listens: bool = True
    earlier: Callable[[Any, Wire], Steps] | None = None
    kinds: frozenset[str] = frozenset({"chat"})
    needs_last: bool = False
    quick: Literal["", "first_token", "idle", "total"] = ""

    def fits(self, pair: Pair) -> bool:
        """Whether it can happen there."""
        return pair.kind in self.kinds and (bool(pair.wire.last) or not self.needs_last)


NOT_NEEDED = "not needed"
TEXT = "Hello there"
HALF = "Half an ans"
CHAT, WITH_SPEECH = frozenset({"chat"}), frozenset({"chat", "speech"})
ALL, WITH_EMBEDDINGS = frozenset({"chat", "embeddings", "speech"}), frozenset({"chat", "embeddings"})


def streamed(t: Any, w: Wire, *pieces: bytes, end: Steps) -> Steps:
    """A stream that begins, whose pieces come, and then something."""
    return (w.head(), *(t.chunk(piece) for piece in (w.role(), *pieces) if piece), *end)


def both(
    name: str,
    group: str,
    happens: str,
    steps: Callable[[Any, Wire], Steps],
    sees: Refused | PassedOn,
    kinds: frozenset[str] = ALL,
    **more: Any,
) -> list[Situation]:
    """What is the same for answers in one piece and for streams: the client has been sent nothing yet."""
    given = {"counted": "nothing", "next_asked": True, **more}
    return [
        Situation(f"{name}-stream", group, happens, True, steps, sees, kinds=CHAT, **given),
        Situation(f"{name}-whole", group, happens, False, steps, sees, kinds=kinds, **given),
    ]


def refuses(w: Wire, t: Any, status: int, words: str, extra: str = "") -> Steps:
    return (t.answer(w.error(status), f"{status} {words}", extra=extra), t.KEEP)


BREAKS, SLOW, BAD, REFUSES, USAGE, LEAVES = (
    "The answer breaks off",
    "The answer is slow",
    "The answer is not what was asked for",
    "The provider refuses",
    "The figures are wrong or missing",
    "The client leaves",
)
GROUPS: Final = (BREAKS, SLOW, BAD, REFUSES, USAGE, LEAVES)

SITUATIONS: tuple[Situation, ...] = (
    Situation(
        "cut-stream",
        BREAKS,
        "The connection is closed in the middle of a stream",
        True,
        lambda t, w: streamed(t, w, w.text(HALF), end=(0.05, t.HANG_UP)),
        Broken("upstream_cut", 502, HALF),
        "estimated",
        kinds=WITH_SPEECH,
    ),
    Situation(
        "reset-stream",
        BREAKS,
        "The connection is reset in the middle of a stream",
        True,
        lambda t, w: streamed(t, w, w.text(HALF), end=(0.05, t.RESET)),
        Broken("upstream_cut", 502, HALF),
        "estimated",
        kinds=WITH_SPEECH,
    ),
    Situation(
        "cut-event",
        BREAKS,
        "The connection breaks within an event",
        True,
        lambda t, w: streamed(t, w, w.text("Whole"), w.text("never seen")[:-20], end=(0.05, t.RESET)),
        Broken("upstream_cut", 502, "Whole"),
        "estimated",
    ),
    Situation(
        "unfinished-stream",
        BREAKS,
        "The stream ends in order, but the answer was not finished",
        True,
        lambda t, w: streamed(t, w, w.text("Half"), end=(t.END, t.KEEP)),
        Broken("upstream_cut", 502, "Half"),
        "estimated",
    ),
    Situation(
        "cut-before-output",
        BREAKS,
        "The connection breaks when the stream has begun, but without output",
        True,
        lambda t, w: streamed(t, w, end=(0.05, t.HANG_UP)),
        Broken("upstream_cut", 502, ""),
        "nothing",
        next_asked=True,
    ),
    Situation(
        "forgotten-end",
        BREAKS,
        "The answer was finished, but the stream's last event is missing ({last})",
        True,
        lambda t, w: streamed(t, w, w.text("All"), w.unsaid(), end=(t.END, t.KEEP)),
        Answered("All"),
        "estimated",
        why=NOT_NEEDED,
        needs_last=True,
    ),
    Situation(
        "cut-whole",
        BREAKS,
        "The connection is closed within an answer in one piece",
        False,
        lambda t, w: (t.answer(w.whole(TEXT))[:-10], t.HANG_UP),
        Refused(502, "upstream_cut"),
        "nothing",
        next_asked=True,
        kinds=WITH_EMBEDDINGS,
    ),
    Situation(
        "late-error",
        BREAKS,
        "The provider reports an error in the middle of its stream",
        True,
        lambda t, w: streamed(t, w, w.text("Some"), w.fault(), end=(t.END,)),
        Broken("upstream_error", 502, "Some"),
        "estimated",
    ),
    Situation(
        "early-error",
        BREAKS,
        "The provider reports an error when the stream has begun, but without output",
        True,
        lambda t, w: (*streamed(t, w, end=(0.1,)), t.chunk(w.fault()), t.END),
        Broken("upstream_error", 502, ""),
        "nothing",
        next_asked=True,
    ),
    # Slow
    Situation(
        "slow-drip",
        SLOW,
        "The stream comes byte by byte, without pauses beyond the time-outs",
        True,
        lambda t, w: (
            w.head(),
            *(step for byte in (w.role() + w.text("Hi"))[:12] for step in (t.chunk(bytes([byte])), 0.01)),
            t.chunk((w.role() + w.text("Hi"))[12:] + w.finish()),
            t.END,
            t.KEEP,
        ),
        Answered("Hi"),
        "reported",
        why=NOT_NEEDED,
    ),
    Situation(
        "standstill",
        SLOW,
        "The stream stands still beyond the idle time-out",
        True,
        lambda t, w: streamed(t, w, w.text("Well,"), end=(t.HOLD,)),
        Broken("idle_timeout", 504, "Well,"),
        "estimated",
        kinds=WITH_SPEECH,
        quick="idle",
    ),
    Situation(
        "endless",
        SLOW,
        "The stream goes on beyond the total time-out",
        True,
        lambda t, w: streamed(t, w, w.text("m"), end=(t.chunk(w.text("m")), 0.1) * 60),
        Broken("total_timeout", 504, "m..."),
        "estimated",
        kinds=WITH_SPEECH,
        quick="total",
    ),
    *both(
        "hang",
        SLOW,
        "Nothing comes, not even headers, until the time-out for the first token",
        lambda t, w: (t.HOLD,),
        Refused(504, "first_token_timeout"),
        quick="first_token",
    ),
    *both(
        "nobody",
        SLOW,
        "Nobody listens at its address",
        lambda t, w: (),
        Refused(502, "connect_failed"),
        listens=False,
    ),
    # 200, but
    *both(
        "error-body",
        BAD,
        "Status 200 with an error for a body",
        lambda t, w: (t.answer(w.error(500)), t.KEEP),
        Refused(502, "upstream_error"),
    ),
    Situation(
        "bad-event",
        BAD,
        "An event of the stream cannot be read: it is no JSON, or its checksum does not match",
        True,
        lambda t, w: streamed(t, w, w.text("Good") + w.broken(), end=(t.END,)),
        Broken("bad_answer", 502, "Good"),
        "estimated",
    ),
    *both(
        "page",
        BAD,
        "Status 200 with an HTML page",
        lambda t, w: (t.answer(b"<html>It works!</html>", kind="text/html"), t.KEEP),
        Refused(502, "bad_answer"),
    ),
    *both(
        "no-http",
        BAD,
        "Bytes that are no HTTP",
        lambda t, w: (b"\x00\x01garbage\r\n\r\n", t.HANG_UP),
        Refused(502, "bad_answer"),
    ),
    Situation(
        "giant-chunk",
        BAD,
        "One event of 3 MB",
        True,
        lambda t, w: streamed(t, w, w.text("x" * 3_000_000), w.finish(), end=(t.END, t.KEEP)),
        Answered("x" * 3_000_000),
        "reported",
        why=NOT_NEEDED,
    ),
    Situation(
        "endless-event",
        BAD,
        "One event without end (cut off at 16 MB; where it tells its length, at once)",
        True,
        lambda t, w: streamed(t, w, w.text("a"), *w.endless(), end=(t.HOLD,)),
        Broken("bad_answer", 502, "a"),
        "estimated",
    ),
    # Refusals
    *both(
        "429",
        REFUSES,
        "429 with `Retry-After`",
        lambda t, w: refuses(w, t, 429, "Too Many Requests", "retry-after: 17\r\n"),
        Refused(429, "upstream_rate_limited", retry_after=True),
    ),
    *both(
        "rested",
        REFUSES,
        "It was 429 before, and its `Retry-After` has not passed",
        lambda t, w: (),
        Refused(503, "no_deployment", retry_after=True),
        earlier=lambda t, w: refuses(w, t, 429, "Too Many Requests", "retry-after: 17\r\n"),
    ),
    *both(
        "500",
        REFUSES,
        "500, 502, 503 or 529",
        lambda t, w: (t.answer(b"nope", "500 Oops", "text/plain"), t.KEEP),
        Refused(502, "upstream_error"),
    ),
    *both(
        "401",
        REFUSES,
        "401 or 403: the credential we hold is refused",
        lambda t, w: refuses(w, t, 401, "Unauthorized"),
        Refused(502, "credential_refused"),
    ),
    *both(
        "400",
        REFUSES,
        "400: the request itself is at fault",
        lambda t, w: refuses(w, t, 400, "Bad Request"),
        PassedOn(400, "upstream_rejected"),
        next_asked=False,
        why="it would refuse too",
    ),
    # Usage
    Situation(
        "wrong-usage-whole",
        USAGE,
        "The usage it reports cannot be true (negative, no number, cached above prompt...)",
        False,
        lambda t, w: (t.answer(w.whole(TEXT, (-10, 5))), t.KEEP),
        Answered(TEXT),
        "estimated",
        why=NOT_NEEDED,
        kinds=WITH_EMBEDDINGS,
    ),
    Situation(
        "odd-usage-whole",
        USAGE,
        "The usage it reports cannot be true (negative, no number, cached above prompt...)",
        False,
        lambda t, w: (t.answer(w.whole(TEXT, ("many", 5))), t.KEEP),
        Answered(TEXT),
        "estimated",
        why=NOT_NEEDED,
        kinds=WITH_EMBEDDINGS,
    ),
    Situation(
        "wrong-usage-stream",
        USAGE,
        "The usage it reports cannot be true (negative, no number, cached above prompt...)",
        True,
        lambda t, w: streamed(t, w, w.text(TEXT), w.finish((10, -5)), end=(t.END, t.KEEP)),
        Answered(TEXT),
        "estimated",
        why=NOT_NEEDED,
    ),
    Situation(
        "odd-usage-stream",
        USAGE,
        "The usage it reports cannot be true (negative, no number, cached above prompt...)",
        True,
        lambda t, w: streamed(t, w, w.text(TEXT), w.finish("many"), end=(t.END, t.KEEP)),
        Answered(TEXT),
        "estimated",
        why=NOT_NEEDED,
    ),
    Situation(
        "no-usage-stream",
        USAGE,
        "It reports no usage at the end",
        True,
        lambda t, w: streamed(t, w, w.text(TEXT), w.finish(None), end=(t.END, t.KEEP)),
        Answered(TEXT),
        "estimated",
        why=NOT_NEEDED,
    ),
    # The client
    Situation(
        "client-gone-within",
        LEAVES,
        "The client leaves within a stream",
        True,
        lambda t, w: streamed(t, w, w.text(HALF), end=(t.HOLD,)),
        Gone(HALF),
        "estimated",
        why="nobody waits; the provider is told at once",
        leaves="within the answer",
        kinds=WITH_SPEECH,
    ),
    *(
        Situation(
            f"client-gone-before-{'stream' if stream else 'whole'}",
            LEAVES,
            "The client leaves before any output",
            stream,
            lambda t, w: (t.HOLD,),
            Gone(),
            "prompt",
            why="nobody waits; the provider is told at once",
            leaves="before output",
            kinds=CHAT if stream else ALL,
        )
        for stream in (False, True)
    ),
)

PLAYED: Final = tuple((situation, pair) for situation in SITUATIONS for pair in PAIRS if situation.fits(pair))


# What the gateway itself refuses


@dataclass(frozen=True)
class Refusal:
    """A call that the gateway answers itself; no provider hears of it, and it costs nothing.

    Attributes:
        happens: in words.
        headers: those that tell the client more.
        clients: whose calls can meet it.
        spanned: whether there is a span of it: of all whose key is known.
    """

    name: str
    happens: str
    status: int
    code: str
    headers: tuple[str, ...] = ()
    clients: tuple[Client, ...] = (Client(), AnthropicClient(), ResponsesClient())
    spanned: bool = True


AFTER = "retry-after"
REFUSALS: Final = (
    Refusal("key", "The key is unknown, expired or revoked", 401, "invalid_api_key", spanned=False),
    Refusal("model", "There is no such route, or not for this key", 404, "model_not_found"),
    Refusal("malformed", "The body is no JSON", 400, "malformed_json"),
    Refusal("field", "A field has the wrong form", 400, "invalid_input"),
    Refusal("large", "The body is larger than `DETENT_GATEWAY_MAX_BODY_BYTES`", 413, "body_too_large"),
    Refusal("deep", "Its JSON is nested deeper than `DETENT_GATEWAY_MAX_DEPTH`", 400, "too_deep"),
    Refusal("parts", "It has more parts than `DETENT_GATEWAY_MAX_PARTS`", 413, "too_many_parts"),
    Refusal(
        "previous",
        "`previous_response_id` names a response that is not stored here",
        404,
        "response_not_found",
        clients=(ResponsesClient(),),
    ),
    Refusal(
        "limit", "A limit has no room", 429, "rate_limit_exceeded", (AFTER, "ratelimit", "x-ratelimit-limit-requests")
    ),
    Refusal("budget", "A hard budget is spent", 429, "insufficient_quota", (AFTER,)),
    Refusal("unpriced", "A hard budget counts a model without a price", 403, "price_unknown"),
    Refusal("resting", "All deployments of the route asked to be left alone", 503, "no_deployment", (AFTER,)),
    Refusal("full", "The queue of its deployment is full", 503, "queue_full", (AFTER, "x-detent-queue-position")),
    Refusal(
        "deadline",
        "It would not begin within its deadline (`x-detent-deadline-ms`, or the route's)",
        503,
        "deadline_unmet",
        (AFTER, "x-detent-queue-position"),
    ),
    Refusal("overloaded", "`DETENT_GATEWAY_MAX_INFLIGHT` calls are in flight", 503, "overloaded", (AFTER,)),
)


# The page

INTRODUCTION = """\
What the gateway makes of each way in which a provider, a client or the gateway itself can fail a call. Each row is a
test that plays it against a real worker, byte by byte: what the client gets, what is counted and what it costs, and
whether another deployment of the route is asked.

- **Until output has come** a failure can be made good: the route's next deployment is asked, of whatever dialect, and
  the client sees nothing of it. *Client gets* is for the case that there is no other.
- **Once output has come** the answer cannot be taken back. A stream ends with an error event and with nothing that says
  complete, so that no client takes half an answer for a whole one.
- **Estimated** means a token for each four characters of the prompt and of what came, priced as usual; the span says
  `usage_estimated`. Where a provider tells the prompt's tokens before its answer (Anthropic, Gemini), those are taken,
  and if it counted more output than the estimate, that is. Nothing is counted where the provider gave nothing.
"""

TELLING = """\
## How a client is told

Each client is told in its own dialect, whatever the provider speaks. The code is the same for all: `error.code`, in
Anthropic's dialect `error.details.error_code`.

| client | error in one piece | error within a stream | what it never gets after an error |
| --- | --- | --- | --- |
| OpenAI | `{"error": {"type", "code", "message", ...}}` | the same as an event | `[DONE]` |
| Anthropic | `{"type": "error", "error": {"type", "message", ...}}` | the same as `event: error` | `message_stop` |
| Responses | as OpenAI | `response.failed`, then `event: error` | `response.completed` |
| endpoints passed on | as OpenAI | the connection is cut | an end of the body |
"""


def page() -> str:
    """The reference page, without its title."""
    played = "".join(f"- {pair.name}\n" for pair in PAIRS if pair.kind == "chat")
    parts = [
        INTRODUCTION,
        f"Chats are played between these clients and providers:\n\n{played}\n{ENDPOINTS}",
    ]
    for group in GROUPS:
        head = ("what happens", "where", "asked for", "client gets", "counted", "another deployment")
        parts.append(f"## {group}\n\n{_table(head, _rows(s for s in SITUATIONS if s.group == group))}")
    parts.append(TELLING)
    rows = [
        (
            refusal.happens,
            f"`{refusal.status}`",
            f"`{refusal.code}`",
            f"`{Client().type_of(refusal.status)}`",
            f"`{AnthropicClient().type_of(refusal.status)}`" if len(refusal.clients) > 1 else "-",
            ", ".join(f"`{name}`" for name in refusal.headers) or "-",
        )
        for refusal in REFUSALS
    ]
    head = ("what happens", "status", "code", "type for OpenAI", "type for Anthropic", "headers")
    parts.append(f"## What the gateway refuses\n\n{REFUSING}\n{_table(head, rows)}")
    return "\n".join(parts)


ENDPOINTS = """\
*Embeddings* stands for all endpoints that are passed on and answer in JSON, *speech* for those that answer in sound.
"""

REFUSING = """\
No provider hears of these calls, and they cost nothing. All but those with a wrong key have a span. Files and batches
answer `503`, `control_away` while the control plane is away; calls to models go on. Open circuit breakers alone refuse
nobody: when those of all deployments are open, the one that is closest to its next probe is asked nevertheless.
"""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rows(situations: Iterable[Situation]) -> list[tuple[str, ...]]:
    """What happens, where, asked for, client gets, counted, another deployment; what differs in nothing is one row."""
    merged: dict[tuple[str, ...], tuple[dict[str, None], dict[str, None]]] = {}
    for situation in situations:
        happens = situation.happens.format(last="`[DONE]`, `message_stop` or Bedrock's `metadata`")
        for kind in ("chat", "embeddings", "speech"):
            if kind in situation.kinds:
                cells = _cells(situation, kind)
                where, asked = merged.setdefault((happens, *cells), ({}, {}))
                where["chats" if kind == "chat" else kind] = None
                asked["stream" if situation.stream else "one piece"] = None
    return [
        (happens, ", ".join(where), " or ".join(sorted(asked)), *rest)
        for (happens, *rest), (where, asked) in merged.items()
    ]


def _cells(situation: Situation, kind: str) -> tuple[str, str, str]:
    sees = situation.sees
    if isinstance(sees, Refused):
        gets = f"`{sees.status}`, `{sees.code}`" + (", its `Retry-After`" if sees.retry_after else "")
    elif isinstance(sees, Broken) and kind == "speech":
        gets = f"the sound so far, then a cut connection (`{sees.code}`)"
    elif isinstance(sees, Broken):
        gets = f"{'the text so far, then ' if sees.text else ''}an error event `{sees.code}`"
    elif isinstance(sees, PassedOn):
        gets = f"the provider's own `{sees.status}` and words"
    elif isinstance(sees, Gone):
        gets = "-"
    else:
        gets = "the stream, to its end" if situation.stream else "the answer as it came"
    alone = situation.counted == "prompt" or (situation.counted == "estimated" and kind != "chat")
    estimated = "the prompt, estimated" if alone else "estimated"
    counted = {"nothing": "nothing", "reported": "as reported"}.get(situation.counted, estimated)
    not_asked = NOT_NEEDED if situation.why == NOT_NEEDED else f"not asked: {situation.why}"
    return gets, counted, "answers" if situation.next_asked else not_asked
