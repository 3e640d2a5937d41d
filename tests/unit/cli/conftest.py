"""The command line in this process, on a home of its own, with time standing still."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from detent.app import platform as app
from detent.cli.root import run
from detent.kernel.clock import FixedClock
from detent.kernel.ids import CountedIds


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def detent(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, clock: FixedClock, ids: CountedIds
) -> Callable[..., Ran]:
    """Run a command; ids and clock go on from call to call."""
    monkeypatch.setattr(app, "open_platform", partial(app.open_platform, clock=clock, ids=ids))

    def call(*arguments: str) -> Ran:
        clock.advance(1_000_000_000)
        code = run(list(arguments))
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return call
