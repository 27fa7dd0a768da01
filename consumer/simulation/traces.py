"""Slots that arrive, and how long they really take."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

MEAN_S = 12.0
PREDICTED_SPREAD = 0.25
UNPREDICTED_SPREAD = 0.1
PARALLEL_SHARE = 0.25
SLACK_S = 45.0


@dataclass(frozen=True, slots=True)
class SimulatedSlot:
    """One slot of a trace."""

    number: int
    arrived_s: float
    deadline_s: float
    units: float
    """What the recipe says of its work; 1 is a usual slot."""
    predicted_s: float
    """Its expected seconds, if the speed of the machine is known."""
    seconds: float
    """What it really takes at full quality."""
    emitted_s: float
    """When it was written; before `arrived_s` for a slot of a backlog."""

    @property
    def parallel_s(self) -> float:
        """What its first, parallel phase really takes."""
        return PARALLEL_SHARE * self.seconds


@dataclass(frozen=True)
class Traffic:
    """Random arrivals, by default the reference trace."""

    load: float
    """Seconds of work that arrive in a second."""
    slots: int = 600
    burst: int = 1
    """So many slots arrive together."""
    slack_s: tuple[float, float] = (SLACK_S, SLACK_S)
    """From arrival to deadline, uniform between both."""
    slower_from_half: float = 1.0
    """From the middle of the trace on, slots take so many times as long."""
    backlog: bool = False
    """All slots wait at 0, due as far apart as they would have arrived."""
    day_s: float = 0.0
    """If above 0, the rate swings by 80 percent in so many seconds."""

    def trace(self, seed: int) -> list[SimulatedSlot]:
        """Return slots in the order of arrival; the same for the same seed."""
        draws = random.Random(f"{self}/{seed}")  # noqa: S311 - not a secret
        moments = self._moments(draws)
        return [self._slot(number, next(moments), draws) for number in range(self.slots)]

    def _moments(self, draws: random.Random) -> Iterator[float]:
        rate = self.load / MEAN_S / self.burst
        at_s = 0.0
        while True:
            swing = 1 + 0.8 * math.sin(2 * math.pi * at_s / self.day_s) if self.day_s else 1.0
            at_s += draws.expovariate(rate * swing)
            yield from [at_s] * self.burst

    def _slot(self, number: int, at_s: float, draws: random.Random) -> SimulatedSlot:
        units = math.exp(draws.gauss(0.0, PREDICTED_SPREAD) - PREDICTED_SPREAD**2 / 2)
        noise = math.exp(draws.gauss(0.0, UNPREDICTED_SPREAD) - UNPREDICTED_SPREAD**2 / 2)
        slower = self.slower_from_half if number >= self.slots // 2 else 1.0
        predicted_s = MEAN_S * units * slower
        return SimulatedSlot(
            number=number,
            arrived_s=0.0 if self.backlog else at_s,
            deadline_s=at_s + draws.uniform(*self.slack_s),
            units=units,
            predicted_s=predicted_s,
            seconds=predicted_s * noise,
            emitted_s=at_s - self.slots * MEAN_S / self.load if self.backlog else at_s,
        )
