"""Which slots were given up although they could have been made."""

from __future__ import annotations

from collections.abc import Sequence

from consumer.simulation.machine import Run
from consumer.simulation.traces import SimulatedSlot


def wrongly_given_up(
    trace: Sequence[SimulatedSlot], run: Run, lowest_share: float = 1.0
) -> list[int]:
    """Return the slots that would have been on time in the plan that was followed.

    Each given-up slot on its own is put between the slots that were made after it was given up,
    with the time that it really takes; later ones move back. It was given up wrongly if it is on
    time then and every slot that was on time still is.
    """
    work = sorted((begin, end, number) for number, (begin, end) in run.worked_s.items())
    return [
        number
        for number, moment_s in run.given_up.items()
        if _has_room(trace[number], moment_s, lowest_share, work, trace, run)
    ]


def _has_room(
    slot: SimulatedSlot,
    moment_s: float,
    share: float,
    work: Sequence[tuple[float, float, int]],
    trace: Sequence[SimulatedSlot],
    run: Run,
) -> bool:
    after = _first_ending_after(work, moment_s)
    begins = [moment_s] if after == len(work) or work[after][0] > moment_s else []
    begins += [end for _, end, _ in work[after:] if end <= slot.deadline_s]
    return any(
        begin + slot.seconds * share <= slot.deadline_s
        and _others_stay_on_time(begin, begin + slot.seconds * share, work, trace, run)
        for begin in begins
    )


def _first_ending_after(work: Sequence[tuple[float, float, int]], moment_s: float) -> int:
    low, high = 0, len(work)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if work[middle][1] <= moment_s else (low, middle)
    return low


def _others_stay_on_time(
    begin_s: float,
    end_s: float,
    work: Sequence[tuple[float, float, int]],
    trace: Sequence[SimulatedSlot],
    run: Run,
) -> bool:
    at = _first_ending_after(work, begin_s)
    for begin, end, number in work[at:]:
        if begin >= end_s:
            return True
        end_s += end - begin
        if number in run.on_time and end_s > trace[number].deadline_s:
            return False
    return True
