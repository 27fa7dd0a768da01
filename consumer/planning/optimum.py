"""The most slots that can be on time, if all of them are known.

Kise, Ibaraki and Mine (1978): exact where deadlines come in the order of arrivals, O(n^2). With
other deadlines what comes out can be done, but more might be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Known(NamedTuple):
    """A slot whose times are known."""

    arrived_s: float
    deadline_s: float
    seconds: float


def earliest_ends(slots: Sequence[Known], free_s: float = -math.inf) -> list[float]:
    """Return for each k the earliest moment at which k slots can be done on time.

    Args:
        slots: by deadline.
        free_s: when the work may begin.
    """
    ends = [free_s]
    for arrived_s, deadline_s, seconds in slots:
        for done in range(len(ends) - 1, -1, -1):
            end_s = max(ends[done], arrived_s) + seconds
            if end_s > deadline_s:
                continue
            if done + 1 == len(ends):
                ends.append(end_s)
            elif end_s < ends[done + 1]:
                ends[done + 1] = end_s
    return ends


def most_on_time(slots: Sequence[Known]) -> int:
    """Return how many slots can be on time."""
    return len(earliest_ends(sorted(slots, key=lambda slot: slot.deadline_s))) - 1


def latest_starts(slots: Sequence[Known]) -> list[float]:
    """Return for k = 1, 2, … the latest moment at which work must be free for k slots to be made.

    The same programme backwards: descending, one for each number of slots that can be on time.

    Args:
        slots: by deadline.
    """
    latest = [math.inf]
    for arrived_s, deadline_s, seconds in reversed(slots):
        latest.append(-math.inf)
        for after in range(len(latest) - 2, -1, -1):
            end_s = latest[after]
            start_s = (deadline_s if deadline_s < end_s else end_s) - seconds
            if start_s >= arrived_s and start_s > latest[after + 1]:
                latest[after + 1] = start_s
        if latest[-1] == -math.inf:
            latest.pop()
    return latest[1:]
