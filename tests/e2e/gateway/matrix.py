"""The failure matrix as data: what a provider or client does, and what must come of it.

`test_matrix.py` plays every row against a real worker, once on a route with one deployment and once on a route that has
another, and `tools/docs.py` writes docs/reference/failures.md from the same rows. So the page says what is tested, and
no more. Nothing is imported here, so that a page can be written without test tools.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Steps = tuple[bytes | float | str, ...]
"""What the provider does with one request; see `Upstream` beside this."""


@dataclass(frozen=True)
class Refused:
    """The client gets a status and an error body."""

    status: int
    code: str
    retry_after: bool = False


@dataclass(frozen=True)
class Broken:
    """The client gets a stream that has begun: the text so far, an error event, and no `[DONE]`."""

    code: str
    text: str


@dataclass(frozen=True)
class Answered:
    """The client gets a whole answer, or a stream to its `[DONE]`."""

    text: str


@dataclass(frozen=True)
class PassedOn:
    """The client gets the provider's own refusal, status and body as they came."""

    status: int
    code: str


@dataclass(frozen=True)
class Gone:
    """Nobody is there any more."""

    code: str = "client_disconnected"


@dataclass(frozen=True)
class Row:
    """One situation.

    Attributes:
        name: of the test.
        happens: in words.
        stream: whether the client asked for one.
        steps: what the provider does, made of the pieces that `conftest.py` has.
        sees: what the client gets where no other deployment can answer.
        counted: tokens and money: nothing; as the provider reported; or estimated, for so many characters of output.
        next_asked: whether another deployment of the route is asked.
        why: where it is not: the reason, in a few words.
        leaves: when the client hangs up: never; when the provider has the request; when it has the first text.
        listens: whether there is anybody at the provider's address.
        earlier: what the provider did with a call before; the one that is looked at does not reach it then.
    """

    name: str
    happens: str
    stream: bool
    steps: Callable[[Any], Steps]
    sees: Refused | Broken | Answered | PassedOn | Gone
    counted: Literal["nothing", "reported"] | int
    next_asked: bool
    why: str = ""
    leaves: Literal["", "before output", "within the answer"] = ""
    listens: bool = True
    earlier: Callable[[Any], Steps] | None = None
    dialect: Literal["openai", "anthropic"] = "openai"


OUTPUT_CAME = "output had come"
TEXT = "Hello there"
MESSAGE = '{"role": "assistant", "content": "Hello there"}'
FAULT = b'{"error": {"message": "quota", "code": 42}}'
BUSY = b'{"error": {"message": "Rate limit reached"}}'
MISTAKE = b'{"error": {"message": "temperature is too hot", "param": "temperature"}}'


def streamed(t: Any, *pieces: bytes, end: Steps) -> Steps:
    """A stream whose head and pieces come, and then something."""
    return (t.STREAM_HEAD, *(t.chunk(piece) for piece in pieces), *end)


def both(name: str, happens: str, steps: Callable[[Any], Steps], sees: Refused | PassedOn, **more: Any) -> list[Row]:
    """A situation that is the same for answers in one piece and for streams: the client has been sent nothing yet."""
    given = {"counted": "nothing", "next_asked": True, **more}
    return [Row(f"{name}-{'stream' if s else 'whole'}", happens, s, steps, sees, **given) for s in (False, True)]


