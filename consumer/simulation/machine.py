"""One machine that makes simulated slots, as a policy says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from consumer.planning import GivenUp, Plan, Start
from consumer.simulation.traces import PARALLEL_SHARE, SimulatedSlot


class Policy(Protocol):
    """Decides what the machine does; learns from what became of it."""

    def arrive(self, slot: SimulatedSlot, now_s: float) -> None:
        """Add a slot."""

    def plan(self, now_s: float, free_s: float | None) -> Plan[int]:
        """Say what to do now; see `Planner.plan`."""

    def rest_s(self, slot: SimulatedSlot, share: float, parallel_s: float) -> float:
        """Return the seconds that are left after the parallel phase took so long."""

    def parallel_limit_s(self, slot: SimulatedSlot, share: float) -> float:
        """Return the seconds that must be left when the parallel phase ends."""

    def observe(self, slot: SimulatedSlot, share: float, seconds: float, finished: bool) -> None:
        """Learn from the rest of a slot that finished, or was stopped after so long."""


@dataclass
class Run:
    """What came of a trace."""

    on_time: dict[int, float] = field(default_factory=dict)
    """Quality of each slot that was on time."""
    worked_s: dict[int, tuple[float, float]] = field(default_factory=dict)
    """When work on a slot began and ended."""
    given_up: dict[int, float] = field(default_factory=dict)
    """When a slot was given up before any work."""
    lead_s: list[float] = field(default_factory=list)
    """From giving up to deadline."""
    errors: list[tuple[int, float]] = field(default_factory=list)
    """Number and relative error of the prediction of each slot that finished."""
    arrivals: int = 0

    @property
    def wasted_share(self) -> float:
        """Share of the work that went into slots that then missed."""
        spans = {number: end - begin for number, (begin, end) in self.worked_s.items()}
        wasted = sum(spans[number] for number in spans.keys() - self.on_time.keys())
        return wasted / total if (total := sum(spans.values())) else 0.0


@dataclass
class _Running:
    slot: SimulatedSlot
    start: Start[int]
    began_s: float
    event_s: float
    """When its phase ends, or is stopped."""
    stopped: bool
    free_s: float
    in_parallel: bool = True

    @property
    def share(self) -> float:
        return self.start.rung.work_share


class Machine:
    """Advances from one arrival or end of a phase to the next."""

    def __init__(self, trace: Sequence[SimulatedSlot], policy: Policy) -> None:
        self._trace = trace
        self._policy = policy
        self._running: _Running | None = None
        self._run = Run(arrivals=len(trace))
        self._now_s = 0.0

    def run(self) -> Run:
        """Run the whole trace."""
        coming, look_s = 0, math.inf
        while True:
            arrival_s = self._trace[coming].arrived_s if coming < len(self._trace) else math.inf
            event_s = math.inf if self._running is None else self._running.event_s
            self._now_s = max(self._now_s, min(arrival_s, event_s, look_s))
            if self._now_s == math.inf:
                return self._run
            if self._running is not None and event_s <= self._now_s:
                self._end_phase(self._running)
            while coming < len(self._trace) and self._trace[coming].arrived_s <= self._now_s:
                self._policy.arrive(self._trace[coming], self._now_s)
                coming += 1
            look_s = self._follow()

    def _follow(self) -> float:
        free_s = self._running.free_s if self._running else None
        plan = self._policy.plan(self._now_s, free_s)
        for victim in plan.give_up:
            self._give_up(victim)
        if plan.start is not None:
            self._begin(plan.start)
        return max(plan.look_again_s, math.nextafter(self._now_s, math.inf))

    def _give_up(self, victim: GivenUp[int]) -> None:
        self._run.given_up[victim.key] = self._now_s
        self._run.lead_s.append(victim.lead_s)

    def _begin(self, start: Start[int]) -> None:
        slot, share = self._trace[start.key], start.rung.work_share
        limit_s = slot.deadline_s - self._policy.parallel_limit_s(slot, share)
        end_s = self._now_s + slot.parallel_s * share
        self._run.errors.append((slot.number, start.seconds / (slot.seconds * share) - 1))
        self._running = _Running(
            slot=slot,
            start=start,
            began_s=self._now_s,
            event_s=max(self._now_s, min(end_s, limit_s)),
            stopped=end_s > limit_s,
            free_s=self._now_s + start.seconds,
        )

    def _end_phase(self, running: _Running) -> None:
        slot, share = running.slot, running.share
        if running.in_parallel and not running.stopped:
            parallel_s = slot.parallel_s * share
            rest_s = self._policy.rest_s(slot, share, parallel_s)
            if self._now_s + rest_s <= slot.deadline_s:
                end_s = self._now_s + (1 - PARALLEL_SHARE) * slot.seconds * share
                running.in_parallel = False
                running.free_s = self._now_s + rest_s
                running.stopped = end_s > slot.deadline_s
                running.event_s = min(end_s, slot.deadline_s)
                return
        elif not running.in_parallel:
            seconds = self._now_s - running.began_s - slot.parallel_s * share
            self._policy.observe(slot, share, seconds, finished=not running.stopped)
            if not running.stopped:
                self._run.on_time[slot.number] = running.start.rung.quality
        self._run.worked_s[slot.number] = running.began_s, self._now_s
        self._running = None
