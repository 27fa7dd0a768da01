from __future__ import annotations

import pytest

from consumer.planning import Planner, Rung, Waiting
from consumer.planning.plan import Plan
from vortex.rung import FULL

HALF = Rung("half", 0.5, 0.5)


def planner(*ladder: Rung, reserve_s: float = 25.0) -> Planner[str, float]:
    """Return a planner of slots whose work is their seconds at full quality."""
    return Planner(
        lambda seconds, rung: seconds * rung.work_share, lambda: 0.1, ladder or (FULL,), reserve_s
    )


def waiting(key: str, seconds: float, deadline_s: float) -> Waiting[str, float]:
    return Waiting(key, seconds, 0.0, deadline_s)


def arrive(plans: Planner[str, float], **slots: tuple[float, float]) -> None:
    for key, (seconds, deadline_s) in slots.items():
        plans.arrive(waiting(key, seconds, deadline_s), 0.0)


def started(plan: Plan[str]) -> str | None:
    return None if plan.start is None else plan.start.key


def given_up(plan: Plan[str]) -> list[str]:
    return [each.key for each in plan.give_up]


def test_slot_that_is_due_first_of_equally_long_ones_is_started() -> None:
    plans = planner()
    arrive(plans, late=(5.0, 40.0), early=(5.0, 20.0))
    assert started(plans.plan(0.0)) == "early"
    assert started(plans.plan(5.0)) == "late"
    assert len(plans) == 0


def test_nothing_is_started_while_a_slot_is_being_made() -> None:
    plans = planner()
    arrive(plans, a=(5.0, 40.0))
    assert plans.plan(0.0, free_s=7.0).start is None
    assert started(plans.plan(7.0)) == "a"


def test_slot_that_is_next_up_is_the_one_that_is_started_then_and_asking_changes_nothing() -> None:
    plans = planner(FULL, HALF)
    assert plans.next_up(7.0) is None
    arrive(plans, late=(5.0, 40.0), early=(6.0, 20.0))
    assert plans.plan(0.0, free_s=7.0).start is None
    assert plans.next_up(7.0) == plans.next_up(7.0) == 6.0
    assert len(plans) == 2
    assert started(plans.plan(7.0)) == "early"
    assert plans.next_up(39.0) is None  # no longer in time


def test_long_slot_due_first_gives_way_to_two_short_ones() -> None:
    plans = planner()
    arrive(plans, long=(30.0, 31.0), b=(12.0, 32.0), c=(12.0, 33.0))
    assert started(plans.plan(0.0)) == "b"
    assert started(plans.plan(12.0)) == "c"


def test_slot_that_no_longer_fits_is_given_up_in_words_at_that_moment() -> None:
    plans = planner()
    arrive(plans, a=(10.0, 20.0))
    plan = plans.plan(9.0, free_s=9.5)
    assert plan.give_up == ()
    assert plan.look_again_s == 10.0
    (victim,) = plans.plan(10.5, free_s=12.0).give_up
    assert (victim.key, victim.lead_s) == ("a", 9.5)
    assert victim.why == "9.500 s are left, and the slot needs 10.000 s"


def test_deadline_that_passed_is_said_to_have_passed() -> None:
    plans = planner()
    arrive(plans, a=(10.0, 20.0))
    (victim,) = plans.plan(25.0).give_up
    assert victim.why == "the deadline passed while the slot waited"


def test_slot_without_any_chance_is_given_up_long_before_its_deadline() -> None:
    plans = planner()
    arrive(plans, **{f"slot{number}": (12.0, 45.0 + number / 100) for number in range(20)})
    plan = plans.plan(0.0)
    assert started(plan) == "slot0" or plan.start is not None
    assert 10 <= len(plan.give_up) <= 16
    assert all(victim.lead_s >= 45.0 for victim in plan.give_up)


