from __future__ import annotations

from collections import Counter

import pytest

from consumer.simulation.fleet import Fleet, serve_fleet, serve_from_one_queue
from consumer.simulation.traces import Traffic
from vortex.rung import FULL, Rung

WORKERS = 4


def test_handover_saves_most_of_what_a_fleet_would_miss() -> None:
    slots = Traffic(0.9 * WORKERS, slots=320).trace(seed=1)
    bound = serve_fleet(slots, Fleet(WORKERS, WORKERS, handover=False))
    handed = serve_fleet(slots, Fleet(WORKERS, WORKERS))
    missed_when_bound = bound.slots - bound.on_time
    assert bound.handed_over == 0
    assert missed_when_bound > 15
    assert handed.slots - handed.on_time < 0.4 * missed_when_bound
    assert handed.handed_over_on_time >= 0.9 * handed.handed_over


def test_busy_partitions_are_relieved() -> None:
    slots = Traffic(0.8 * WORKERS, slots=240).trace(seed=2)
    fleet = Fleet(WORKERS, WORKERS, busier=3.0)
    bound = serve_fleet(slots, Fleet(WORKERS, WORKERS, handover=False, busier=3.0))
    assert serve_fleet(slots, fleet).on_time > bound.on_time + 0.1 * len(slots)


def test_slots_stay_where_they_are_when_the_whole_fleet_is_overloaded() -> None:
    slots = Traffic(2.5 * WORKERS, slots=400).trace(seed=1)
    run = serve_fleet(slots, Fleet(WORKERS, WORKERS))
    assert run.handed_over < 0.1 * run.slots


def test_idle_fleet_hands_nothing_over() -> None:
    slots = Traffic(0.1 * WORKERS, slots=60).trace(seed=1)
    run = serve_fleet(slots, Fleet(WORKERS, WORKERS))
    assert (run.on_time, run.handed_over) == (60, 0)


def test_no_slots_are_served_at_once() -> None:
    assert serve_fleet([], Fleet(2, 2)).slots == 0


def test_first_half_of_the_partitions_is_busier_and_so_are_its_workers() -> None:
    fleet = Fleet(workers=2, partitions=4, busier=3.0)
    read_from = fleet.read_from(4000, seed=0)
    assert sum(partition < 2 for partition in read_from) == pytest.approx(3000, rel=0.05)
    assert [fleet.owner_of(partition) for partition in range(4)] == [0, 0, 1, 1]


def test_slots_of_a_dead_worker_are_served_by_the_others_once_its_session_has_ended() -> None:
    dies = ((100.0, 1),)
    soon = Fleet(WORKERS, WORKERS, dies=dies, session_s=10.0)
    late = Fleet(WORKERS, WORKERS, dies=dies, session_s=40.0)
    on_time = Counter[str]()
    for seed in range(1, 4):  # one slot more or less is chance
        slots = Traffic(0.8 * WORKERS, slots=120).trace(seed)
        run, later = serve_fleet(slots, soon), serve_fleet(slots, late)
        alive = serve_fleet(slots, Fleet(WORKERS, WORKERS))
        assert alive.read_again == 0
        assert 0 < run.read_again < later.read_again
        assert run.worked_s[1] < 0.5 * alive.worked_s[1]
        on_time.update(soon=run.on_time, late=later.on_time, alive=alive.on_time)
    assert on_time["late"] < on_time["soon"] <= on_time["alive"], on_time


def test_slots_handed_to_a_worker_that_dies_go_to_the_next_reader_of_its_handovers() -> None:
    slots = Traffic(0.9 * WORKERS, slots=160).trace(seed=3)
    dies = ((60.0, 0), (90.0, 2))
    run = serve_fleet(slots, Fleet(WORKERS, WORKERS, dies=dies, session_s=5.0))
    assert run.handed_over > 0
    assert len(run.quality_on_time) <= run.slots
    assert sum(run.worked_s.values()) > 0
    assert run.worked_s[0] < run.worked_s[1]


@pytest.mark.parametrize("dies", [((1.0, 0), (1.0, 1)), ((1.0, 2),)])
def test_fleet_of_which_nobody_is_left_is_refused(dies: tuple[tuple[float, int], ...]) -> None:
    with pytest.raises(ValueError, match="dies"):
        Fleet(2, 2, dies=dies)


def test_announcements_that_come_late_cost_slots_and_stale_ones_stop_handing_over() -> None:
    slots = Traffic(0.95 * WORKERS, slots=320).trace(seed=1)
    soon = serve_fleet(slots, Fleet(WORKERS, WORKERS))
    late = serve_fleet(slots, Fleet(WORKERS, WORKERS, announced_late_s=8.0))
    bound = serve_fleet(slots, Fleet(WORKERS, WORKERS, handover=False))
    assert bound.on_time - 5 <= late.on_time < soon.on_time


def test_ticks_are_read_from_their_recorded_partitions() -> None:
    slots = Traffic(0.5, slots=20).trace(seed=1)
    run = serve_fleet(slots, Fleet(2, 2, handover=False), partitions=[1] * 20)
    assert run.worked_s[0] == 0.0 < run.worked_s[1]


def test_ladder_saves_slots_of_a_fleet_at_less_quality() -> None:
    slots = Traffic(1.5 * WORKERS, slots=160).trace(seed=1)
    full = serve_fleet(slots, Fleet(WORKERS, WORKERS))
    ladder = (FULL, Rung("half", 0.5, 0.5))
    half = serve_fleet(slots, Fleet(WORKERS, WORKERS, ladder=ladder))
    assert half.on_time > full.on_time
    assert half.quality < full.quality == 1.0


def test_one_queue_serves_all_slots_while_its_machines_are_enough() -> None:
    slots = Traffic(0.4 * WORKERS, slots=200).trace(seed=1)
    run = serve_from_one_queue(slots, WORKERS)
    assert run.on_time == 200
    assert sum(run.worked_s.values()) == pytest.approx(sum(slot.seconds for slot in slots))


def test_one_queue_makes_no_more_than_its_machines_have_time_for() -> None:
    slots = Traffic(2.0 * WORKERS, slots=200).trace(seed=1)
    run = serve_from_one_queue(slots, WORKERS)
    assert 80 < run.on_time < 130
    assert run.given_up > 60
