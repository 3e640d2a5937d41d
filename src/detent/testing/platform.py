"""A platform of one test's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detent.app.platform import Platform, open_platform
from detent.kernel.clock import Clock, FixedClock
from detent.kernel.ids import CountedIds, Ids
from detent.kernel.settings import load_settings


@contextmanager
def temporary_platform(*, clock: Clock | None = None, ids: Ids | None = None, **settings: Any) -> Iterator[Platform]:
    """All of Detent's rooms on real stores in a temporary folder, without processes and ports.

    Ids and clock are fixed, so two runs record the same facts.

    Args:
        clock: stands at 2026-01-01 unless given.
        ids: counted from 1 unless given.
        settings: by section and field with two underscores between: `telemetry__content="drop"`.
    """
    overrides = {name.replace("__", ".", 1): value for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="detent-") as home:
        given = load_settings({"DETENT_HOME": home}, overrides=overrides)
        with open_platform(given, clock=clock or FixedClock(), ids=ids or CountedIds()) as platform:
            yield platform
