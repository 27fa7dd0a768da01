"""Whatever happens to the waiting slots, in whatever order."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consumer.planning import Planner, Rung, Waiting
from vortex.rung import FULL

SECONDS = st.floats(0.01, 60.0)


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, ends, cancellations, rebalances, changes of speed and jumps of the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.speed = 1.0
        self.now_s = 1000.0
        self.planner: Planner[int, float] = Planner(
            lambda seconds, rung: seconds * rung.work_share * self.speed,
            lambda: 0.1,
            ladder=(FULL, Rung("half", 0.5)),
        )
        self.waiting: dict[int, Waiting[int, float]] = {}
        self.running: int | None = None
        self.free_s = 0.0
        self.ended: set[int] = set()
        self.number = 0

    @rule(seconds=SECONDS, slack_s=st.floats(-5.0, 300.0), count=st.integers(1, 60))
    def arrive(self, seconds: float, slack_s: float, count: int) -> None:
        for each in range(count):
            self.number += 1
            slot = Waiting(self.number, seconds, self.now_s, self.now_s + slack_s + each)
            self.planner.arrive(slot, self.now_s)
            self.waiting[self.number] = slot

    @rule(seconds=st.floats(-20.0, 120.0))
    def let_time_pass(self, seconds: float) -> None:
        """The planner bears even a clock that steps back."""
        self.now_s += seconds

    @rule(speed=st.floats(0.2, 5.0))
    def change_speed(self, speed: float) -> None:
        self.speed = speed

    @rule()
    def end(self) -> None:
        if self.running is not None:
            self.ended.add(self.running)
            self.running = None

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.planner.remove(key) == self.waiting.pop(key)

    @precondition(lambda self: self.waiting)
    @rule(parity=st.integers(0, 1))
    def lose_partition_and_adopt_it_again(self, parity: int) -> None:
        lost = [key for key in self.waiting if key % 2 == parity]
        for key in lost:
            assert self.planner.remove(key) is self.waiting[key]
            assert self.planner.remove(key) is None
        for key in lost:
            self.planner.arrive(self.waiting[key], self.now_s)

    @rule()
    def plan(self) -> None:
        busy = self.running is not None
        plan = self.planner.plan(self.now_s, self.free_s if busy else None)
        for victim in plan.give_up:
            assert victim.key not in self.ended
            del self.waiting[victim.key]
            self.ended.add(victim.key)
        assert self.waiting == {} or plan.look_again_s < math.inf or plan.start is not None
        if plan.start is None:
            return
        assert not busy
        slot = self.waiting.pop(plan.start.key)
        seconds = slot.work * plan.start.rung.work_share * self.speed
        assert self.now_s + seconds <= slot.deadline_s, "started although it cannot finish"
        self.running, self.free_s = plan.start.key, self.now_s + seconds

    @invariant()
    def no_slot_disappears_or_is_decided_twice(self) -> None:
        assert len(self.planner) == len(self.waiting)
        assert all(key in self.planner for key in self.waiting)
        decided = len(self.ended) + (self.running is not None)
        assert self.number >= len(self.waiting) + decided
        assert self.ended.isdisjoint(self.waiting)

    @invariant()
    def idle_machine_starts_a_slot_that_fits(self) -> None:
        if self.running is None and len(self.waiting) == 1:
            (slot,) = self.waiting.values()
            half_s = slot.work * 0.5 * self.speed
            self.plan()
            fits = self.now_s + half_s <= slot.deadline_s
            assert (self.running is not None) == fits


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_no_slot_disappears_runs_twice_or_starts_when_infeasible = AnyOrder.TestCase
