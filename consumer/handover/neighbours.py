"""What this worker knows of the others, and which of them could take a slot."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

STALE_S = 3.0
"""An announcement that is older says nothing any more."""
HOP_S = 0.3
"""Allowed for a slot on its way: a transaction, and the receiver's next poll."""
MOST_LOAD = 1.8
"""A worker with more to do is not asked: where all have more, slots are moved and none is saved."""
MOST_ASKED = 32
"""So many workers are looked at for one slot, drawn at random where there are more."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What a worker has said of itself, and when that was heard."""

    worker_id: str
    free_in_s: float
    """Seconds from then until the work it has promised to others is done."""
    usual_s: float
    """Seconds that it takes for a usual slot; tells how fast its machine is."""
    load: float
    """Seconds of work that arrive at it in a second."""
    profile: str
    partitions: tuple[int, ...]
    """The partitions of the topic of handovers that it reads."""
    heard_s: float
    """Monotonic seconds."""
    most_work: Mapping[str, float] = field(default_factory=dict)
    """Of each stage, as far as it says so; see `Engine.most_work`."""


class Announcements:
    """The last announcement of each worker; to find some costs the same for any number."""

    def __init__(self) -> None:
        self._by_id: dict[str, Announced] = {}
        self._ids: list[str] = []
        self._at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def note(self, announced: Announced) -> None:
        """Replace what the worker said before."""
        if announced.worker_id not in self._by_id:
            self._at[announced.worker_id] = len(self._ids)
            self._ids.append(announced.worker_id)
        self._by_id[announced.worker_id] = announced

    def forget(self, worker_id: str) -> None:
        """Remove a worker, if it is known."""
        if self._by_id.pop(worker_id, None) is not None:
            at, last = self._at.pop(worker_id), self._ids.pop()
            if last != worker_id:
                self._ids[at], self._at[last] = last, at

    def some(self, most: int, draw: random.Random) -> Iterable[Announced]:
        """Return all, or so many drawn at random."""
        ids = self._ids if len(self._ids) <= most else draw.sample(self._ids, most)
        return [self._by_id[each] for each in ids]


class _Promise(NamedTuple):
    """A slot that was sent to a worker, whose announcements may not know of it yet."""

    sent_s: float
    seconds: float


class Neighbours:
    """Chooses who takes a slot that this worker's plan leaves out.

    Announcements are hints: one that is stale or missing may cost a slot, never an outcome.
    """

    def __init__(self, own_id: str, profile: str, announcements: Announcements) -> None:
        """Know nobody yet.

        Args:
            own_id: of this worker, which is no neighbour.
            profile: of this worker; another one would make another video.
            announcements: filled from outside.
        """
        self._own_id = own_id
        self._profile = profile
        self._announcements = announcements
        self._promised: defaultdict[str, list[_Promise]] = defaultdict(list)
        self._draw = random.Random(own_id)  # noqa: S311 - nothing secret

    def choose(
        self,
        seconds: float,
        usual_s: float,
        latest_s: float,
        now_s: float,
        work: Mapping[str, float],
    ) -> Announced | None:
        """Return the worker that would be done with a slot first, if one would be in time.

        Args:
            seconds: that the slot would take here.
            usual_s: that a usual slot takes here, for the comparison of machines; 0 if not known.
            latest_s: when it must be done, in monotonic seconds as `now_s`.
            now_s: this moment.
            work: of each stage of the slot, on the lowest rung.
        """
        best: Announced | None = None
        best_end_s = latest_s
        for each in self._announcements.some(MOST_ASKED, self._draw):
            if not (self._may_take(each, now_s) and _can_make(each, work)):
                continue
            slower = each.usual_s / usual_s if each.usual_s > 0 and usual_s > 0 else 1.0
            free_s = max(each.heard_s + each.free_in_s, now_s) + self._on_its_way_s(each)
            end_s = free_s + seconds * slower + HOP_S
            if end_s < best_end_s:
                best, best_end_s = each, end_s
        if best is not None:
            self._promised[best.worker_id].append(_Promise(now_s, seconds))
        return best

    def partition_of(self, announced: Announced) -> int:
        """Return one of the partitions that a worker reads."""
        return self._draw.choice(announced.partitions)

    def _may_take(self, each: Announced, now_s: float) -> bool:
        return (
            each.worker_id != self._own_id
            and bool(each.partitions)
            and each.profile == self._profile
            and each.load <= MOST_LOAD
            and now_s - each.heard_s <= STALE_S
        )

    def _on_its_way_s(self, each: Announced) -> float:
        promised = self._promised.get(each.worker_id)
        if not promised:
            return 0.0
        # What it said later than this knows of them.
        promised[:] = [one for one in promised if one.sent_s > each.heard_s - HOP_S]
        return sum(one.seconds for one in promised)


def _can_make(each: Announced, work: Mapping[str, float]) -> bool:
    return all(work[stage] <= most for stage, most in each.most_work.items())
