"""Another cost for spans of a day, with traces, roll-ups and Parquet kept in step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from detent.kernel.errors import InvalidInput
from detent.kernel.telemetry import Repriced, Span
from detent.store.lake import keeping, rows, sealed
from detent.store.lake.files import Database, Files
from detent.store.lake.reading import Day
from detent.store.lake.sealed import PART_SPANS, SealedContent

CostOf = Callable[[Span], int | None]
_AT_ONCE: Final = 2000
"""Spans changed in one transaction of a day that is still written: its writers wait no longer than for that."""

_Change = tuple[int | None, int]
"""The new cost and the span's row id."""


def reprice(
    files: Files,
    contents: SealedContent,
    project: str,
    path: Path,
    cost_of: CostOf,
    *,
    since: int,
    until: int,
    dry_run: bool,
) -> Repriced:
    """Give a day's model calls the cost that `cost_of` says.

    At every moment roll-ups, traces and spans of the file agree. A crash leaves a part of a day changed that is not
    sealed, and of a sealed day all or nothing, Parquet included; doing it again does the rest.

    Raises:
        Vanished: the day was dropped.
        InvalidInput: a cost is none that a row can hold.
    """
    with files.exclusive(project, "keep"):
        with files.reading(path) as database:
            day = Day(database, project, contents)
            changes, counted = _compare(day, cost_of, since, until)
            sealed_spans, folder = day.sealed_spans, day.sealed_folder
            touched = {(number - 1) // PART_SPANS for _, number in changes if number <= sealed_spans}
            if touched and not dry_run:
                folder = _rewrite(day, {number: cost for cost, number in changes}, touched, sealed_spans)
        if changes and not dry_run:
            _apply(Database(path, writes=True), changes, folder.name if touched else "")
            if touched:
                keeping.remove_stale(path, folder)
    return counted


def _compare(day: Day, cost_of: CostOf, since: int, until: int) -> tuple[list[_Change], Repriced]:
    changes: list[_Change] = []
    calls = before = after = 0
    for number, span in day.calls(since, until):
        cost = cost_of(span)
        if cost is not None and not 0 <= cost <= rows.MAX_NUMBER:
            raise InvalidInput(f"A cost of {cost} nano-dollars cannot be stored.", hint="Correct the price.")
        calls += 1
        before += span.cost or 0
        after += cost or 0
        if cost != span.cost:
            changes.append((cost, number))
    return changes, Repriced(calls, len(changes), before, after)


def _rewrite(day: Day, costs: dict[int, int | None], touched: set[int], last: int) -> Path:
    """The sealed day's parts with the new costs, in a folder of their own; parts without a change are linked to."""
    folder = keeping.next_folder(day.path, day.sealed_folder.name)
    shutil.rmtree(folder, ignore_errors=True)  # what a crash left
    folder.mkdir(mode=0o700)
    for part, begin in enumerate(range(1, last + 1, PART_SPANS)):
        old, new = sealed.part_path(day.sealed_folder, part), sealed.part_path(folder, part)
        if part not in touched:
            new.hardlink_to(old)
            continue
        spans = day.all_spans(begin, min(begin + PART_SPANS - 1, last))
        sealed.write_part(
            new,
            [
                msgspec.structs.replace(span, cost=costs[number]) if number in costs else span
                for number, span in enumerate(spans, begin)
            ],
        )
    keeping.settle_folder(folder)
    return folder


def _apply(database: Database, changes: list[_Change], folder: str) -> None:
    try:
        # A sealed day has no writers but late ones, and its Parquet changes as a whole: so does its file.
        size = len(changes) if folder else _AT_ONCE
        for begin in range(0, len(changes), size):
            run = database.connection.execute
            run("BEGIN IMMEDIATE")
            try:
                _change(database, changes[begin : begin + size])
                if folder:
                    run("UPDATE meta SET sealed_folder = ?", (folder,))
                run("COMMIT")
            except BaseException:
                database.connection.rollback()
                raise
    finally:
        database.close()


def _change(database: Database, changes: Sequence[_Change]) -> None:
    run, many = database.connection.execute, database.connection.executemany
    groups: dict[tuple[int, ...], list[int]] = {}
    traces: set[int] = set()
    for cost, number in changes:
        row = run(
            """
            SELECT cost, trace, start / 3600000000000, iif(response_model, response_model, request_model), provider,
                route, key_id, release FROM span WHERE id = ?
            """,
            (number,),
        ).fetchone()
        traces.add(row[1])
        delta = groups.setdefault(row[2:], [0, 0])
        delta[0] += (cost or 0) - (row[0] or 0)
        delta[1] += (cost is None) - (row[0] is None)
    many("UPDATE span SET cost = ? WHERE id = ?", changes)
    many(
        """
        UPDATE rollup SET cost = cost + ?, unpriced = unpriced + ?
        WHERE hour = ? AND model = ? AND provider = ? AND route = ? AND key = ? AND release = ?
        """,
        [(*delta, *key) for key, delta in groups.items()],
    )
    many(
        """
        UPDATE trace SET (cost, unpriced) = (
            SELECT sum(s.cost), count(*) FILTER (WHERE s.cost IS NULL AND n.text IN (
                SELECT value FROM json_each(?)
            )) FROM span s LEFT JOIN name n ON n.id = s.operation WHERE s.trace = trace.id
        ) WHERE id = ?
        """,
        [(rows.CALLS_JSON, trace) for trace in traces],
    )
