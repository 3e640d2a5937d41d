"""How many calls a deployment takes at once, learned from how it answers.

Additive increase, multiplicative decrease (Chiu and Jain 1989), driven by what a caller of a language model feels: the
time to the first output, the time per output token, and for answers in one piece the time of the whole. Each is looked
at in windows of calls that began after the last change, so a change is judged by its own effect, once per round trip.

A deployment with a stated pace is held to it. One without is held to three times what it does unloaded: the slowly
moving low mark of its windows, as in TCP Vegas and Netflix's gradient limiter. Windows count by a quantile, so that
single slow calls move nothing. When halving the limit has not made the deployment faster, we are not what slows it:
the limit is restored and the new speed is taken for normal.
"""

from __future__ import annotations

from typing import Final, Protocol

START: Final = 64.0
_TOLERANCE: Final = 3.0
_MARGIN: Final = 0.9
"""Of a stated pace: the limit aims below it, so that what varies around the aim is still good."""
_ROOMY: Final = 0.86
"""Of the aim: only below it the limit grows. Between it and the aim the limit rests."""
_QUICK: Final = 1.5
"""Times the unloaded time: up to it the limit may double."""
_OVERLOAD: Final = 0.7
_LEAST_FACTOR, _LEAST_FACTOR_STATED = 0.5, 0.1
"""The limit falls to no less of itself at once: to a tenth where it is known from what is stated how bad it is."""
_STEP: Final = 0.05
_LEAP: Final = 1.5
_LASTING: Final = 0.1
"""The limit grows by half at once towards what it has been of late; how fast that follows."""
_FEWEST, _MOST_SAMPLES, _FIRST_SAMPLES = 4, 12, 6
"""Calls in a window: as many as the limit, within these; few in the first one, to be done before a load builds up."""


class Limit(Protocol):
    """How many calls may be in flight, and what it learns from. Times are seconds of one monotonic clock.

    Each `saw_*` returns whether a window was closed, so that the most calls in flight are counted anew.
    """

    room: int

    @property
    def per_token(self) -> float:
        """Seconds per token of late; 0 while unknown."""
        ...

    def configure(self, *, most: int, first: float, pace: float) -> None:
        """Bounds and aims: calls at most (0 for no bound), seconds to the first output and per token (0 for none)."""
        ...

    def saw_first(self, began: float, seconds: float, peak: int, now: float) -> bool:
        """A call that began then had its first output after so long."""
        ...

    def saw_pace(self, began: float, seconds: float, peak: int, now: float) -> bool:
        """A call took so long per output token after the first."""
        ...

    def saw_whole(self, began: float, seconds: float, peak: int, now: float) -> bool:
        """A call was answered in one piece after so long."""
        ...

    def saw_overload(self, began: float, peak: int, now: float) -> bool:
        """A call was refused for there being too many."""
        ...

    def still_waiting(self, began: float, seconds: float, peak: int, now: float) -> bool:
        """A call was given up after so long without any output."""
        ...


