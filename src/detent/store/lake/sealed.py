"""Closed days as Parquet: a folder of part files, each 2,048 spans with all their fields, readable by anything.

The narrow rows, roll-ups and words stay in the day's SQLite file, so that a sealed day is queried like any other; only
the content is fetched from here. A part is read as a whole: 2,048 spans are some ten milliseconds.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from detent.kernel.errors import StorageFailed
from detent.kernel.telemetry import Span
from detent.store.lake.content import Content
from detent.store.lake.files import put_on_disk

PART_SPANS: Final = 2048
_CACHED_PARTS: Final = 4
_COMPRESSION: Final = "zstd(9)"

_TEXT: Final = (
    "trace_id",
    "span_id",
    "parent_id",
    "project",
    "name",
    "operation",
    "status",
    "error_type",
    "provider",
    "request_model",
    "response_model",
    "route",
    "key_id",
    "release",
    "session_id",
    "user_id",
    "finish_reason",
    "input",
    "output",
)
_NUMBERS: Final = (
    "start",
    "end",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "reasoning_tokens",
    "http_status",
    "attempts",
    "cost",
    "ttft",
)
_FLAGS: Final = ("stream", "usage_estimated")
_PLAIN: Final = ("input", "output", "attributes", "trace_id", "span_id")
"""Columns whose values hardly repeat: a dictionary would only be in the way."""


def part_path(folder: Path, number: int) -> Path:
    """Where a part of a sealed day is."""
    return folder / f"part-{number:05d}.parquet"


def write_part(path: Path, spans: Sequence[Span]) -> None:
    """Write one part and put it on the disk."""
    from arro3.core import Array, DataType, Schema, Table
    from arro3.core import Field as Column
    from arro3.io import write_parquet

    columns: dict[str, tuple[Any, list[Any]]] = {}
    for name in _TEXT:
        columns[name] = (DataType.string(), [getattr(span, name) for span in spans])
    for name in _NUMBERS:
        columns[name] = (DataType.int64(), [getattr(span, name) for span in spans])
    for name in _FLAGS:
        columns[name] = (DataType.bool(), [getattr(span, name) for span in spans])
    columns["attributes"] = (
        DataType.string(),
        [msgspec.json.encode(span.attributes).decode() if span.attributes else "" for span in spans],
    )
    schema = Schema([Column(name, kind, nullable=True) for name, (kind, _) in columns.items()])
    table = Table.from_arrays([Array(values, type=kind) for kind, values in columns.values()], schema=schema)
    write_parquet(
        table,
        path,
        compression=_COMPRESSION,
        column_dictionary_enabled=dict.fromkeys(_PLAIN, False),
        created_by="detent",
    )
    put_on_disk(path)


class SealedContent:
    """Reads content out of parts, a few of which it keeps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: OrderedDict[Path, list[Content]] = OrderedDict()

    def content(self, folder: Path, span: int) -> Content:
        """The content of the span with this row id.

        Raises:
            FileNotFoundError: the part is gone: the day was sealed again or dropped.
            StorageFailed: it is damaged.
        """
        part, at = divmod(span - 1, PART_SPANS)
        path = part_path(folder, part)
        with self._lock:
            contents = self._parts.get(path)
            if contents is not None:
                self._parts.move_to_end(path)
        if contents is None:
            contents = _read_part(path)
            with self._lock:
                self._parts[path] = contents
                while len(self._parts) > _CACHED_PARTS:
                    self._parts.popitem(last=False)
        if at >= len(contents):
            raise StorageFailed(f"{path.name} has too few spans.", hint="Restore the day's Parquet files.")
        return contents[at]


def _read_part(path: Path) -> list[Content]:
    from arro3.io import read_parquet

    if not path.exists():
        raise FileNotFoundError(path)
    try:
        table = read_parquet(path, batch_size=PART_SPANS).read_all()
    except Exception as error:
        raise StorageFailed(f"{path.name} cannot be read: {error}.", hint="Restore the day's Parquet files.") from error
    inputs, outputs, attributes = (table.column(name).to_pylist() for name in ("input", "output", "attributes"))
    return [
        Content(given, answered, msgspec.json.decode(rest, type=dict[str, Any]) if rest else {})
        for given, answered, rest in zip(inputs, outputs, attributes, strict=True)
    ]
