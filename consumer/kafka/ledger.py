"""Which offsets of one partition are read, at work and finished. Pure bookkeeping."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from consumer.kafka.done_map import encode_done


@dataclass(frozen=True)
class CommitPoint:
    """An offset to commit, with what is finished above it."""

    offset: int
    """The lowest offset that is not finished; all below are."""
    done: frozenset[int]
    """Finished offsets above it."""

    def is_past(self, offset: int) -> bool:
        """Whether the offset is finished."""
        return offset < self.offset or offset in self.done

    @property
    def metadata(self) -> str:
        """The text that is committed with the offset."""
        return encode_done(self.offset, self.done)


class PartitionLedger:
    """Follows a partition from the committed offset on.

    Offsets are `admit`ted in the order in which they are read and finish in any order. Offsets that
    Kafka leaves out (transaction markers, compacted records) count as finished once a later one
    was read.
    """

    def __init__(self, committed: CommitPoint) -> None:
        """Start where the partition's committed offset stands."""
        self._base = committed.offset
        self._position = committed.offset
        self._unfinished: set[int] = set()
        # The same offsets, the lowest first; one that has finished stays until it is on top.
        self._heap: list[int] = []
        self._done = set(committed.done)
        # The last run of finished offsets that was walked, from its start to the offset after it.
        self._run = (0, 0)

    @property
    def position(self) -> int:
        """The offset from which reading goes on: all below were read, or are not there."""
        return self._position

    @property
    def span(self) -> int:
        """How far reading is ahead of the lowest unfinished offset."""
        lowest = self._lowest_left()
        start, end = self._run
        if not start <= lowest < end:
            start = end = lowest
            while end in self._done:
                end += 1
            self._run = start, end
        return self._position - end

    def is_past(self, offset: int) -> bool:
        """Whether the offset's outcome was published, as far as is known."""
        return offset < self._base or offset in self._done

    def adopt(self, offset: int) -> None:
        """Count an offset as at work that was read before the partition was assigned again."""
        if offset not in self._unfinished:
            self._unfinished.add(offset)
            heapq.heappush(self._heap, offset)

    def register(self, offset: int) -> bool:
        """Record that an offset was read; return whether it is new work."""
        self._position = max(self._position, offset + 1)
        if self.is_past(offset) or offset in self._unfinished:
            return False
        self._unfinished.add(offset)
        heapq.heappush(self._heap, offset)
        return True

    def skip_to(self, offset: int) -> None:
        """Record that Kafka has no records between the position and an offset."""
        self._position = max(self._position, offset)

    def skip_finished(self, offset: int) -> bool:
        """Go on behind an offset and what follows it without a gap, if these are finished."""
        end = offset
        while self.is_past(end):
            end += 1
        self.skip_to(end)
        return end > offset

    def commit_point(self, finishing: Iterable[int]) -> CommitPoint:
        """Return what to commit if these offsets are finished by the same transaction."""
        finishing = frozenset(finishing)
        done = self._done | finishing
        lowest = self._lowest_left(finishing)
        while lowest in done:
            lowest += 1
        return CommitPoint(lowest, frozenset(offset for offset in done if offset > lowest))

    def committed(self, point: CommitPoint, finished: Iterable[int]) -> None:
        """Record that the transaction went through."""
        self._unfinished.difference_update(finished)
        self._base = point.offset
        # Below the committed offset there is nothing to wait for, read again or not.
        self._position = max(self._position, point.offset)
        self._done = set(point.done)
        self._run = (0, 0)

    def _lowest_left(self, finishing: frozenset[int] = frozenset()) -> int:
        """Return the lowest offset that is unfinished, but for these, or yet to be read.

        Adopted offsets may lie at the position or above it. What is between is yet to be read
        again; what is finished there will be read again too, and must count as finished, so the
        caller goes on from here as long as offsets are done.
        """
        still_unfinished = []
        while self._heap and (self._heap[0] in finishing or self._heap[0] not in self._unfinished):
            offset = heapq.heappop(self._heap)
            if offset in self._unfinished:
                still_unfinished.append(offset)
        lowest = min(self._heap[0], self._position) if self._heap else self._position
        for offset in still_unfinished:
            heapq.heappush(self._heap, offset)
        return lowest
