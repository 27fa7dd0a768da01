"""The slots that wait, the earliest deadline first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from consumer.job import Job, TickKey

# So many entries of removed jobs may always stay in the heap.
_MAX_LEFT_BEHIND = 100


class SlotQueue:
    """A queue of jobs ordered by deadline; equal deadlines by place in Kafka.

    Removing from the middle leaves the heap's entry behind until it comes to the top, or until
    more entries are left behind than there are jobs.
    """

    def __init__(self) -> None:
        self._jobs: dict[TickKey, Job] = {}
        self._heap: list[tuple[float, TickKey]] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        """Iterate over a copy, in no particular order."""
        return iter(list(self._jobs.values()))

    def push(self, job: Job) -> None:
        """Add a job."""
        self._jobs[job.key] = job
        heapq.heappush(self._heap, (job.deadline_s, job.key))

    def pop(self) -> Job | None:
        """Remove and return the job with the earliest deadline; None when empty."""
        while self._heap:
            _, key = heapq.heappop(self._heap)
            if key in self._jobs:
                return self._jobs.pop(key)
        return None

    def get(self, key: TickKey) -> Job | None:
        """Return a job that stays; None if it is not here."""
        return self._jobs.get(key)

    def remove(self, key: TickKey) -> Job | None:
        """Remove and return a job; None if it is not here."""
        job = self._jobs.pop(key, None)
        if len(self._heap) > 2 * len(self._jobs) + _MAX_LEFT_BEHIND:
            self._heap = [(kept.deadline_s, kept.key) for kept in self._jobs.values()]
            heapq.heapify(self._heap)
        return job