class _Signal:
    """One thing that is measured, in windows.

    Attributes:
        aim: seconds stated as good; 0 when none is.
        imperceptible: seconds that nobody feels: a fast deployment under load of our own making is not slow.
        least: seconds that are never bad where an aim is stated, however fast the deployment is when unloaded.
        base: seconds when unloaded, as far as seen; 0 before the first window.
        ratio: of the last window to the aim.
        value: of the last window.
    """

    __slots__ = (
        "_excuse",
        "_samples",
        "aim",
        "base",
        "first_base",
        "imperceptible",
        "least",
        "quantile",
        "ratio",
        "since",
        "value",
    )

    def __init__(self, first_base: float = 0.5, imperceptible: float = 0.05) -> None:
        self.first_base = first_base
        self.imperceptible = imperceptible
        self.aim = self.least = 0.0
        self.base = 0.0
        self.quantile = 0.5
        self.ratio = 0.0
        self.value = 0.0
        self.since = float("-inf")
        self._excuse = 0.0
        self._samples: list[float] = []

    def add(self, began: float, seconds: float, size: int) -> bool:
        """Count a call if it began within this window; whether the window is full."""
        if began < self.since:
            return False
        self._samples.append(seconds)
        return len(self._samples) >= (size if self.base else _FIRST_SAMPLES)

    def bound(self) -> float:
        """Seconds above which a window is bad; infinite before anything is known."""
        if self._excuse:
            return self._excuse
        usual = max(_TOLERANCE * self.base, self.imperceptible) if self.base else float("inf")
        if not self.aim:
            return usual
        return min(max(usual, self.least), self.aim)

    def close(self, now: float, *, loaded: bool) -> float:
        """End the window; its ratio to the bound."""
        self._samples.sort()
        value = self.value = self._samples[int(len(self._samples) * self.quantile)]
        if not self.base:
            self.base = self._samples[int(len(self._samples) * self.first_base)]
        elif value < self.base:
            self.base += 0.2 * (value - self.base)
        elif not loaded:
            self.base += 0.05 * (value - self.base)
        self.reopen(now)
        if self._excuse:  # asked anew every now and then, as what slowed it may have passed
            self._excuse = 0.0 if value <= self.aim else self._excuse * 0.98
        self.ratio = value / self.bound() if value else 0.0
        return self.ratio

    def reopen(self, now: float) -> None:
        """Forget the window's calls; only calls that begin from now on count."""
        self._samples.clear()
        self.since = now

    def excuse(self) -> None:
        """Take the last window's speed for normal."""
        if self.aim:
            self._excuse = 1.3 * self.value
        else:
            self.base = self.value
        self.ratio = 0.0


class _Blame:
    """A run of decreases on account of one signal, and whether they are any use.

    Attributes:
        before: calls at once when it went wrong.
    """

    __slots__ = ("_calm", "_slowest", "before", "signal")

    def __init__(self, signal: _Signal, value: float, before: float) -> None:
        self.signal = signal
        self._slowest = value
        self.before = before
        self._calm = 0

    def refuted(self, peak: int) -> bool:
        """Whether half as many calls, in two windows running, were no faster."""
        if 2 * peak > self.before:
            self._slowest = max(self._slowest, self.signal.value)
            self._calm = 0
        elif self.signal.value < 0.85 * self._slowest:
            self._calm = 0
        else:
            self._calm += 1
        return self._calm > 1


