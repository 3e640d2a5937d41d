"""Between a Span and its narrow row."""

from __future__ import annotations

from typing import Any, Final, cast

import orjson

from detent.kernel.errors import InvalidInput
from detent.kernel.telemetry import Span, Status
from detent.store.lake.files import Database

CALLS: Final = frozenset({"chat", "text_completion", "generate_content", "embeddings"})
"""Operations that are calls of a model. Roll-ups count these spans and no others."""

CALLS_JSON: Final = orjson.dumps(sorted(CALLS)).decode()
"""The same for `json_each`."""

_STATUSES: Final[tuple[Status, ...]] = ("ok", "error", "cancelled")
_STATUS_BITS: Final = {"ok": 0, "error": 1, "cancelled": 2}
_STREAM: Final = 4
_ESTIMATED: Final = 8
_MAX: Final = 2**63 - 1
MAX_NUMBER: Final = 2**47

INSERT_SPAN: Final = (
    "INSERT INTO span VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def check(span: Span) -> tuple[bytes, bytes, bytes | None]:
    """Trace id, span id and parent id as bytes.

    Raises:
        InvalidInput: an id is not of its form, or a number is not one that a row can hold.
    """
    trace_id = _hex(span.trace_id, 16, "trace_id")
    span_id = _hex(span.span_id, 8, "span_id")
    parent_id = _hex(span.parent_id, 8, "parent_id") if span.parent_id else None
    if not (0 <= span.start <= _MAX and -_MAX <= span.end - span.start <= _MAX and 0 <= span.end <= _MAX):
        raise InvalidInput("A span's times are nanoseconds since 1970, before 2262.", field="start")
    if span.status not in _STATUS_BITS:
        raise InvalidInput(f"The status {span.status!r} is unknown.", hint="Use ok, error or cancelled.")
    for value in (
        span.input_tokens,
        span.output_tokens,
        span.cached_input_tokens,
        span.reasoning_tokens,
        span.http_status,
        span.attempts,
        span.cost or 0,
        span.ttft or 0,
    ):
        if not 0 <= value <= MAX_NUMBER:
            raise InvalidInput("A span's counts, cost and times are whole numbers from 0 to 2^47.")
    return trace_id, span_id, parent_id


def _hex(text: str, size: int, field: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size or len(text) != 2 * size or not any(value):
        raise InvalidInput(f"A {field} is {2 * size} hex digits, not all 0.", field=field)
    return value


def flags_of(span: Span) -> int:
    """Status and the two yes-or-no fields in one number."""
    return _STATUS_BITS[span.status] | (_STREAM if span.stream else 0) | (_ESTIMATED if span.usage_estimated else 0)


def model_of(span: Span) -> str:
    """The model that metrics count the call under: what served it, else what was asked for."""
    return span.response_model or span.request_model


def names_of(span: Span) -> tuple[str, ...]:
    """The strings of the row that are kept as numbers, in the order of the columns."""
    return (
        span.name,
        span.operation,
        span.error_type,
        span.provider,
        span.request_model,
        span.response_model,
        span.route,
        span.key_id,
        span.release,
        span.session_id,
        span.user_id,
        span.finish_reason,
    )


def number_of(database: Database, text: str) -> int:
    """The number of a string, given one if it has none. Inside a transaction that writes."""
    known = database.numbers.get(text)
    if known is not None:
        return known
    run = database.connection.execute
    row = run("SELECT id FROM name WHERE text = ?", (text,)).fetchone()
    number = int(row[0]) if row else run("INSERT INTO name (text) VALUES (?)", (text,)).lastrowid
    if len(database.numbers) > 200_000:
        database.numbers.clear()
        database.numbers[""] = 0
    database.numbers[text] = cast("int", number)
    return cast("int", number)


def text_of(database: Database, number: int) -> str:
    """The string of a number."""
    text = database.names.get(number)
    if text is None:
        text = str(database.connection.execute("SELECT text FROM name WHERE id = ?", (number,)).fetchone()[0])
        if len(database.names) > 200_000:
            database.names.clear()
            database.names[0] = ""
        database.names[number] = text
    return text


def span_of(database: Database, project: str, trace_id: str, row: tuple[Any, ...]) -> Span:
    """A span without its content, from its row in the table `span`."""
    flags, start, parent = row[7], row[5], row[3]
    return Span(
        trace_id=trace_id,
        span_id=row[2].hex(),
        parent_id=parent.hex() if parent else "",
        project=project,
        name=text_of(database, row[4]),
        start=start,
        end=start + row[6],
        status=_STATUSES[flags & 3],
        stream=bool(flags & _STREAM),
        usage_estimated=bool(flags & _ESTIMATED),
        operation=text_of(database, row[8]),
        error_type=text_of(database, row[9]),
        provider=text_of(database, row[10]),
        request_model=text_of(database, row[11]),
        response_model=text_of(database, row[12]),
        route=text_of(database, row[13]),
        key_id=text_of(database, row[14]),
        release=text_of(database, row[15]),
        session_id=text_of(database, row[16]),
        user_id=text_of(database, row[17]),
        finish_reason=text_of(database, row[18]),
        input_tokens=row[19],
        output_tokens=row[20],
        cached_input_tokens=row[21],
        reasoning_tokens=row[22],
        http_status=row[23],
        attempts=row[24],
        cost=row[25],
        ttft=row[26],
    )
