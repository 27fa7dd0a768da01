"""Ways to decide that a simulated machine can follow."""

from __future__ import annotations

import heapq
import math
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from consumer.planning import GivenUp, Plan, Planner, Rung, Start, Waiting
from consumer.simulation.traces import MEAN_S, PARALLEL_SHARE, SimulatedSlot
from vortex.orchestration.learning import CarryOver, Prior, StageModel
from vortex.rung import FULL

CONFIGURED = Prior(fixed_s=0.05 * MEAN_S, per_unit_s=0.95 * MEAN_S, doubt=0.3)
BLIND = Prior(fixed_s=1.0, per_unit_s=2.0, doubt=1.0)
"""As on a machine of which nothing is known; slots take several times as long."""


class Estimates:
    """What the worker learns of its stages: the parallel phase, and what follows it."""

    def __init__(self, prior: Prior = CONFIGURED) -> None:
        parts = PARALLEL_SHARE, 1 - PARALLEL_SHARE
        self.parallel, self.rest = (
            StageModel(Prior(prior.fixed_s * part, prior.per_unit_s * part, prior.doubt))
            for part in parts
        )
        self.carry_over = CarryOver()
        self._parallel_error = 0.0

    def predict_s(self, slot: SimulatedSlot, rung: Rung) -> float:
        """Return the seconds of a slot at a rung."""
        units = slot.units * rung.work_share
        return self.parallel.predict(units) + self.rest.predict(units)

    def spread(self) -> float:
        """Return the relative standard deviation of a slot's time."""
        return self.rest.spread

    def rest_s(self, slot: SimulatedSlot, share: float, parallel_s: float) -> float:
        """Learn from the parallel phase, and return the seconds of what follows."""
        units = slot.units * share
        self._parallel_error = self.parallel.observe(parallel_s, units)
        return self.rest.predict(units) * self.carry_over.factor(self._parallel_error)

    def observe(self, slot: SimulatedSlot, share: float, seconds: float, finished: bool) -> None:
        """Learn from the rest of a slot."""
        units = slot.units * share
        if finished:
            self.carry_over.observe(self._parallel_error, self.rest.observe(seconds, units))
        else:
            self.rest.observe_stopped(seconds, units)


class Planned:
    """The worker's own planner and estimates."""

    def __init__(self, ladder: Sequence[Rung] = (FULL,), prior: Prior = CONFIGURED) -> None:
        self.estimates = Estimates(prior)
        self.planner: Planner[int, SimulatedSlot] = Planner(
            self.estimates.predict_s, self.estimates.spread, ladder
        )
        self.rest_s = self.estimates.rest_s
        self.observe = self.estimates.observe
        self.plan = self.planner.plan

    def arrive(self, slot: SimulatedSlot, now_s: float) -> None:
        """Add a slot."""
        waiting = Waiting(slot.number, slot, slot.emitted_s, slot.deadline_s)
        self.planner.arrive(waiting, now_s)

    def parallel_limit_s(self, slot: SimulatedSlot, share: float) -> float:
        """Return the predicted rest."""
        return self.estimates.rest.predict(slot.units * share)


class Fetched(Planned):
    """The same over slots that lie in partitions, of which only so many are fetched at a time."""

    def __init__(self, partitions: int, queue_limit: int = 64) -> None:
        """Start without slots.

        Args:
            partitions: slots lie in so many by the hash of their number, as ticks by their key.
                They are fetched from one partition after the other, one slot each.
            queue_limit: so many slots may wait; others are not fetched, and so not seen.
        """
        super().__init__()
        self._partitions: list[deque[SimulatedSlot]] = [deque() for _ in range(partitions)]
        self._turn = 0
        self._queue_limit = queue_limit
        self.plan = self._fetch_and_plan

    def arrive(self, slot: SimulatedSlot, now_s: float) -> None:
        """Add a slot to its partition."""
        place = zlib.crc32(str(slot.number).encode()) % len(self._partitions)
        self._partitions[place].append(slot)

    def _fetch_and_plan(self, now_s: float, free_s: float | None = None) -> Plan[int]:
        while len(self.planner) < self._queue_limit and any(self._partitions):
            partition = self._partitions[self._turn % len(self._partitions)]
            self._turn += 1
            if partition:
                super().arrive(partition.popleft(), now_s)
        plan = self.planner.plan(now_s, free_s)
        more = plan.give_up and any(self._partitions)
        return replace(plan, look_again_s=now_s) if more else plan


