from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.planning import schedule as schedule_module
from consumer.planning.optimum import Known, earliest_ends
from consumer.planning.schedule import Schedule
from tests.support.scaling import cpu_s

SLOTS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 15)), max_size=25)


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few slots fill several buckets."""
    monkeypatch.setattr(schedule_module, "_BUCKET", 2)


def kept(schedule: Schedule) -> list[tuple[float, float]]:
    return [(entry.due_s, entry.seconds) for entry in schedule.kept()]


def best(slots: list[tuple[int, int]], free_s: float = 0.0) -> tuple[int, float]:
    """Return how many can be on time, and the least work of so many."""
    known = sorted((Known(0.0, due, seconds) for due, seconds in slots), key=lambda s: s.deadline_s)
    ends = earliest_ends(known, free_s)
    return len(ends) - 1, ends[-1] - free_s


def of(schedule: Schedule) -> tuple[int, float]:
    return len(kept(schedule)), sum(seconds for _, seconds in kept(schedule))


@given(slots=SLOTS, free_s=st.integers(0, 20))
def test_build_keeps_the_most_slots_with_the_least_work(
    slots: list[tuple[int, int]], free_s: int
) -> None:
    schedule = Schedule()
    schedule.build([(i, *slot) for i, slot in enumerate(slots)], free_s)
    assert of(schedule) == best(slots, free_s)
    assert len(schedule) == len(slots)


@given(slots=SLOTS)
def test_work_before_a_slot_is_that_of_all_kept_ones_due_earlier(
    slots: list[tuple[int, int]],
) -> None:
    schedule = Schedule()
    schedule.build([(i, *slot) for i, slot in enumerate(slots)], 0.0)
    before_s = 0.0
    for entry in schedule.kept():
        assert schedule.work_before_s(entry.key) == before_s
        before_s += entry.seconds
    left_out = [i for i in range(len(slots)) if not schedule.is_kept(i)]
    assert all(schedule.work_before_s(key) is None for key in [*left_out, "unknown"])


def test_changes_one_by_one_keep_nearly_as_many_as_a_plan_from_the_beginning() -> None:
    draws = random.Random(1)
    kept_count = most = 0
    for _ in range(10):
        schedule, here, free_s = Schedule(), {}, 0.0
        for number in range(100):
            action = draws.random()
            if action < 0.6:
                here[number] = free_s + draws.uniform(5, 300), draws.lognormvariate(2.4, 0.3)
                schedule.add(number, *here[number])
            elif here and action < 0.8:
                gone = draws.choice(list(here))
                schedule.remove(gone)
                del here[gone]
            else:
                free_s += draws.uniform(0, 6)
            schedule.settle(free_s)
            schedule.take_back(free_s)
            afresh = Schedule()
            afresh.build([(key, *slot) for key, slot in here.items()], free_s)
            most += len(kept(afresh))
            kept_count += len(kept(schedule))
    assert 0.97 * most < kept_count <= most


@given(slots=SLOTS, free_s=st.integers(0, 20), seed=st.integers(0, 99))
def test_no_kept_slot_is_late_and_none_is_lost(
    slots: list[tuple[int, int]], free_s: int, seed: int
) -> None:
    draws = random.Random(seed)
    schedule, here = Schedule(), {}
    for number, slot in enumerate(slots):
        schedule.add(number, *slot)
        here[number] = slot
        if draws.random() < 0.4:
            gone = draws.choice(list(here))
            schedule.remove(gone)
            del here[gone]
        schedule.settle(free_s)
        if draws.random() < 0.5:
            schedule.take_back(free_s)
        end_s = float(free_s)
        for due, seconds in kept(schedule):
            end_s += seconds
            assert end_s <= due
        assert {number for number in range(len(slots)) if number in schedule} == set(here)
    assert schedule.reserve_s(free_s) >= 0


def test_slot_that_was_left_out_is_taken_back_when_there_is_room() -> None:
    schedule = Schedule()
    schedule.build([("a", 10.0, 6.0), ("b", 11.0, 7.0)], 0.0)
    assert not schedule.is_kept("b")
    schedule.take_back(0.0)
    assert not schedule.is_kept("b")
    schedule.remove("a")
    schedule.take_back(0.0)
    assert schedule.is_kept("b")


def test_reserve_is_the_least_slack_of_a_kept_slot() -> None:
    schedule = Schedule()
    schedule.build([(i, due, 5.0) for i, due in enumerate((20.0, 22.0, 18.0, 40.0))], 1.0)
    assert schedule.reserve_s(1.0) == 22.0 - 16.0


def test_cost_of_an_arrival_grows_less_than_the_number_of_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule_module, "_BUCKET", 64)

    def arrivals_at(size: int) -> Callable[[], None]:
        schedule = Schedule()
        schedule.build([(i, 20.0 * (i + 1), 10.0) for i in range(size)], 0.0)
        draws = random.Random(1)

        def arrive() -> None:
            for number in range(300):
                schedule.add(("new", number), draws.uniform(1, 20.0 * size), 10.0)
                schedule.settle(0.0)
                schedule.remove(("new", number))

        return arrive

    few_s, many_s = cpu_s(arrivals_at(1_000), arrivals_at(10_000))
    assert many_s < 6 * few_s


def test_longest_slot_before_a_late_one_is_left_out_wherever_it_lies() -> None:
    schedule: Schedule[int] = Schedule()
    slots = [(12.0, 10.0), (13.0, 1.0), (14.0, 1.0), (15.0, 4.0)]
    schedule.build([(number, *slot) for number, slot in enumerate(slots)], -100.0)
    schedule.settle(0.0)
    assert [entry.key for entry in schedule.kept()] == [1, 2, 3]


def test_slot_that_was_left_out_and_removed_is_not_taken_back() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.build([("a", 10.0, 6.0), ("b", 11.0, 7.0)], 0.0)
    schedule.remove("b")
    schedule.take_back(-100.0)
    assert [entry.key for entry in schedule.kept()] == ["a"]