def test_slot_that_is_given_up_or_started_or_removed_waits_no_more() -> None:
    plans = planner()
    arrive(plans, a=(10.0, 5.0), b=(10.0, 40.0), c=(10.0, 40.0))
    plans.remove("c")
    plan = plans.plan(0.0)
    assert (started(plan), given_up(plan)) == ("b", ["a"])
    assert plans.plan(1.0) == Plan()


def test_same_key_cannot_wait_twice() -> None:
    plans = planner()
    arrive(plans, a=(10.0, 40.0))
    with pytest.raises(ValueError, match="key: a waits already"):
        arrive(plans, a=(10.0, 40.0))


def after_arrivals(plans: Planner[str, float], gap_s: float, seconds: float) -> float:
    """Let many slots arrive, and go, so that more like them are expected; return the moment."""
    now_s = 0.0
    for number in range(300):
        now_s += gap_s
        plans.arrive(Waiting(f"past{number}", seconds, now_s, now_s + 45.0), now_s)
        plans.remove(f"past{number}")
    return now_s


@pytest.mark.parametrize(("gap_s", "first"), [(60.0, "long"), (1.0, "short")])
def test_long_slot_gives_way_to_short_ones_that_are_expected_under_overload(
    gap_s: float, first: str
) -> None:
    plans = planner()
    now_s = after_arrivals(plans, gap_s, seconds=4.0)
    plans.arrive(Waiting("long", 20.0, now_s, now_s + 40.0), now_s)
    plans.arrive(Waiting("short", 4.0, now_s, now_s + 45.0), now_s)
    assert started(plans.plan(now_s)) == first


@pytest.mark.parametrize(("gap_s", "rung"), [(60.0, FULL), (2.0, HALF)])
def test_lowest_rung_is_taken_if_an_expected_slot_would_lose_its_chance(
    gap_s: float, rung: Rung
) -> None:
    plans = planner(FULL, HALF)
    now_s = after_arrivals(plans, gap_s, seconds=6.0)
    plans.arrive(Waiting("a", 6.0, now_s, now_s + 45.0), now_s)
    start = plans.plan(now_s).start
    assert start is not None
    assert start.rung is rung


def first_at_low_load(*ladder: Rung, **slots: tuple[float, float]) -> Plan[str]:
    """Plan slots of which others are expected too, due after 45 s, but seldom."""
    plans = planner(*ladder)
    now_s = after_arrivals(plans, gap_s=60.0, seconds=12.0)
    for key, (seconds, left_s) in slots.items():
        plans.arrive(Waiting(key, seconds, now_s, now_s + left_s), now_s)
    return plans.plan(now_s)


@pytest.mark.parametrize(
    ("left_s", "first", "why"),
    [
        (24.0, "short", "the shortest that is no risk to the slots due before it"),
        (22.0, "long", "due first of the slots that are kept"),  # 2 s left, and 1.6 s deviation
    ],
)
def test_short_slot_goes_before_a_long_one_only_if_that_is_no_risk_to_it(
    left_s: float, first: str, why: str
) -> None:
    start = first_at_low_load(long=(15.0, left_s), short=(5.0, 40.0)).start
    assert start is not None
    assert (start.key, start.why) == (first, why)


def test_shortest_of_slots_due_together_goes_first_even_if_time_is_tight() -> None:
    burst = {"a": (16.0, 44.0), "b": (15.0, 44.0), "c": (12.0, 44.0)}  # 1 s left in any order
    assert started(first_at_low_load(**burst)) == "c"


def test_slot_that_is_due_after_those_that_arrive_now_does_not_go_first() -> None:
    assert started(first_at_low_load(long=(15.0, 40.0), short=(5.0, 100.0))) == "long"


def test_slots_go_in_turn_with_a_ladder() -> None:
    assert started(first_at_low_load(FULL, HALF, long=(15.0, 40.0), short=(5.0, 41.0))) == "long"


