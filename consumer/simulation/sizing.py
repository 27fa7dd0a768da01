"""How many workers a recorded load needs, so that enough of its slots are on time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from consumer.simulation.fleet import Fleet, serve_fleet, serve_from_one_queue
from consumer.simulation.recorded import Recorded

ShareOnTime = Callable[[int], float]
"""Returns the share of slots that so many workers have on time."""


@dataclass(frozen=True)
class Size:
    """The fewest workers for a target, and the share that they have on time."""

    workers: int
    on_time: float


class Sizing:
    """Serves one load with fleets of several sizes, each of them once."""

    def __init__(self, recorded: Recorded, partitions: int | None = None) -> None:
        """Serve nothing yet.

        Args:
            recorded: the load.
            partitions: of the ticks, drawn evenly; by default those of the recording, or one for
                each worker if it does not know them.
        """
        self._recorded = recorded
        self._partitions = partitions
        self.bound: ShareOnTime = cache(lambda workers: self._share(workers, handover=False))
        self.handed_over: ShareOnTime = cache(lambda workers: self._share(workers, handover=True))
        self.one_queue: ShareOnTime = cache(self._share_of_one_queue)

    @property
    def partitions(self) -> int | None:
        """Of the ticks, whatever the number of workers; None if each has one of its own."""
        if self._partitions is None and self._recorded.partitions is not None:
            return max(self._recorded.partitions) + 1
        return self._partitions

    def _share(self, workers: int, *, handover: bool) -> float:
        fleet = Fleet(workers, self.partitions or workers, handover=handover)
        read_from = None if self._partitions else self._recorded.partitions
        run = serve_fleet(self._recorded.slots, fleet, partitions=read_from)
        return run.on_time / run.slots

    def _share_of_one_queue(self, workers: int) -> float:
        run = serve_from_one_queue(self._recorded.slots, workers)
        return run.on_time / run.slots


def fewest(share: ShareOnTime, target: float, most: int) -> Size | None:
    """Return the fewest workers that have a share of slots on time; None if `most` have not.

    More workers count as no worse, which holds up to a slot here and there.
    """
    low, high = 0, 1
    while share(high) < target:
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share(middle) < target else (low, middle)
    return Size(high, share(high))