class AdaptiveLimit:
    """The limit that adapts.

    It starts generous, because a limit that is too low harms a healthy deployment at once, and one that is too high is
    found out within a few answers.

    Attributes:
        room: calls in flight at most, at least 1.
    """

    __slots__ = (
        "_blamed",
        "_falling",
        "_first",
        "_limit",
        "_lowered",
        "_most",
        "_pace",
        "_slow_from",
        "_usual",
        "_whole",
        "room",
    )

    def __init__(self, start: float = START) -> None:
        self._limit = start
        self._most = float("inf")
        self._first, self._pace, self._whole = _Signal(), _Signal(0.2, 0.005), _Signal()
        self._lowered = float("-inf")
        self._falling = False  # overloads only, since it last grew
        self._slow_from = float("inf")  # below it the limit grows by halves; nothing is known against it yet
        self._usual = float("inf")  # what it has been of late, once it was lowered
        self._blamed: _Blame | None = None
        self.room = max(int(start), 1)

    @property
    def limit(self) -> float:
        """The limit, fractions included."""
        return self._limit

    @property
    def per_token(self) -> float:
        """Seconds per token in the last window, 0 before there was one."""
        return self._pace.value

    def configure(self, *, most: int, first: float, pace: float) -> None:
        """Set bound and aims. What was learned stays."""
        self._most = float(most) if most > 0 else float("inf")
        self._pace.aim = self._pace.least = _MARGIN * pace
        self._pace.quantile = 0.8 if pace else 0.5
        # Who states a pace has also stated in how long a call is to begin; half of that is for waiting.
        self._first.aim = first / 2 if pace else 0.0
        self._first.least = first / 8
        self._set(self._limit)

    def saw_first(self, began: float, seconds: float, peak: int, now: float) -> bool:
        """A call that began then had its first output after so long."""
        return self._first.add(began, seconds, self._size()) and self._judge(self._first, peak, now, grows=True)

    def saw_pace(self, began: float, seconds: float, peak: int, now: float) -> bool:
        """A call took so long per output token. A good pace raises nothing: first outputs do, which come sooner."""
        return self._pace.add(began, seconds, self._size()) and self._judge(self._pace, peak, now, grows=False)

    def saw_whole(self, began: float, seconds: float, peak: int, now: float) -> bool:
        """A call was answered in one piece after so long."""
        return self._whole.add(began, seconds, self._size()) and self._judge(self._whole, peak, now, grows=True)

    def saw_overload(self, began: float, peak: int, now: float) -> bool:
        """A call was refused for there being too many. Those that began before the last decrease say nothing new."""
        if began < self._lowered:
            return False
        lowered = min(self._limit, 2.0 * peak) * _OVERLOAD
        if not self._falling:  # an outage refuses all, however few: then it is back at this in a few windows
            self._falling = True
            self._slow_from = lowered
        self._lower(lowered, now)
        return True

    def still_waiting(self, began: float, seconds: float, peak: int, now: float) -> bool:
        """A call was given up without any output: it would have taken at least so long."""
        return seconds > self._first.bound() and self.saw_first(began, seconds, peak, now)

    def _size(self) -> int:
        return min(max(self.room, _FEWEST), _MOST_SAMPLES)

    def _judge(self, signal: _Signal, peak: int, now: float, *, grows: bool) -> bool:
        ratio = signal.close(now, loaded=2 * peak >= self.room)
        if ratio > 1.0:
            self._congested(signal, peak, now)
            return True
        if self._blamed is not None and self._blamed.signal is signal:
            self._blamed = None
        if signal is self._pace and self._usual < float("inf"):
            self._usual += _LASTING * (self._limit - self._usual)
        if grows and max(ratio, self._pace.ratio) <= _ROOMY:
            self._raise(peak, quick=signal.value <= _QUICK * signal.base)
        if signal is self._pace and signal.aim and max(ratio, self._first.ratio) <= _ROOMY and peak >= self.room:
            return self._leap(peak / max(ratio, 1e-3), now)
        return grows

    def _leap(self, fits: float, now: float) -> bool:
        """Go back at once to most of what the pace has room for, up to what the limit has been of late.

        It is for a deployment that was slow for a while for reasons of its own. Seconds per token grow no faster than
        the calls at once, so in proportion is not too far; but where the pace does not tell the load, as before an
        engine with a queue inside, only what held before is known to be good.
        """
        limit = min(_ROOMY * fits, _LEAP * self._limit, self._usual)
        if limit <= self._limit + 0.5:
            return False
        self._falling = False
        self._set(limit)
        self._pace.reopen(now)
        return True

    def _congested(self, signal: _Signal, peak: int, now: float) -> None:
        if self._blamed is None or self._blamed.signal is not signal:
            self._blamed = _Blame(signal, signal.value, float(peak))
        elif self._blamed.refuted(peak):
            signal.excuse()
            self._set(max(self._blamed.before, self._limit))
            self._blamed = None
            return
        # The window's speed is that of as many calls as there were, which may be more than the limit while it drains.
        lowered = min(
            self._limit, peak * max(1.0 / signal.ratio, _LEAST_FACTOR_STATED if signal.aim else _LEAST_FACTOR)
        )
        self._slow_from = lowered
        if self._usual == float("inf"):  # few at once may have been all there were, not all that it bears
            self._usual = min(max(lowered, float(peak)), 2 * lowered)
        self._lower(lowered, now)

    def _raise(self, peak: int, *, quick: bool) -> None:
        self._falling = False
        if quick and self._limit < self._slow_from:
            if 2 * peak >= self.room:
                self._set(min(self._limit * 2, self._slow_from))
        elif 4 * peak >= 3 * self.room:
            self._set(self._limit + max(_STEP * self._limit, 0.5))

    def _lower(self, limit: float, now: float) -> None:
        self._lowered = now
        self._set(limit)
        for signal in (self._first, self._pace, self._whole):
            signal.reopen(now)

    def _set(self, limit: float) -> None:
        self._limit = min(max(limit, 1.0), max(self._most, 1.0))
        self.room = int(self._limit)
