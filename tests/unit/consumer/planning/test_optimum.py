from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from consumer.planning.optimum import Known, earliest_ends, latest_starts, most_on_time

WHOLE = st.integers(1, 12)


@st.composite
def agreeable(draw: st.DrawFn) -> list[Known]:
    """Return slots whose deadlines come in the order of their arrivals."""
    count = draw(st.integers(0, 6))
    arrivals = sorted(draw(st.lists(st.integers(0, 20), min_size=count, max_size=count)))
    deadlines = sorted(draw(st.lists(st.integers(1, 30), min_size=count, max_size=count)))
    seconds = draw(st.lists(WHOLE, min_size=count, max_size=count))
    return [Known(*each) for each in zip(arrivals, deadlines, seconds, strict=True)]


def by_brute_force(slots: Sequence[Known], free_s: float = -math.inf) -> int:
    """Try every order of every choice of slots."""
    for count in range(len(slots), 0, -1):
        for order in itertools.permutations(slots, count):
            end_s = free_s
            for slot in order:
                end_s = max(end_s, slot.arrived_s) + slot.seconds
                if end_s > slot.deadline_s:
                    break
            else:
                return count
    return 0


@given(slots=agreeable())
def test_most_on_time_is_what_brute_force_finds(slots: list[Known]) -> None:
    assert most_on_time(slots) == by_brute_force(slots)


@given(slots=agreeable(), free_s=st.integers(-1, 30))
def test_latest_starts_say_how_many_are_on_time_from_any_moment(
    slots: list[Known], free_s: int
) -> None:
    latest = latest_starts(slots)
    assert latest == sorted(latest, reverse=True)
    assert sum(start >= free_s for start in latest) == len(earliest_ends(slots, free_s)) - 1