ROWS: tuple[Row, ...] = (
    # Cut
    Row(
        "cut-stream",
        "The connection is closed in the middle of a stream",
        True,
        lambda t: streamed(t, t.event("Half an ans"), end=(0.05, t.HANG_UP)),
        Broken("upstream_cut", "Half an ans"),
        len("Half an ans"),
        False,
        OUTPUT_CAME,
    ),
    Row(
        "reset-stream",
        "The connection is reset in the middle of a stream",
        True,
        lambda t: streamed(t, t.event("Half an ans"), end=(0.05, t.RESET)),
        Broken("upstream_cut", "Half an ans"),
        len("Half an ans"),
        False,
        OUTPUT_CAME,
    ),
    Row(
        "cut-event",
        "The connection breaks within an event",
        True,
        lambda t: streamed(t, t.event("Whole"), t.event("never seen")[:-20], end=(t.RESET,)),
        Broken("upstream_cut", "Whole"),
        len("Whole"),
        False,
        OUTPUT_CAME,
    ),
    Row(
        "unfinished-stream",
        "The stream ends in order, but the answer was not finished",
        True,
        lambda t: streamed(t, t.event("Half"), end=(t.END, t.KEEP)),
        Broken("upstream_cut", "Half"),
        len("Half"),
        False,
        OUTPUT_CAME,
    ),
    Row(
        "forgotten-done",
        "The answer was finished, but `[DONE]` is missing",
        True,
        lambda t: streamed(t, t.event("All") + t.event(finish="stop"), end=(t.END, t.KEEP)),
        Answered("All"),
        len("All"),
        False,
        "not needed",
    ),
    Row(
        "cut-whole",
        "The connection is closed within an answer in one piece",
        False,
        lambda t: (t.answer(t.completion())[:-10], t.HANG_UP),
        Refused(502, "upstream_cut"),
        "nothing",
        True,
    ),
    # Late error
    Row(
        "late-error",
        "The provider reports an error in the middle of its stream",
        True,
        lambda t: streamed(t, t.event("Some"), b"data: " + FAULT + b"\n\n" + t.DONE, end=(t.END,)),
        Broken("upstream_error", "Some"),
        len("Some"),
        False,
        OUTPUT_CAME,
    ),
    # Slow
    Row(
        "slow-drip",
        "The stream comes byte by byte, without pauses beyond the time-outs",
        True,
        lambda t: (
            t.STREAM_HEAD,
            *(step for byte in t.event("Hi")[:12] for step in (t.chunk(bytes([byte])), 0.01)),
            t.chunk(t.event("Hi")[12:] + t.event(finish="stop") + t.usage_event() + t.DONE),
            t.END,
            t.KEEP,
        ),
        Answered("Hi"),
        "reported",
        False,
        "not needed",
    ),
    Row(
        "standstill",
        "The stream stands still beyond the idle time-out",
        True,
        lambda t: streamed(t, t.event("Well,"), end=(t.HOLD,)),
        Broken("idle_timeout", "Well,"),
        len("Well,"),
        False,
        OUTPUT_CAME,
    ),
    Row(
        "endless",
        "The stream goes on beyond the total time-out",
        True,
        lambda t: (t.STREAM_HEAD, *((t.chunk(t.event("m")), 0.1) * 60)),
        Broken("total_timeout", "m"),
        -1,
        False,
        OUTPUT_CAME,
    ),
    *both(
        "hang",
        "Nothing comes, not even headers, until the time-out for the first token",
        lambda t: (t.HOLD,),
        Refused(504, "first_token_timeout"),
    ),
    *both(
        "nobody",
        "Nobody listens at its address",
        lambda t: (),
        Refused(502, "connect_failed"),
        listens=False,
    ),
    # 200, but
    *both(
        "error-body",
        "Status 200 with an error for a body",
        lambda t: (t.answer(FAULT), t.KEEP),
        Refused(502, "upstream_error"),
    ),
    Row(
        "bad-sse",
        "An event of the stream is no JSON",
        True,
        lambda t: streamed(t, t.event("Good") + b'data: {"cho\n\n', end=(t.END,)),
        Broken("bad_answer", "Good"),
        len("Good"),
        False,
        OUTPUT_CAME,
    ),
    *both(
        "page",
        "Status 200 with an HTML page",
        lambda t: (t.answer(b"<html>It works!</html>", kind="text/html"), t.KEEP),
        Refused(502, "bad_answer"),
    ),
    *both(
        "no-http",
        "Bytes that are no HTTP",
        lambda t: (b"\x00\x01garbage\r\n\r\n", t.HANG_UP),
        Refused(502, "bad_answer"),
    ),
    # Large
    Row(
        "giant-chunk",
        "One event of 3 MB",
        True,
        lambda t: streamed(
            t, t.event("x" * 3_000_000), t.event(finish="stop") + t.usage_event() + t.DONE, end=(t.END, t.KEEP)
        ),
        Answered("x" * 3_000_000),
        "reported",
        False,
        "not needed",
    ),
    Row(
        "endless-event",
        "One event without end (cut off at 16 MB)",
        True,
        lambda t: (
            t.STREAM_HEAD,
            t.chunk(t.event("a") + b"data: "),
            *([t.chunk(b"x" * 1_000_000)] * 20),
            t.HOLD,
        ),
        Broken("bad_answer", "a"),
        len("a"),
        False,
        OUTPUT_CAME,
    ),
    # Refusals
    *both(
        "429",
        "429 with `Retry-After`",
        lambda t: (t.answer(BUSY, "429 Too Many Requests", extra="retry-after: 17\r\n"), t.KEEP),
        Refused(429, "upstream_rate_limited", retry_after=True),
    ),
    *both(
        "rested",
        "It was 429 before, and its `Retry-After` has not passed",
        lambda t: (),
        Refused(503, "no_deployment", retry_after=True),
        earlier=lambda t: (t.answer(BUSY, "429 Too Many Requests", extra="retry-after: 17\r\n"), t.KEEP),
    ),
    *both(
        "500",
        "500, 502, 503 or 529",
        lambda t: (t.answer(b"nope", "500 Oops", "text/plain"), t.KEEP),
        Refused(502, "upstream_error"),
    ),
    *both(
        "401",
        "401 or 403: the credential we hold is refused",
        lambda t: (t.answer(b"nope", "401 Who", "text/plain"), t.KEEP),
        Refused(502, "credential_refused"),
    ),
    *both(
        "400",
        "400: the request itself is at fault",
        lambda t: (t.answer(MISTAKE, "400 Bad Request"), t.KEEP),
        PassedOn(400, "upstream_rejected"),
        next_asked=False,
        why="it would refuse too",
    ),
    # Usage
    Row(
        "wrong-usage-whole",
        "The usage it reports cannot be true (negative, no number, cached above prompt...)",
        False,
        lambda t: (t.answer(t.completion(TEXT, {"prompt_tokens": -10, "completion_tokens": 5})), t.KEEP),
        Answered(TEXT),
        len(MESSAGE),
        False,
        "not needed",
    ),
    Row(
        "wrong-usage-stream",
        "The usage it reports cannot be true (negative, no number, cached above prompt...)",
        True,
        lambda t: streamed(
            t, t.event(TEXT) + t.event(finish="stop") + t.usage_event("many") + t.DONE, end=(t.END, t.KEEP)
        ),
        Answered(TEXT),
        len(TEXT),
        False,
        "not needed",
    ),
    Row(
        "no-usage-stream",
        "It reports no usage",
        True,
        lambda t: streamed(t, t.event(TEXT) + t.event(finish="stop") + t.DONE, end=(t.END, t.KEEP)),
        Answered(TEXT),
        len(TEXT),
        False,
        "not needed",
    ),
    # The client
    Row(
        "client-gone-within",
        "The client leaves within a stream",
        True,
        lambda t: streamed(t, t.event("Half an ans"), end=(t.HOLD,)),
        Gone(),
        len("Half an ans"),
        False,
        "nobody waits; the provider is told at once",
        leaves="within the answer",
    ),
    *(
        Row(
            f"client-gone-before-{'stream' if stream else 'whole'}",
            "The client leaves before any output",
            stream,
            lambda t: (t.HOLD,),
            Gone(),
            0,
            False,
            "nobody waits; the provider is told at once",
            leaves="before output",
        )
        for stream in (False, True)
    ),
)

