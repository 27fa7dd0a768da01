"""What slots that have not arrived yet are worth.

The last arrivals say how far apart slots come, how long they take and how much time they have.
Futures drawn from them say how many coming slots can be on time if the waiting ones are done at a
given moment; their mean is what a planner weighs a waiting slot against. Since a waiting slot of
12 s may cost two coming ones, that is worth 1 to 2 percent of all slots under overload.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import deque
from itertools import chain
from typing import NamedTuple

from consumer.planning.optimum import Known, latest_starts

HORIZON_S = 90.0
_REMEMBERED = 200
_FUTURES = 64
_FEWEST = 5
_MOST_IN_A_FUTURE = 40
_ARRIVALS_A_FUTURE = 6


class _Arrival(NamedTuple):
    gap_s: float
    offset_s: float
    """From arrival to deadline."""
    seconds: float


class ExpectedArrivals:
    """Learns from arrivals; deterministic for the same arrivals."""

    def __init__(self, seed: int = 0) -> None:
        self._recent: deque[_Arrival] = deque(maxlen=_REMEMBERED)
        self._span_s = 0.0
        self._work_s = 0.0
        self._offsets_s = 0.0
        self._last_s: float | None = None
        self._count = 0
        self._random = random.Random(seed)  # noqa: S311 - draws futures, nothing secret
        self._futures: deque[list[float]] = deque(maxlen=_FUTURES)
        self._latest_s: list[float] | None = None

    def note(self, arrived_s: float, deadline_s: float, seconds: float) -> None:
        """Learn from an arrival."""
        # Partitions of a backlog are read in turn, so that arrivals may step back in time.
        gap_s = 0.0 if self._last_s is None else max(0.0, arrived_s - self._last_s)
        self._last_s = max(arrived_s, self._last_s or arrived_s)
        if len(self._recent) == _REMEMBERED:
            self._span_s -= self._recent[0].gap_s
            self._work_s -= self._recent[0].seconds
            self._offsets_s -= self._recent[0].offset_s
        self._span_s += gap_s
        self._work_s += seconds
        self._offsets_s += deadline_s - arrived_s
        self._recent.append(_Arrival(gap_s, deadline_s - arrived_s, seconds))
        self._count += 1
        if self._count >= _FEWEST and (
            self._count % _ARRIVALS_A_FUTURE == 0 or len(self._futures) < _FUTURES // 4
        ):
            self._draw()

    def load(self, now_s: float) -> float:
        """Return the work that arrives in a second, in seconds."""
        if self._last_s is None or len(self._recent) < _FEWEST:
            return 0.0
        span_s = self._span_s + max(0.0, now_s - self._last_s)
        return self._work_s / span_s if span_s > 0 else 0.0

    def on_time_if_free_in(self, seconds: float) -> float:
        """Return how many coming slots can be on time if work on them may begin in `seconds`."""
        if not self._futures:
            return 0.0
        if self._latest_s is None:  # asked far less often than changed while a backlog is read
            self._latest_s = sorted(chain.from_iterable(self._futures))
        return (len(self._latest_s) - bisect_left(self._latest_s, seconds)) / len(self._futures)

    @property
    def mean_s(self) -> float:
        """The usual seconds of a slot, as predicted."""
        return self._work_s / len(self._recent) if self._recent else 0.0

    @property
    def offset_s(self) -> float:
        """The usual time from arrival to deadline."""
        return self._offsets_s / len(self._recent) if self._recent else 0.0

    def _draw(self) -> None:
        """Draw one more future; the oldest is forgotten when there are enough."""
        recent, draw = self._recent, self._random.random
        count = len(recent)
        at_s = 0.0
        future: list[Known] = []
        while len(future) < _MOST_IN_A_FUTURE:
            at_s += recent[int(draw() * count)].gap_s
            if at_s > HORIZON_S:
                break
            _, offset_s, seconds = recent[int(draw() * count)]
            future.append(Known(at_s, at_s + offset_s, seconds))
        future.sort(key=lambda slot: slot.deadline_s)
        self._futures.append(latest_starts(future))
        self._latest_s = None
