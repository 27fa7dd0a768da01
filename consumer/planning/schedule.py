"""The largest set of waiting slots that can all be on time, kept up to date as slots come and go.

All slots are available at one moment `free`, one is made at a time. The algorithm of Moore and
Hodgson (1968) then keeps as many as possible: go through them by due time, and whenever one would
be late, leave out the longest so far. It also leaves the least work of all sets of that size.

The slots lie in buckets of up to a hundred, each with its sum of work, its greatest lateness and
its longest slot. So adding or removing one touches one bucket, and finding the first late slot
touches one number a bucket: about the square root of the number of slots.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Generic

from consumer.planning.plan import K

_BUCKET = 48
# So many of the slots that were left out are tried again at once.
_TRIES = 4
_order = attrgetter("order")


class Entry(Generic[K]):
    """A slot in the schedule."""

    __slots__ = ("due_s", "kept", "key", "order", "seconds")

    def __init__(self, key: K, due_s: float, seconds: float, number: int) -> None:
        self.key = key
        self.due_s = due_s
        self.seconds = seconds
        self.order = (due_s, number)
        self.kept = True


class _Bucket(Generic[K]):
    """Neighbours in the order of due times."""

    __slots__ = ("entries", "latest_s", "longest_s", "work_s")

    def __init__(self, entries: list[Entry[K]]) -> None:
        self.entries = entries
        self.refresh()

    def refresh(self) -> None:
        """Sum up the kept entries; `latest_s` is the greatest lateness if work begins at 0."""
        work_s, latest_s, longest_s = 0.0, -math.inf, -math.inf
        for entry in self.entries:
            if entry.kept:
                seconds = entry.seconds
                work_s += seconds
                if work_s - entry.due_s > latest_s:
                    latest_s = work_s - entry.due_s
                if seconds > longest_s:
                    longest_s = seconds
        self.work_s, self.latest_s, self.longest_s = work_s, latest_s, longest_s


class Schedule(Generic[K]):
    """Waiting slots by due time, each kept or left out."""

    def __init__(self) -> None:
        self._buckets: list[_Bucket[K]] = []
        self._ends: list[tuple[float, int]] = []
        self._entries: dict[K, Entry[K]] = {}
        self._left_out: list[tuple[float, int, Entry[K]]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def build(self, slots: Iterable[tuple[K, float, float]], free_s: float) -> None:
        """Start over with `(key, due_s, seconds)` of all slots, and leave out what must be."""
        entries = [
            Entry(key, due_s, seconds, number)
            for number, (key, due_s, seconds) in enumerate(slots, self._number)
        ]
        self._number += len(entries)
        entries.sort(key=_order)
        self._entries = {entry.key: entry for entry in entries}
        self._left_out = []
        longest: list[tuple[float, int, Entry[K]]] = []
        end_s = free_s
        for entry in entries:
            end_s += entry.seconds
            heapq.heappush(longest, (-entry.seconds, entry.order[1], entry))
            if end_s > entry.due_s:
                dropped = heapq.heappop(longest)[2]
                end_s -= dropped.seconds
                self._leave_out(dropped)
        self._buckets = [
            _Bucket(entries[start : start + _BUCKET]) for start in range(0, len(entries), _BUCKET)
        ]
        self._ends = [bucket.entries[-1].order for bucket in self._buckets]

    def add(self, key: K, due_s: float, seconds: float) -> None:
        """Add a slot, kept until `settle` finds otherwise."""
        entry = Entry(key, due_s, seconds, self._number)
        self._number += 1
        self._entries[key] = entry
        if not self._buckets:
            self._buckets, self._ends = [_Bucket([entry])], [entry.order]
            return
        at = min(bisect_left(self._ends, entry.order), len(self._buckets) - 1)
        bucket = self._buckets[at]
        bucket.entries.insert(bisect_right(bucket.entries, entry.order, key=_order), entry)
        self._ends[at] = bucket.entries[-1].order
        if len(bucket.entries) <= 2 * _BUCKET:
            bucket.refresh()
            return
        halves = bucket.entries[:_BUCKET], bucket.entries[_BUCKET:]
        self._buckets[at : at + 1] = [_Bucket(half) for half in halves]
        self._ends[at : at + 1] = [half[-1].order for half in halves]

    def remove(self, key: K) -> None:
        """Remove a slot, if it is here."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        at = bisect_left(self._ends, entry.order)
        bucket = self._buckets[at]
        del bucket.entries[bisect_left(bucket.entries, entry.order, key=_order)]
        if bucket.entries:
            self._ends[at] = bucket.entries[-1].order
            if entry.kept:
                bucket.refresh()
        else:
            del self._buckets[at], self._ends[at]

    def settle(self, free_s: float) -> None:
        """Leave out slots until all that are kept are on time."""
        while (entry := self._longest_before_late(free_s)) is not None:
            self._leave_out(entry)
            self._bucket_of(entry).refresh()

    def take_back(self, free_s: float) -> None:
        """Keep the shortest of those left out again, as far as all are on time with them."""
        still_out = []
        for _ in range(_TRIES):
            if not self._left_out:
                break
            item = heapq.heappop(self._left_out)
            entry = item[2]
            if self._entries.get(entry.key) is entry and not self._try_to_keep(entry, free_s):
                still_out.append(item)
        for item in still_out:
            heapq.heappush(self._left_out, item)

    def _try_to_keep(self, entry: Entry[K], free_s: float) -> bool:
        at = bisect_left(self._ends, entry.order)
        if self._is_late_after(at, entry.seconds, free_s):  # most often, and without a refresh
            return False
        bucket = self._buckets[at]
        entry.kept = True
        bucket.refresh()
        if self.reserve_s(free_s) >= 0:
            return True
        entry.kept = False
        bucket.refresh()
        return False

    def _is_late_after(self, at: int, seconds: float, free_s: float) -> bool:
        """Return whether a slot behind a bucket would be late with so much more work before it."""
        free_s += seconds + sum(bucket.work_s for bucket in self._buckets[: at + 1])
        for bucket in self._buckets[at + 1 :]:
            if free_s + bucket.latest_s > 0:
                return True
            free_s += bucket.work_s
        return False

    def take_left_out(self, most: int) -> list[K]:
        """Return slots that are left out; they stay here, and are not returned again."""
        keys: list[K] = []
        while self._left_out and len(keys) < most:
            entry = heapq.heappop(self._left_out)[2]
            if self._entries.get(entry.key) is entry:
                keys.append(entry.key)
        return keys

    def left_out(self) -> Iterator[K]:
        """Iterate over the slots that are left out, roughly the shortest first."""
        for _, _, entry in self._left_out:
            if self._entries.get(entry.key) is entry:
                yield entry.key

    def makes_room(self, key: K, left_out: K, free_s: float) -> bool:
        """Return whether a slot that is left out could be kept if a kept one were not here."""
        leaving, coming = self._entries[key], self._entries[left_out]
        self._set_kept(leaving, kept=False)
        self._set_kept(coming, kept=True)
        fits = self.reserve_s(free_s) >= 0
        self._set_kept(coming, kept=False)
        self._set_kept(leaving, kept=True)
        return fits

    def _set_kept(self, entry: Entry[K], *, kept: bool) -> None:
        entry.kept = kept
        self._bucket_of(entry).refresh()

    def is_kept(self, key: K) -> bool:
        """Return whether the slot is here and kept."""
        entry = self._entries.get(key)
        return entry is not None and entry.kept

    def kept(self) -> Iterator[Entry[K]]:
        """Iterate over the kept slots by due time."""
        for bucket in self._buckets:
            if bucket.longest_s >= 0:
                yield from (entry for entry in bucket.entries if entry.kept)

    def reserve_s(self, free_s: float) -> float:
        """Return the least time between the end and the due time of any slot that is kept."""
        latest_s = -math.inf
        for bucket in self._buckets:
            latest_s = max(latest_s, free_s + bucket.latest_s)
            free_s += bucket.work_s
        return -latest_s

    def work_s(self) -> float:
        """Return the seconds of all slots that are kept."""
        return sum(bucket.work_s for bucket in self._buckets)

    def work_before_s(self, key: K) -> float | None:
        """Return the seconds of all kept slots before one; None if it is not kept."""
        entry = self._entries.get(key)
        if entry is None or not entry.kept:
            return None
        at = bisect_left(self._ends, entry.order)
        within = self._buckets[at].entries
        before = within[: bisect_left(within, entry.order, key=_order)]
        return sum(bucket.work_s for bucket in self._buckets[:at]) + sum(
            each.seconds for each in before if each.kept
        )

    def _longest_before_late(self, free_s: float) -> Entry[K] | None:
        """Return the longest kept slot up to the first late one, or None if none is late."""
        longest: _Bucket[K] | None = None
        for bucket in self._buckets:
            if free_s + bucket.latest_s > 0:
                return self._longest_until_late(bucket, free_s, longest)
            free_s += bucket.work_s
            if longest is None or bucket.longest_s > longest.longest_s:
                longest = bucket
        return None

    def _longest_until_late(
        self, bucket: _Bucket[K], free_s: float, earlier: _Bucket[K] | None
    ) -> Entry[K]:
        candidates = [] if earlier is None else [entry for entry in earlier.entries if entry.kept]
        for entry in bucket.entries:
            if entry.kept:
                candidates.append(entry)
                free_s += entry.seconds
                if free_s > entry.due_s:
                    break
        return max(candidates, key=attrgetter("seconds"))

    def _bucket_of(self, entry: Entry[K]) -> _Bucket[K]:
        return self._buckets[bisect_left(self._ends, entry.order)]

    def _leave_out(self, entry: Entry[K]) -> None:
        entry.kept = False
        heapq.heappush(self._left_out, (entry.seconds, entry.order[1], entry))
