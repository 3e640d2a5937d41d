"""Which tokens are accounted when a provider says something, nothing or nonsense."""

from __future__ import annotations

import msgspec
import pytest

from detent.gateway.usage import read_figures, settle
from detent.kernel.chat import Usage

TOLD = Usage(10, 1, cached_input_tokens=4)


@pytest.mark.parametrize(
    ("told", "size", "finished", "accounted"),
    [
        (TOLD, 400, True, TOLD),
        (None, 400, True, Usage(3, 100, estimated=True)),
        (TOLD, 400, False, Usage(10, 100, cached_input_tokens=4, estimated=True)),
        (Usage(10, 300), 400, False, Usage(10, 300, estimated=True)),
        (Usage(10, 0, cached_input_tokens=4), 400, True, Usage(10, 100, cached_input_tokens=4, estimated=True)),
        (Usage(10, 0), 0, True, Usage(10, 0)),
        (Usage(0, 0), 8, False, Usage(3, 2, estimated=True)),
    ],
)
def test_figures_hold_for_what_they_are_of(told: Usage | None, size: int, finished: bool, accounted: Usage) -> None:
    assert settle(told, messages=b"x" * 12, output_size=size, finished=finished) == accounted


@pytest.mark.parametrize("raw", [b"", b"null", b'"many"', b'{"input_tokens": "many"}', b'{"input_tokens": 1e400}'])
def test_figures_that_are_none(raw: bytes) -> None:
    class Form(msgspec.Struct):
        input_tokens: int = 0

    assert read_figures(msgspec.Raw(raw), Form) is None
