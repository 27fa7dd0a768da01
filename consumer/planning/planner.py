"""Plans all waiting slots: which one to start, and which to give up."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import itemgetter
from typing import Generic, NamedTuple

from consumer.planning.expected import ExpectedArrivals
from consumer.planning.plan import GivenUp, K, Plan, Start, W, Waiting
from consumer.planning.schedule import Entry, Schedule
from vortex.rung import FULL, Rung

# A slot is given up early only if the plan leaves it out even when all slots take so little of
# their prediction. Higher gives up more that could still have been made.
HOPEFUL_SHARE = 0.5
# Up to this load no margin is kept; from there it grows, in standard deviations by load.
NO_MARGIN_LOAD, MARGIN_BY_LOAD, MOST_MARGIN = 1.3, 0.8, 1.6
RESERVE_S = 25.0
# Of the usual time from tick to deadline, where that is short: 25 s of 45 s.
MOST_RESERVE_SHARE = 25 / 45
# A higher rung may cost so many slots that are expected.
MOST_EXPECTED_LOST = 0.02
# So many slots are given up in one plan, since somebody waits for it; the next one goes on.
MOST_GIVEN_UP = 100
# A slot may go before those due earlier if these still end so many standard deviations before
# they are due, or no closer to it than in their own order.
SAFE_DEVIATIONS = 2.0
# So many slots are planned afresh at every decision; more, in turns.
_FEW = 48
_NEAR = 96
_DUE_FIRST = "due first of the slots that are kept"
_NO_RISK = "the shortest that is no risk to the slots due before it"


class _First(NamedTuple, Generic[K]):
    """The slot that goes first."""

    key: K
    lowest_s: float
    """What it takes on the lowest rung."""
    why: str


class Planner(Generic[K, W]):
    """Owns the waiting slots of one worker, which makes one at a time. Pure bookkeeping.

    The plan is the largest set of waiting slots that all end in time (`Schedule`), less those
    whose time is worth more to slots that are expected to arrive (`ExpectedArrivals`). Of these
    the shortest is started that is no risk to those due before it. Where load is high, each slot's
    due time lies before its deadline by a margin that grows with the work before it; at low load
    margins lose slots.

    With a ladder of rungs, slots are planned at the lowest, and started in the order of due times.
    A higher rung is taken only if every slot that is kept still has a reserve then, and none that
    is expected loses its chance.
    """

    def __init__(
        self,
        predict_s: Callable[[W, Rung], float],
        spread: Callable[[], float],
        ladder: Sequence[Rung] = (FULL,),
        reserve_s: float = RESERVE_S,
    ) -> None:
        """Start without slots.

        Args:
            predict_s: the median seconds that a slot takes at a rung.
            spread: the standard deviation of a prediction, relative to it.
            ladder: the rungs that may be used, the best first; at least one.
            reserve_s: seconds that every kept slot must have left for a higher rung to be taken;
                fewer where deadlines are usually short.
        """
        if not ladder:
            raise ValueError("ladder: needs at least one rung, got none")
        self._predict_s = predict_s
        self._spread = spread
        self._ladder = tuple(ladder)
        self._reserve_s = reserve_s
        self.expected = ExpectedArrivals()
        self._waiting: dict[K, Waiting[K, W]] = {}
        self._schedule: Schedule[K] = Schedule()
        self._hopeful: Schedule[K] = Schedule()
        self._looks: list[tuple[float, int, K]] = []
        self._looks_made = 0
        self._until_rebuild = 0
        self._free_s = -math.inf
        self._z = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: K) -> bool:
        return key in self._waiting

    def arrive(self, slot: Waiting[K, W], now_s: float) -> None:
        """Add a slot.

        Raises:
            ValueError: a slot with this key waits already.
        """
        if slot.key in self._waiting:
            raise ValueError(f"key: {slot.key} waits already; remove it first")
        seconds = self._lowest_s(slot)
        self.expected.note(slot.arrived_s, slot.deadline_s, seconds)
        self._waiting[slot.key] = slot
        self._insert(slot, seconds, now_s)
        self._look_at(slot, seconds)

    def remove(self, key: K) -> Waiting[K, W] | None:
        """Forget a slot; None if it does not wait here."""
        slot = self._waiting.pop(key, None)
        if slot is not None:
            self._schedule.remove(key)
            self._hopeful.remove(key)
        return slot

    def plan(self, now_s: float, free_s: float | None = None) -> Plan[K]:
        """Plan all slots; those that are started or given up wait no more.

        Args:
            now_s: monotonic seconds.
            free_s: when the slot that is being made should end; None if none is, so that one may
                be started.
        """
        idle = free_s is None
        self._free_s = now_s if free_s is None else max(free_s, now_s)
        given_up = self._give_up_hopeless(now_s)
        self._settle(now_s)
        given_up += self._give_up_left_out(now_s, MOST_GIVEN_UP - len(given_up))
        start = self._start(now_s) if idle else None
        look_s = self._next_look_s()
        if start is not None:
            self.remove(start.key)
        elif len(given_up) >= MOST_GIVEN_UP:
            look_s = now_s
        elif idle and self._waiting:  # those that were kept no longer fit, as predicted now
            self._until_rebuild = 0
            look_s = now_s
        return Plan(start, tuple(given_up), look_s)

    def left_out(self, most: int) -> list[tuple[Waiting[K, W], float]]:
        """Return slots that the last plan left out and still waits with, and their seconds."""
        slots = (self._waiting[key] for key in islice(self._schedule.left_out(), most))
        return [(slot, self._lowest_s(slot)) for slot in slots]

    def in_its_way(self, key: K, most: int) -> list[tuple[Waiting[K, W], float]]:
        """Return kept slots each of which would leave a left out one room, and their seconds."""
        found = []
        for entry in list(islice(self._schedule.kept(), most)):
            if self._schedule.makes_room(entry.key, key, self._free_s):
                slot = self._waiting[entry.key]
                found.append((slot, self._lowest_s(slot)))
        return found

    def tight(self, reserve_s: float, most: int) -> list[tuple[Waiting[K, W], float]]:
        """Return kept slots planned to end this close to their deadlines, and their seconds."""
        end_s, found = self._free_s, []
        for entry in islice(self._schedule.kept(), most):
            end_s += entry.seconds
            slot = self._waiting[entry.key]
            if end_s > slot.deadline_s - reserve_s:
                found.append((slot, entry.seconds))
        return found

    def next_up(self, free_s: float) -> W | None:
        """Return what would be started then, if nothing else arrives; None if nothing would."""
        first = self._choose(free_s)
        return None if first is None else self._waiting[first.key].work

    @property
    def kept_s(self) -> float:
        """The seconds of all slots that the last plan keeps."""
        return self._schedule.work_s()

    def start_s(self, key: K, free_s: float) -> float | None:
        """Return when a slot should start; None if the plan has no room for it.

        As planned now, and if those due before it go first: a short one may go earlier.

        Args:
            key: of a slot that waits.
            free_s: when the next slot can be started.
        """
        before_s = self._schedule.work_before_s(key)
        if before_s is None:
            return None
        slot, start_s = self._waiting[key], free_s + before_s
        return start_s if start_s + self._lowest_s(slot) <= slot.deadline_s else None

    # --- the schedule -----------------------------------------------------------------------

    def _lowest_s(self, slot: Waiting[K, W]) -> float:
        return self._predict_s(slot.work, self._ladder[-1])

    def _insert(self, slot: Waiting[K, W], seconds: float, now_s: float) -> None:
        due_s = slot.deadline_s - self._margin_s(slot.deadline_s, seconds, now_s)
        self._schedule.add(slot.key, due_s, seconds)
        self._hopeful.add(slot.key, slot.deadline_s, seconds * HOPEFUL_SHARE)

    def _margin_s(self, deadline_s: float, seconds: float, now_s: float) -> float:
        """Return how far the end of all work up to a slot may lie off its prediction."""
        if self._z == 0.0:
            return 0.0
        left_s = max(deadline_s - now_s, seconds)
        return self._z * math.sqrt(left_s * seconds)

    def _settle(self, now_s: float) -> None:
        self._until_rebuild -= 1
        if len(self._waiting) <= _FEW or self._until_rebuild <= 0:
            self._rebuild(now_s)
            self._until_rebuild = max(1, len(self._waiting) // 8)
        else:
            self._schedule.settle(self._free_s)
            self._schedule.take_back(self._free_s)
            self._hopeful.settle(self._free_s)

    def _rebuild(self, now_s: float) -> None:
        """Predict all slots again and plan them from the beginning."""
        self._z = self._spread() * self._deviations(now_s)
        slots, hopeful = [], []
        for slot in self._waiting.values():
            seconds = self._lowest_s(slot)
            due_s = slot.deadline_s - self._margin_s(slot.deadline_s, seconds, now_s)
            slots.append((slot.key, due_s, seconds))
            hopeful.append((slot.key, slot.deadline_s, seconds * HOPEFUL_SHARE))
            if now_s + seconds > slot.deadline_s:
                self._look_at(slot, seconds)
        self._schedule.build(slots, self._free_s)
        self._hopeful.build(hopeful, self._free_s)

    def _deviations(self, now_s: float) -> float:
        """Return how many standard deviations of its end a slot is kept from its deadline."""
        overload = self.expected.load(now_s) - NO_MARGIN_LOAD
        return min(MOST_MARGIN, max(0.0, MARGIN_BY_LOAD * overload))

    # --- giving up --------------------------------------------------------------------------

    def _look_at(self, slot: Waiting[K, W], seconds: float) -> None:
        """Look again at a slot when it can no longer be finished, as predicted now."""
        self._looks_made += 1
        heapq.heappush(self._looks, (slot.deadline_s - seconds, self._looks_made, slot.key))

    def _next_look_s(self) -> float:
        while self._looks and self._looks[0][2] not in self._waiting:
            heapq.heappop(self._looks)
        return self._looks[0][0] if self._looks else math.inf

    def _give_up_hopeless(self, now_s: float) -> list[GivenUp[K]]:
        given_up: list[GivenUp[K]] = []
        while self._looks and self._looks[0][0] < now_s and len(given_up) < MOST_GIVEN_UP:
            slot = self._waiting.get(heapq.heappop(self._looks)[2])
            if slot is None:
                continue
            seconds = self._lowest_s(slot)
            left_s = slot.deadline_s - now_s
            if left_s >= seconds:
                self._look_at(slot, seconds)
                continue
            why = f"{left_s:.3f} s are left, and the slot needs {seconds:.3f} s"
            if left_s <= 0:
                why = "the deadline passed while the slot waited"
            given_up.append(self._give_up(slot, why, now_s))
        return given_up

    def _give_up_left_out(self, now_s: float, most: int) -> list[GivenUp[K]]:
        given_up = []
        for key in self._hopeful.take_left_out(most):
            slot = self._waiting.get(key)
            if slot is None or self._schedule.is_kept(key):
                continue
            why = (
                "the slots that are due before it leave no room for it: it needs"
                f" {self._lowest_s(slot):.3f} s, and more slots are on time without it"
            )
            given_up.append(self._give_up(slot, why, now_s))
        return given_up

    def _give_up(self, slot: Waiting[K, W], why: str, now_s: float) -> GivenUp[K]:
        self.remove(slot.key)
        return GivenUp(slot.key, why, slot.deadline_s - now_s)

    # --- starting ---------------------------------------------------------------------------

    def _start(self, now_s: float) -> Start[K] | None:
        first = self._choose(now_s)
        return None if first is None else self._at_best_rung(first, now_s)

    def _choose(self, now_s: float) -> _First[K] | None:
        kept = list(islice(self._schedule.kept(), _NEAR))
        spared = self._spared_for_expected(kept, now_s)
        first = self._shortest_without_risk([one for one in kept if one.key not in spared], now_s)
        if first is not None:
            return first
        fitting = self._fitting((entry.key for entry in kept if entry.key in spared), now_s)
        if not fitting:  # those that are left out only for a margin
            fitting = self._fitting(islice(self._waiting, _NEAR), now_s)
        if not fitting:
            return None
        seconds, key = min(fitting, key=itemgetter(0))
        return _First(key, seconds, "the shortest that still fits")

    def _shortest_without_risk(self, kept: Sequence[Entry[K]], now_s: float) -> _First[K] | None:
        """Return the shortest slot that is no risk to those due earlier if it goes before them.

        A slot that arrives meanwhile can only take the place of one that still waits. That should
        be a long one: it leaves most time, and the short ones are made by then. A slot that is due
        later than one that arrives now can wait for it. With a ladder, lower rungs make room for
        both, and slots go in turn.
        """
        horizon_s = -math.inf if len(self._ladder) > 1 else now_s + self.expected.offset_s
        deviations = SAFE_DEVIATIONS * self._spread()
        first: _First[K] | None = None
        work_s, squares, reserve_s = 0.0, 0.0, math.inf  # of the slots due earlier
        for entry in kept:
            if first is not None and entry.due_s > horizon_s:
                break
            seconds = entry.seconds
            work_s += seconds
            squares += seconds * seconds
            in_turn_s = min(reserve_s, entry.due_s - now_s - work_s)
            if first is None or (
                seconds < first.lowest_s
                and reserve_s - seconds >= min(in_turn_s, deviations * math.sqrt(squares))
            ):
                fits_s = self._fits(entry.key, now_s)
                if fits_s is not None:
                    why = _DUE_FIRST if first is None else _NO_RISK
                    first = _First(entry.key, fits_s, why)
            reserve_s = in_turn_s
        return first

    def _fitting(self, keys: Iterable[K], now_s: float) -> list[tuple[float, K]]:
        fits = ((self._fits(key, now_s), key) for key in keys)
        return [(seconds, key) for seconds, key in fits if seconds is not None]

    def _fits(self, key: K, now_s: float) -> float | None:
        """Return a slot's seconds, as predicted now, if it can be on time; else None."""
        slot = self._waiting[key]
        seconds = self._lowest_s(slot)
        return seconds if now_s + seconds <= slot.deadline_s else None

    def _spared_for_expected(self, kept: Sequence[Entry[K]], now_s: float) -> set[K]:
        """Return the kept slots whose time is worth more to slots that are expected.

        Those that are due later than slots that arrive now can wait for these.
        """
        horizon_s = now_s + self.expected.offset_s
        near = [entry for entry in kept if entry.due_s <= horizon_s]
        without_s = sum(entry.seconds for entry in near)
        value = self.expected.on_time_if_free_in
        spared, best, most = 0, value(without_s), value(0.0)
        if most - 1 <= best:  # most often: nothing that is expected loses a whole slot's worth
            return set()
        near.sort(key=lambda entry: -entry.seconds)
        for lost, entry in enumerate(near, 1):
            if most - lost <= best:
                break
            without_s -= entry.seconds
            worth = value(without_s) - lost
            if worth > best:
                spared, best = lost, worth
        return {entry.key for entry in near[:spared]}

    def _at_best_rung(self, first: _First[K], now_s: float) -> Start[K]:
        key, lowest_s, why = first
        slot = self._waiting[key]
        self._schedule.remove(key)
        held_back = ""
        for rung in self._ladder[:-1]:
            seconds = self._predict_s(slot.work, rung)
            if now_s + seconds > slot.deadline_s - self._z * seconds:
                held_back = held_back or (
                    f"rung {rung.name} needs {seconds:.2f} s, and {slot.deadline_s - now_s:.2f} s"
                    " were left"
                )
            elif self._leaves_others_alone(now_s, seconds, lowest_s):
                why += f"; all others keep a reserve of {self._reserve_now_s:.3g} s"
                return Start(key, seconds, rung, why, held_back)
            else:
                held_back = held_back or (
                    f"on rung {rung.name}, slots that wait or are expected would lose their reserve"
                    f" of {self._reserve_now_s:.3g} s"
                )
        return Start(key, lowest_s, self._ladder[-1], why, held_back)

    @property
    def _reserve_now_s(self) -> float:
        return min(self._reserve_s, MOST_RESERVE_SHARE * self.expected.offset_s)

    def _leaves_others_alone(self, now_s: float, seconds: float, lowest_s: float) -> bool:
        """Return whether a slot may take so long: nobody who waits or is expected loses by it."""
        if self._schedule.reserve_s(now_s + seconds) < self._reserve_now_s:
            return False
        after_s = self._schedule.work_s()
        value = self.expected.on_time_if_free_in
        return value(lowest_s + after_s) - value(seconds + after_s) <= MOST_EXPECTED_LOST
