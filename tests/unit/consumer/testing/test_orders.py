"""Which order holds for which slot."""

from __future__ import annotations

import pytest

from consumer.engine.base import SlotRequest
from consumer.job import TickKey
from consumer.testing.orders import Miss, Orders
from schemas import MissReason, Stage
from tests.support.results import recipe


def request(slot_id: int = 1, channel: str = "main") -> SlotRequest:
    return SlotRequest(TickKey("t", 0, 0), slot_id, channel, recipe(), seed=1, deadline_s=1.0)


FAILED = Miss.of("failed", None, None)
REJECTED = Miss.of("rejected", None, None)


def test_without_orders_a_slot_is_completed_at_once() -> None:
    assert Orders().take(request()) == (None, 0.0)


def test_latest_order_that_holds_counts() -> None:
    orders = Orders()
    orders.order(FAILED, None, None, None)
    orders.order(REJECTED, 2, None, None)
    orders.order(None, None, "sport", None)
    assert orders.take(request(1)) == (FAILED, 0.0)
    assert orders.take(request(2)) == (REJECTED, 0.0)
    assert orders.take(request(2, "sport")) == (None, 0.0)


def test_order_for_a_number_of_times_is_used_up() -> None:
    orders = Orders()
    orders.order(FAILED, None, None, 2)
    assert [orders.take(request())[0] for _ in range(3)] == [FAILED, FAILED, None]


def test_slot_that_an_order_does_not_mean_uses_none_of_it_up() -> None:
    orders = Orders()
    orders.order(FAILED, 2, None, 1)
    assert [orders.take(request(slot_id))[0] for slot_id in (1, 2)] == [None, FAILED]


def test_delay_is_independent_of_the_outcome() -> None:
    orders = Orders()
    orders.delay(3.0, None, None, None)
    orders.order(FAILED, 1, None, None)
    orders.delay(1.0, 2, None, None)
    assert orders.take(request(1)) == (FAILED, 3.0)
    assert orders.take(request(2)) == (None, 1.0)
    assert orders.usual_s == 3.0


def test_reset_forgets_everything() -> None:
    orders = Orders()
    orders.order(FAILED, None, None, None)
    orders.delay(3.0, None, None, None)
    orders.reset()
    assert (orders.take(request()), orders.usual_s) == ((None, 0.0), 0.0)


def test_stage_is_the_usual_one_of_the_reason_unless_given() -> None:
    assert Miss.of("timeout", None, None).stage is Stage.VIDEO
    assert Miss.of("timeout", "audio", "why") == Miss(MissReason.TIMEOUT, Stage.AUDIO, "why")


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("expired", "expired: send a tick whose deadline has passed"),
        ("bored", "'bored' must be one of expired, predicted, timeout, "),
    ],
)
def test_reason_that_cannot_be_ordered_is_refused(reason: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Miss.of(reason, None, None)


def test_stage_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'dance' must be one of audio, image, "):
        Miss.of("failed", "dance", None)


@pytest.mark.parametrize("times", [0, -1])
def test_order_for_no_slot_is_refused(times: int) -> None:
    with pytest.raises(ValueError, match="times must be 1 or more"):
        Orders().order(FAILED, None, None, times)


def test_negative_delay_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds must be 0 or more, not -1"):
        Orders().delay(-1, None, None, None)