class EachAlone:
    """Earliest deadline first, each slot tested alone; the median cost of the last 15 slots."""

    def __init__(self, partitions: int = 1, queue_limit: float = math.inf) -> None:
        """Start without slots.

        Args:
            partitions: slots lie in so many by their number, and are fetched from one until it is
                empty.
            queue_limit: so many slots may wait; others are not fetched, and so not seen.
        """
        self._partitions: list[deque[SimulatedSlot]] = [deque() for _ in range(partitions)]
        self._queue_limit = queue_limit
        self._queue: list[tuple[float, int, SimulatedSlot]] = []
        self._costs_s = [0.97 * MEAN_S]

    def arrive(self, slot: SimulatedSlot, now_s: float) -> None:
        """Add a slot."""
        self._partitions[slot.number % len(self._partitions)].append(slot)

    def _fetch(self) -> None:
        for partition in self._partitions:
            while partition and len(self._queue) < self._queue_limit:
                slot = partition.popleft()
                heapq.heappush(self._queue, (slot.deadline_s, slot.number, slot))

    def plan(self, now_s: float, free_s: float | None) -> Plan[int]:
        """Give up what cannot be finished; start what is due first."""
        cost_s = median(self._costs_s[-15:])
        given_up: list[GivenUp[int]] = []
        while True:
            self._fetch()
            hopeless = self._take_hopeless(now_s, cost_s)
            if not hopeless:
                break
            given_up += (GivenUp(s.number, "alone", s.deadline_s - now_s) for s in hopeless)
        start = None
        if free_s is None and self._queue:
            slot = heapq.heappop(self._queue)[2]
            start = Start(slot.number, cost_s * slot.units, FULL, "due first")
        return Plan(start, tuple(given_up))

    def _take_hopeless(self, now_s: float, cost_s: float) -> list[SimulatedSlot]:
        hopeless = [
            slot for _, _, slot in self._queue if now_s + cost_s * slot.units >= slot.deadline_s
        ]
        if hopeless:
            self._queue = [
                one for one in self._queue if now_s + cost_s * one[2].units < one[2].deadline_s
            ]
            heapq.heapify(self._queue)
        return hopeless

    def rest_s(self, slot: SimulatedSlot, share: float, parallel_s: float) -> float:
        """Return the predicted rest, whatever the parallel phase took."""
        return self.parallel_limit_s(slot, share)

    def parallel_limit_s(self, slot: SimulatedSlot, share: float) -> float:
        """Return the predicted rest."""
        return median(self._costs_s[-15:]) * (1 - PARALLEL_SHARE) * slot.units

    def observe(self, slot: SimulatedSlot, share: float, seconds: float, finished: bool) -> None:
        """Learn from slots that finished, and from no others."""
        if finished:
            self._costs_s.append(seconds / (1 - PARALLEL_SHARE) / slot.units)


class FirstInFirstOut:
    """In the order of arrival, with a constant for every slot's time."""

    def __init__(self) -> None:
        self._queue: list[SimulatedSlot] = []

    def arrive(self, slot: SimulatedSlot, now_s: float) -> None:
        """Add a slot."""
        self._queue.append(slot)

    def plan(self, now_s: float, free_s: float | None) -> Plan[int]:
        """Start the oldest whose constant still fits."""
        given_up: list[GivenUp[int]] = []
        while free_s is None and self._queue:
            slot = self._queue.pop(0)
            if now_s + MEAN_S <= slot.deadline_s:
                return Plan(Start(slot.number, MEAN_S, FULL, "oldest"), tuple(given_up))
            given_up.append(GivenUp(slot.number, "too late", slot.deadline_s - now_s))
        return Plan(None, tuple(given_up))

    def rest_s(self, slot: SimulatedSlot, share: float, parallel_s: float) -> float:
        """Return the constant's share."""
        return MEAN_S * (1 - PARALLEL_SHARE)

    def parallel_limit_s(self, slot: SimulatedSlot, share: float) -> float:
        """Return the constant's share."""
        return MEAN_S * (1 - PARALLEL_SHARE)

    def observe(self, slot: SimulatedSlot, share: float, seconds: float, finished: bool) -> None:
        """Learn nothing."""
