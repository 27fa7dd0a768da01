from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN

from consumer.job import Arrival, Job, TickKey
from tests.support.jobs import TOPIC, tick

WALL = datetime(2026, 11, 23, 20, 15, tzinfo=UTC)
ARRIVAL = Arrival(WALL, 1000.0)


def test_deadline_is_as_far_on_both_clocks() -> None:
    assert ARRIVAL.to_monotonic_s(WALL + timedelta(seconds=45)) == 1045.0
    assert ARRIVAL.to_monotonic_s(WALL - timedelta(hours=1)) == -2600.0
    assert ARRIVAL.to_wall(1045.0) == WALL + timedelta(seconds=45)


def test_offset_of_a_deadline_does_not_move_it() -> None:
    elsewhere = WALL.astimezone(timezone(timedelta(hours=-8, minutes=-30)))
    assert ARRIVAL.to_monotonic_s(elsewhere) == 1000.0


@given(st.floats(min_value=-1e6, max_value=1e6))
def test_clocks_convert_there_and_back(passed_s: float) -> None:
    wall = ARRIVAL.to_wall(1000.0 + passed_s)
    assert ARRIVAL.to_monotonic_s(wall) == pytest.approx(1000.0 + passed_s, abs=1e-5)


@pytest.mark.parametrize(
    "deadline",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=23, minutes=59))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=23, minutes=59))),
    ],
)
def test_most_distant_deadlines_are_deadlines(deadline: datetime) -> None:
    job = Job.of(TickKey(TOPIC, 0, 0), tick(deadline=deadline), ARRIVAL, INVALID_SPAN, Context())
    assert (job.deadline_s < 0) == (deadline.year == 1)


def test_stepped_wall_clock_moves_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    class SteppedClock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return WALL + timedelta(hours=1)

    job = Job.of(
        TickKey(TOPIC, 0, 0),
        tick(deadline=WALL + timedelta(seconds=45)),
        ARRIVAL,
        INVALID_SPAN,
        Context(),
    )
    monkeypatch.setattr("consumer.job.datetime", SteppedClock)
    assert Arrival.now().wall == WALL + timedelta(hours=1)
    assert job.deadline_s == 1045.0
    assert job.arrival.to_wall(1044.0) == WALL + timedelta(seconds=44)


def test_seed_of_the_recipe_is_in_force() -> None:
    job = Job.of(TickKey(TOPIC, 0, 0), tick(seed=42), ARRIVAL, INVALID_SPAN, Context())
    assert job.seed == job.recipe.seed == 42


def test_tick_made_again_gets_the_same_seed() -> None:
    # Whatever the worker, and wherever the tick was read.
    there = Job.of(TickKey(TOPIC, 0, 0), tick(7), ARRIVAL, INVALID_SPAN, Context())
    here = Job.of(TickKey("other", 3, 9), tick(7), Arrival.now(), INVALID_SPAN, Context())
    other = Job.of(TickKey(TOPIC, 0, 0), tick(8), ARRIVAL, INVALID_SPAN, Context())
    assert there.seed == here.seed != other.seed


@pytest.mark.parametrize(
    ("timestamp_s", "emitted_s"),
    [
        (-90.0, 910.0),
        (0.0, 1000.0),
        (5.0, 1000.0),  # a producer's clock that is ahead
        (-1e9, 1000.0),  # a record without a time, or with a wild one
        (1e12, 1000.0),
        (None, 1000.0),
    ],
)
def test_tick_of_a_backlog_counts_from_when_it_was_written_if_that_can_be_believed(
    timestamp_s: float | None, emitted_s: float
) -> None:
    arrival = Arrival(datetime(2026, 1, 1, tzinfo=UTC), 1000.0)
    ms = None if timestamp_s is None else round((arrival.wall.timestamp() + timestamp_s) * 1000)
    assert arrival.emitted_s(ms) == pytest.approx(emitted_s)