INTRODUCTION = """\
What the gateway makes of each way in which a provider, or the client itself, can fail. Each row is a test that plays it
against a real worker, byte by byte: what the client gets, what is counted and what it costs, and whether another
deployment of the route is asked.

- **Until output has come** a failure can be made good: the route's next deployment is asked, and the client sees
  nothing of it. *Client gets* is for the case that there is no other.
- **Once output has come** the answer cannot be taken back. A stream ends with an error event and without `[DONE]`, so
  that no client takes half an answer for a whole one.
- **Estimated** means a token for each four characters of the prompt and of what came, priced as usual; the span says
  `usage_estimated`. Nothing is counted where the provider gave nothing.
"""


def cells(row: Row) -> tuple[str, ...]:
    """A row of the page: what happens, dialect, asked for, client gets, counted, another deployment."""
    sees = row.sees
    if isinstance(sees, Refused):
        gets = f"`{sees.status}`, `{sees.code}`" + (", its `Retry-After`" if sees.retry_after else "")
    elif isinstance(sees, Broken):
        gets = f"the text so far, then an error event `{sees.code}`"
    elif isinstance(sees, PassedOn):
        gets = f"the provider's own `{sees.status}` and words"
    elif isinstance(sees, Gone):
        gets = "-"
    else:
        gets = "the stream, to its `[DONE]`" if row.stream else "the answer as it came"
    if isinstance(row.counted, str):
        counted = {"nothing": "nothing", "reported": "as reported"}[row.counted]
    else:
        counted = "the prompt, estimated" if row.counted == 0 else "estimated"
    after = "answers" if row.next_asked else f"not asked: {row.why}" if row.why != "not needed" else "not needed"
    return (row.happens, row.dialect, "stream" if row.stream else "one piece", gets, counted, after)


def page() -> list[tuple[str, ...]]:
    """All rows as text; those that differ only in what was asked for are one."""
    merged: dict[tuple[str, ...], list[str]] = {}
    for row in ROWS:
        happens, dialect, asked, *rest = cells(row)
        merged.setdefault((happens, dialect, *rest), []).append(asked)
    return [(happens, dialect, " or ".join(asked), *rest) for (happens, dialect, *rest), asked in merged.items()]
