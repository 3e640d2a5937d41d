"""How long an answer is going to be, where the call sets no bound: learned from answers before."""

from __future__ import annotations

from typing import Final

_FIRST: Final = 512
_STEP: Final = 0.08
_QUANTILE: Final = 0.9
_KNOWN: Final = 10_000


class Typical:
    """The 90th percentile of answers' tokens by what they were asked of, by stochastic approximation.

    Each answer moves the estimate up or down by a fixed part of itself, nine times as far up as down, so that nine of
    ten answers stay below it. Reserving that much keeps nine of ten calls within what they reserved.
    """

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def expect(self, where: str, bound: int | None, *, answers: int = 1) -> int:
        """Output tokens to reserve.

        Args:
            where: what was asked: a deployment, a route.
            bound: the call's own (`max_tokens`), if it has one; then nothing is guessed.
            answers: how many are asked for (`n`).
        """
        each = self._known.get(where, _FIRST) if bound is None else max(bound, 0)
        return int(each * max(answers, 1))

    def learn(self, where: str, tokens: int) -> None:
        """An answer took so many."""
        before = self._known.get(where)
        if before is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            before = float(max(tokens, 16))
        up = _STEP * _QUANTILE if tokens > before else -_STEP * (1 - _QUANTILE)
        self._known[where] = max(before * (1 + up), 16.0)
