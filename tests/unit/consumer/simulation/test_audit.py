from __future__ import annotations

import pytest

from consumer.simulation.audit import wrongly_given_up
from consumer.simulation.machine import Run
from consumer.simulation.traces import SimulatedSlot


def slot(number: int, seconds: float, deadline_s: float) -> SimulatedSlot:
    return SimulatedSlot(number, 0.0, deadline_s, 1.0, seconds, seconds, 0.0)


def run_with(given_up_s: float, second_began_s: float) -> Run:
    """Return a run of two slots of 10 s; slot 2 was given up."""
    return Run(
        on_time={0: 1.0, 1: 1.0},
        worked_s={0: (0.0, 10.0), 1: (second_began_s, second_began_s + 10.0)},
        given_up={2: given_up_s},
    )


@pytest.mark.parametrize(
    ("second_began_s", "second_due_s", "third_s", "third_due_s", "wrong"),
    [
        (10.0, 20.0, 5.0, 20.0, False),  # no idle time, nothing may move
        (15.0, 25.0, 5.0, 20.0, True),  # five idle seconds
        (15.0, 25.0, 5.1, 20.0, False),  # which are not enough
        (10.0, 25.0, 5.0, 20.0, True),  # the second can wait
        (10.0, 24.0, 5.0, 20.0, False),  # but not so long
        (10.0, 20.0, 5.0, 25.0, True),  # after all others
    ],
)
def test_slot_was_given_up_wrongly_if_it_fits_without_making_another_late(
    second_began_s: float, second_due_s: float, third_s: float, third_due_s: float, wrong: bool
) -> None:
    trace = [slot(0, 10.0, 20.0), slot(1, 10.0, second_due_s), slot(2, third_s, third_due_s)]
    assert wrongly_given_up(trace, run_with(1.0, second_began_s)) == ([2] if wrong else [])


def test_time_before_a_slot_was_given_up_does_not_count() -> None:
    trace = [slot(0, 10.0, 20.0), slot(1, 10.0, 30.0), slot(2, 10.0, 20.0)]
    assert wrongly_given_up(trace, run_with(10.0, 20.0)) == [2]
    assert wrongly_given_up(trace, run_with(11.0, 20.0)) == []


def test_slot_that_had_room_on_the_lowest_rung_was_given_up_wrongly() -> None:
    trace = [slot(0, 10.0, 20.0), slot(1, 10.0, 25.0), slot(2, 10.0, 20.0)]
    assert wrongly_given_up(trace, run_with(1.0, 15.0)) == []
    assert wrongly_given_up(trace, run_with(1.0, 15.0), lowest_share=0.5) == [2]
