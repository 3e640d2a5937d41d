"""`detent traces`: calls as they happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click

from detent.cli.options import DURATION, PAIR, USD, WHEN
from detent.cli.progress import Progress
from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import page_json, score_json, span_json, trace_json
from detent.cli.text import clean, cost, count, details, duration, moment, number, shorten, table
from detent.cli.waterfall import waterfall
from detent.kernel.errors import InvalidInput
from detent.kernel.telemetry import Score, Span, SpanFilter, TraceRow

if TYPE_CHECKING:
    from detent.app.platform import Platform
    from detent.kernel.identity import Principal

F = TypeVar("F", bound=Callable[..., Any])
_COLUMNS: Final = (
    "STARTED",
    "TRACE",
    "NAME",
    "MODEL",
    "STATUS",
    number("DURATION"),
    number("TOKENS"),
    number("COST"),
    number("SPANS"),
)
_PAGE: Final = 200
_TAIL_OVERLAP: Final = 60 * 1_000_000_000


@click.group("traces", cls=Noun)
def traces() -> None:
    """Calls as they happened: list, read, search, rate, export."""


def filters(command: F) -> F:
    """The options that choose traces."""
    for option in (
        click.option("--attribute", "attributes", type=PAIR, multiple=True, metavar="NAME=VALUE", help="Exact match."),
        click.option("--min-cost", type=USD, help="Cost at least this, in USD."),
        click.option("--min-duration", type=DURATION, help="Took at least this long, e.g. 500ms."),
        click.option("--error-type", default="", help="E.g. upstream_timeout."),
        click.option("--user", "user_id", default="", help="The application's user."),
        click.option("--session", "session_id", default="", help="The application's session."),
        click.option("--key", "key_id", default="", metavar="ID", help="The virtual key's id."),
        click.option("--provider", default="", help="Provider."),
        click.option("--route", default="", help="Route."),
        click.option("--model", default="", help="Model."),
        click.option("--operation", default="", help="E.g. chat, execute_tool."),
        click.option("--status", type=click.Choice(["ok", "error", "cancelled"]), help="How it ended."),
        click.option("--until", type=WHEN, help="Started before: a time, or 1h ago."),
        click.option("--since", type=WHEN, help="Started at or after: a time, or 1h ago."),
    ):
        command = option(command)
    return command


def _where(text: str, options: dict[str, Any]) -> SpanFilter:
    attributes = dict(options.pop("attributes"))
    return SpanFilter(
        project="", text=text, attributes=attributes, **{name: value for name, value in options.items() if value}
    )


@traces.command("list")
@filters
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@click.option("--after", default="", help="Continue a list: what the one before gave.")
@pass_shell
def list_traces(shell: Shell, /, limit: int, after: str, **options: Any) -> None:
    """Show traces, newest first."""
    _show_page(shell, _where("", options), limit=limit, after=after, snippets=False)


@traces.command("search")
@click.argument("text")
@filters
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@click.option("--after", default="", help="Continue a list: what the one before gave.")
@pass_shell
def search(shell: Shell, /, text: str, limit: int, after: str, **options: Any) -> None:
    """Find traces by words in what was asked and answered; "quotes" hold a phrase together."""
    if not text.strip():
        raise InvalidInput("There is nothing to search for.", hint="Give a word, or list them all.", field="text")
    _show_page(shell, _where(text, options), limit=limit, after=after, snippets=True)


def _show_page(shell: Shell, where: SpanFilter, *, limit: int, after: str, snippets: bool) -> None:
    with shell.platform() as (platform, caller):
        page = platform.traces.list(caller, where, limit=limit, after=after)

    def text() -> str:
        if not snippets:
            return table(_COLUMNS, [_row(row) for row in page.rows])
        return table((*_COLUMNS, "FOUND"), [(*_row(row), shorten(row.snippet, 80)) for row in page.rows])

    shell.show(page_json([trace_json(row) for row in page.rows], after=page.after), text)
    if page.after:
        shell.say(f"More: --after {page.after}")
    elif not page.rows:
        shell.say("No traces found. Calls through the gateway appear here within seconds.")


def _row(row: TraceRow) -> tuple[str, ...]:
    root = row.root
    status = root.status if not root.error_type else f"{root.status} ({root.error_type})"
    return (
        moment(root.start),
        row.trace_id,
        shorten(root.name, 40),
        root.response_model or root.request_model or "-",
        status,
        duration(max(row.end - root.start, 0)),
        count(row.input_tokens + row.output_tokens),
        cost(row.cost) if row.cost is not None or row.unpriced else "-",
        count(row.spans),
    )


@traces.command("show")
@click.argument("trace_id")
@click.option("--no-content", is_flag=True, help="Leave out what was asked and answered.")
@pass_shell
def show(shell: Shell, trace_id: str, no_content: bool) -> None:
    """Show one trace: its spans in time, content, tokens, cost and scores."""
    with shell.platform() as (platform, caller):
        spans = platform.traces.get(caller, trace_id.lower())
        scores = platform.traces.scores(caller, trace_id=trace_id.lower())
    if no_content:
        import msgspec

        spans = tuple(msgspec.structs.replace(span, input="", output="") for span in spans)
    data = {
        "trace_id": spans[0].trace_id,
        "spans": [span_json(span) for span in spans],
        "scores": [score_json(score) for score in scores],
    }
    shell.show(data, lambda: _whole(spans, scores))


def _whole(spans: tuple[Span, ...], scores: tuple[Score, ...]) -> str:
    parts = [details(_facts_of(spans)), waterfall(spans)]
    for span in spans:
        for title, content in (("input", span.input), ("output", span.output)):
            if content:
                parts.append(f"{clean(span.name)} {title}:\n{_said(content)}")
    if scores:
        rows = [(s.name, str(s.value).lower(), s.source, s.author or "-", moment(s.time), s.comment) for s in scores]
        parts.append(table(("SCORE", "VALUE", "SOURCE", "BY", "TIME", "COMMENT"), rows))
    return "\n\n".join(parts)


def _facts_of(spans: tuple[Span, ...]) -> list[tuple[str, str]]:
    root = spans[0]
    end = max(span.end for span in spans)
    costs = [span.cost for span in spans if span.cost is not None]
    return [
        ("trace", root.trace_id),
        ("name", root.name),
        ("started", moment(root.start)),
        ("duration", duration(max(end - root.start, 0))),
        ("status", root.status + (f" ({root.error_type})" if root.error_type else "")),
        ("model", root.response_model or root.request_model),
        ("provider", root.provider),
        ("route", root.route),
        ("key", root.key_id),
        ("session", root.session_id),
        ("user", root.user_id),
        ("first token", duration(root.ttft) if root.ttft is not None else ""),
        (
            "tokens",
            f"{count(sum(s.input_tokens for s in spans))} in, {count(sum(s.output_tokens for s in spans))} out"
            + (" (estimated)" if any(s.usage_estimated for s in spans) else ""),
        ),
        ("cost", cost(sum(costs) if costs else None) if costs or root.operation == "chat" else ""),
        ("finish", root.finish_reason),
        ("attempts", count(root.attempts) if root.attempts > 1 else ""),
        *[("failed", str(failed)) for failed in _listed(root, "detent.failed_attempts")],
        ("fallback", str(root.attributes.get("detent.fallback_route", ""))),
        ("waited", f"{root.attributes['detent.queue_seconds']} s" if "detent.queue_seconds" in root.attributes else ""),
        ("cache", str(root.attributes.get("detent.cache", ""))),
        ("dropped", ", ".join(str(field) for field in _listed(root, "detent.dropped_fields"))),
    ]


def _listed(span: Span, name: str) -> list[Any]:
    found = span.attributes.get(name)
    return found if isinstance(found, list) else []


def _said(content: str) -> str:
    """Content as people read it: one line per message where it is a list of them."""
    import msgspec

    try:
        value = msgspec.json.decode(content)
    except msgspec.MsgspecError:
        return _indented(content)
    lines = []
    for message in value if isinstance(value, list) else [value]:
        if isinstance(message, dict) and isinstance(message.get("content"), str):
            lines.append(_indented(f"[{message.get('role', '?')}] {message['content']}"))
        else:
            lines.append(_indented(msgspec.json.format(msgspec.json.encode(message), indent=2).decode()))
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in clean(text, keep_lines=True).splitlines())


@traces.command("rate")
@click.argument("trace_id")
@click.option("--up", "thumb", flag_value="up", help="Thumbs up.")
@click.option("--down", "thumb", flag_value="down", help="Thumbs down.")
@click.option("--name", default="", help="Another score's name, with --value.")
@click.option("--value", default=None, help="true, false, a number or a word.")
@click.option("--span", "span_id", default="", metavar="ID", help="Only this span of it.")
@click.option("--comment", default="", help="Why.")
@pass_shell
def rate(
    shell: Shell, trace_id: str, thumb: str | None, name: str, value: str | None, span_id: str, comment: str
) -> None:
    """Rate a trace: --up, --down, or --name and --value."""
    if (thumb is None) == (value is None):
        raise click.UsageError("Give either --up or --down, or --name with --value.")
    if value is not None and not name:
        raise click.UsageError("--value needs --name.")
    with shell.platform() as (platform, caller):
        given = platform.traces.score(
            caller,
            trace_id=trace_id.lower(),
            span_id=span_id.lower(),
            name=name or "thumbs",
            value=_value(value) if value is not None else thumb == "up",
            comment=comment,
            source="reviewer",
        )
    shell.show(score_json(given), lambda: given.id)
    shell.say(f"Rated: {given.name} = {str(given.value).lower()}.")


def _value(text: str) -> bool | float | str:
    if text in {"true", "false"}:
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


@traces.command("tail")
@filters
@click.option(
    "--interval", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Seconds between looks."
)
@pass_shell
def tail(shell: Shell, /, interval: float, **options: Any) -> None:
    """Show traces as they come in, until interrupted. With --json one object a line."""
    where = _where("", options)
    shell.say("Waiting for traces; stop with Ctrl-C.")
    with shell.platform() as (platform, caller):
        try:
            for row in _arrivals(platform, caller, where, interval):
                if shell.json:
                    shell.show_json(trace_json(row))
                else:
                    click.echo("  ".join(clean(cell) for cell in _row(row)))
        except KeyboardInterrupt:
            return


def _arrivals(platform: Platform, caller: Principal, where: SpanFilter, interval: float) -> Iterator[TraceRow]:
    """Traces that were not there at the look before. A look goes back a minute, for those that ended late."""
    import msgspec

    begun = where.since or platform.clock.now()
    shown: dict[str, int] = {}
    while True:
        since = max(begun, platform.clock.now() - _TAIL_OVERLAP)
        page = platform.traces.list(caller, msgspec.structs.replace(where, since=since), limit=_PAGE)
        for row in reversed(page.rows):
            if row.trace_id not in shown:
                shown[row.trace_id] = row.root.start
                yield row
        shown = {trace: start for trace, start in shown.items() if start >= since}
        time.sleep(interval)


@traces.command("export")
@filters
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write; else stdout.")
@click.option("--no-content", is_flag=True, help="Leave out what was asked and answered.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many traces.")
@pass_shell
def export(shell: Shell, /, out: Path | None, no_content: bool, limit: int | None, **options: Any) -> None:
    """Write spans as JSON lines, whole traces together, newest first."""
    where = _where("", options)
    spans = exported = 0
    with (
        shell.platform() as (platform, caller),
        click.open_file(str(out or "-"), "wb", atomic=out is not None) as sink,
        Progress("traces") as progress,
    ):
        for row in _every(platform, caller, where, limit):
            spans += _write(sink, platform.traces.get(caller, row.trace_id), content=not no_content)
            exported += 1
            progress.at(exported)
    shell.say(f"Exported {count(exported)} traces, {count(spans)} spans" + (f" to {out}." if out else "."))


def _every(platform: Platform, caller: Principal, where: SpanFilter, limit: int | None) -> Iterator[TraceRow]:
    after, left = "", limit
    while left is None or left > 0:
        page = platform.traces.list(caller, where, limit=min(_PAGE, left or _PAGE), after=after)
        yield from page.rows
        after = page.after
        if left is not None:
            left -= len(page.rows)
        if not after:
            return


def _write(sink: IO[Any], spans: tuple[Span, ...], *, content: bool) -> int:
    import msgspec

    for span in spans:
        kept = span if content else msgspec.structs.replace(span, input="", output="")
        sink.write(msgspec.json.encode(span_json(kept)) + b"\n")
    return len(spans)
