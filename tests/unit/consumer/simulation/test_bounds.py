from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumer.planning.optimum import Known
from consumer.simulation.bounds import most_possible, upper_bound
from tests.unit.consumer.planning.test_optimum import agreeable, by_brute_force

ANY = st.lists(
    st.builds(
        lambda arrived, window, seconds: Known(arrived, arrived + window, seconds),
        st.integers(0, 20),
        st.integers(1, 20),
        st.integers(1, 12),
    ),
    max_size=6,
)


@given(slots=ANY)
def test_no_schedule_exceeds_the_bound(slots: list[Known]) -> None:
    assert by_brute_force(slots) <= upper_bound(slots) <= len(slots)


@given(slots=agreeable())
def test_bound_is_exact_if_deadlines_come_in_the_order_of_arrivals(slots: list[Known]) -> None:
    slots = [s for s in slots if s.arrived_s < s.deadline_s]
    if sorted(slots) == sorted(slots, key=lambda s: (s.deadline_s, s.arrived_s)):
        assert most_possible(slots) == by_brute_force(slots)


def test_bound_counts_no_second_that_two_slots_would_share() -> None:
    assert upper_bound([Known(0.0, 10.0, 10.0)] * 5) == 1
    assert upper_bound([Known(0.0, 30.0, 10.0)] * 5) == 3