def test_slots_that_arrive_push_out_a_long_one_and_no_short_one() -> None:
    plans = planner()
    now_s = after_arrivals(plans, gap_s=60.0, seconds=12.0)
    slots = {"long": (20.0, 40.0, 0.0), "short": (8.0, 41.0, 0.0)}
    slots |= {"x": (14.0, 44.0, 8.0), "y": (14.0, 45.0, 8.0)}
    made = []
    for moment_s in (0.0, 8.0, 22.0):
        for key, (seconds, due_s, arrived_s) in slots.items():
            if arrived_s == moment_s:
                plans.arrive(Waiting(key, seconds, now_s + arrived_s, now_s + due_s), now_s)
        made.append(started(plans.plan(now_s + moment_s)))
    assert made == ["short", "x", "y"]


def test_slot_that_only_a_margin_leaves_out_is_started_if_no_other_fits() -> None:
    plans = planner()
    now_s = after_arrivals(plans, gap_s=3.0, seconds=12.0)
    plans.arrive(Waiting("tight", 12.0, now_s, now_s + 12.5), now_s)
    start = plans.plan(now_s).start
    assert start is not None
    assert (start.key, start.why) == ("tight", "the shortest that still fits")


class ChangingSpeed:
    def __init__(self) -> None:
        self.factor = 1.0
        self.planner: Planner[str, float] = Planner(
            lambda seconds, rung: seconds * self.factor, lambda: 0.1
        )


def test_slot_is_predicted_again_before_it_is_given_up_as_hopeless() -> None:
    speed = ChangingSpeed()
    arrive(speed.planner, a=(10.0, 20.0))
    speed.planner.plan(0.0, free_s=5.0)
    speed.factor = 0.5
    plan = speed.planner.plan(12.0, free_s=12.0)
    assert (plan.give_up, plan.look_again_s) == ((), 15.0)


def test_slot_is_predicted_again_before_it_is_started() -> None:
    speed = ChangingSpeed()
    many = {f"slot{number:03}": (1.0, 3.0 * (number + 1)) for number in range(200)}
    arrive(speed.planner, **many)
    assert started(speed.planner.plan(0.0)) == "slot000"
    speed.factor = 10.0  # so many slots are not all planned again at once
    start = speed.planner.plan(1.0).start
    assert start is not None
    assert start.seconds == 10.0
    assert 1.0 + start.seconds <= many[start.key][1]


def test_best_rung_is_taken_if_all_others_keep_their_reserve() -> None:
    plans = planner(FULL, HALF)
    arrive(plans, a=(12.0, 45.0), b=(12.0, 60.0))
    start = plans.plan(0.0).start
    assert start is not None
    assert (start.key, start.rung, start.seconds) == ("a", FULL, 12.0)


def test_lowest_rung_is_taken_if_another_slot_would_lose_its_reserve() -> None:
    plans = planner(FULL, HALF)
    arrive(plans, a=(12.0, 45.0), b=(12.0, 42.0 + 0.9))
    start = plans.plan(0.0).start
    assert start is not None
    assert (start.key, start.rung, start.seconds) == ("b", FULL, 12.0)
    arrive(plans, c=(12.0, 36.0))
    start = plans.plan(12.0).start
    assert start is not None
    assert (start.key, start.rung, start.seconds) == ("c", HALF, 6.0)


def test_reserve_is_a_share_of_deadlines_that_are_usually_short() -> None:
    plans = planner(FULL, HALF)
    arrive(plans, a=(2.0, 15.0), b=(2.0, 16.0))  # nobody could have 25 s left
    start = plans.plan(0.0).start
    assert start is not None
    assert start.rung is FULL


def test_slot_that_fits_only_on_a_lower_rung_is_made_on_it() -> None:
    plans = planner(FULL, HALF)
    arrive(plans, a=(12.0, 10.0))
    start = plans.plan(0.0).start
    assert start is not None
    assert start.rung is HALF


def test_ladder_without_a_rung_is_an_error() -> None:
    with pytest.raises(ValueError, match="ladder: needs at least one rung"):
        Planner(lambda work, rung: 1.0, lambda: 0.1, ladder=())
