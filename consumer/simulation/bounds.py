"""How many slots of a trace can be on time at all."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from consumer.planning.optimum import Known, most_on_time
from consumer.simulation.traces import SimulatedSlot


def with_real_times(trace: Sequence[SimulatedSlot], share: float = 1.0) -> list[Known]:
    """Return what a planner knows that sees the future, at a rung with this share of the work."""
    return [Known(s.arrived_s, s.deadline_s, s.seconds * share) for s in trace]


def with_predicted_times(trace: Sequence[SimulatedSlot]) -> list[Known]:
    """Return what one knows that sees all arrivals, and of their times what the recipes say."""
    return [Known(s.arrived_s, s.deadline_s, s.predicted_s) for s in trace]


def most_possible(slots: Sequence[Known]) -> float:
    """Return the most slots that can be on time: exact if deadlines are agreeable, else a bound."""
    by_deadline = sorted(slots, key=lambda slot: slot.deadline_s)
    arrivals = [slot.arrived_s for slot in by_deadline]
    if arrivals == sorted(arrivals):
        return most_on_time(slots)
    return upper_bound(slots)


def upper_bound(slots: Sequence[Known]) -> float:
    """Return what no schedule can exceed, also if work could be interrupted and done in part.

    With slots in part the problem is linear, and the work that fits into the windows of a set of
    slots is a polymatroid: giving each slot, the shortest first, what can be added is optimal.
    """
    chosen: list[Known] = []
    done_s, value = 0.0, 0.0
    for slot in sorted(slots, key=lambda slot: slot.seconds):
        heapq.heapify(chosen)
        heapq.heappush(chosen, slot)
        more_s = _work_that_fits(chosen)
        value += (more_s - done_s) / slot.seconds
        if more_s - done_s < 1e-9:
            chosen.remove(slot)  # its windows are full
        done_s = more_s
    return math.floor(value + 1e-6)


def _work_that_fits(slots: Sequence[Known]) -> float:
    """Return the most seconds of work on all slots, each done within its window.

    Earliest deadline first, interruptible, is a maximum matching of moments with work (Glover).
    """
    coming = sorted(slots)
    waiting: list[list[float]] = []
    at, now_s, done_s = 0, 0.0, 0.0
    while at < len(coming) or waiting:
        if not waiting:
            now_s = max(now_s, coming[at].arrived_s)
        while at < len(coming) and coming[at].arrived_s <= now_s:
            heapq.heappush(waiting, [coming[at].deadline_s, coming[at].seconds])
            at += 1
        next_s = coming[at].arrived_s if at < len(coming) else math.inf
        deadline_s, left_s = waiting[0]
        step_s = min(left_s, deadline_s - now_s, next_s - now_s)
        if step_s > 0:
            now_s += step_s
            done_s += step_s
            waiting[0][1] -= step_s
        if waiting[0][1] <= 1e-12 or now_s >= deadline_s:
            heapq.heappop(waiting)
    return done_s
