from __future__ import annotations

import pytest

from consumer.admission import Admission
from consumer.engine.base import SlotNotMade
from schemas import MissReason
from tests.support.engines import ScriptedEngine
from tests.support.jobs import job

NOW_S = 1000.0


TOO_LONG = (
    "the video would take about 65 s, over its limit of 20 s (orchestration.timeouts.video_s)"
)


def admission(predicted_s: float | None, ruled_out: str | None = None) -> Admission:
    engine = ScriptedEngine(predicted_s=predicted_s)
    engine.ruled_out = ruled_out
    return Admission(engine)


@pytest.mark.parametrize(
    ("deadline_in_s", "predicted_s", "reason"),
    [
        (-5.0, None, MissReason.EXPIRED),
        (0.0, None, MissReason.EXPIRED),
        (-5.0, 10.0, MissReason.EXPIRED),  # not "predicted": it could never have been made
        (9.0, 10.0, MissReason.PREDICTED),
        (10.0, 10.0, MissReason.PREDICTED),  # a slot that ends at its deadline is late
        (10.25, 10.0, None),
        (0.25, None, None),  # nothing was measured yet
    ],
)
def test_arriving_tick_is_refused_if_it_cannot_be_finished(
    deadline_in_s: float, predicted_s: float | None, reason: MissReason | None
) -> None:
    arriving = job(1, deadline_in_s=deadline_in_s, arrived_s=NOW_S)
    refusal = admission(predicted_s).on_arrival(arriving)
    assert (None if refusal is None else refusal.reason) == reason


def test_time_in_the_queue_counts() -> None:
    waiting = job(1, deadline_in_s=45.0, arrived_s=NOW_S)
    admit = admission(10.0)
    assert admit.before_start(waiting, NOW_S + 34.75) is None
    refusal = admit.before_start(waiting, NOW_S + 36.0)
    assert refusal is not None
    assert refusal.reason is MissReason.PREDICTED
    assert refusal.detail == "9.000 s are left, and the slot needs 10.000 s"


def test_deadline_that_passed_in_the_queue_is_said_to_have_passed() -> None:
    waiting = job(1, deadline_in_s=45.0, arrived_s=NOW_S)
    refusal = admission(None).before_start(waiting, NOW_S + 50.0)
    assert refusal is not None
    assert refusal.reason is MissReason.PREDICTED
    assert refusal.detail == "the deadline passed while the slot waited"


def test_detail_of_an_expired_tick_says_by_how_much() -> None:
    refusal = admission(None).on_arrival(job(1, deadline_in_s=-5.25, arrived_s=NOW_S))
    assert refusal is not None
    assert refusal.detail == "the deadline had passed 5.250 s before the tick arrived"


@pytest.mark.parametrize(("predicted_s", "latest_s"), [(None, 1045.0), (10.0, 1035.0)])
def test_slot_is_hopeless_exactly_from_its_latest_start_on(
    predicted_s: float | None, latest_s: float
) -> None:
    waiting = job(1, deadline_in_s=45.0, arrived_s=NOW_S)
    admit = admission(predicted_s)
    assert admit.latest_start_s(waiting) == latest_s
    assert admit.before_start(waiting, latest_s) is not None
    assert admit.before_start(waiting, latest_s - 0.001) is None


@pytest.mark.parametrize("predicted_s", [None, 10.0, 100.0])
def test_slot_that_the_limits_rule_out_is_refused_at_arrival_and_at_start(
    predicted_s: float | None,
) -> None:
    admit = admission(predicted_s, ruled_out=TOO_LONG)
    arriving = job(1, deadline_in_s=45.0, arrived_s=NOW_S)
    refusal = SlotNotMade(MissReason.PREDICTED, None, TOO_LONG, {})
    assert admit.on_arrival(arriving) == refusal
    assert admit.before_start(arriving, NOW_S + 1.0) == refusal


def test_slot_whose_deadline_passed_is_told_so_although_the_limits_rule_it_out() -> None:
    admit = admission(None, ruled_out=TOO_LONG)
    arriving = job(1, deadline_in_s=-5.0, arrived_s=NOW_S)
    refusal = admit.on_arrival(arriving)
    assert refusal is not None
    assert refusal.reason is MissReason.EXPIRED
    refusal = admit.before_start(job(1, deadline_in_s=45.0, arrived_s=NOW_S), NOW_S + 50.0)
    assert refusal is not None
    assert refusal.detail == "the deadline passed while the slot waited"
