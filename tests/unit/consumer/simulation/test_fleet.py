from __future__ import annotations

from consumer.simulation.fleet import Fleet, serve_fleet
from consumer.simulation.traces import Traffic

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
