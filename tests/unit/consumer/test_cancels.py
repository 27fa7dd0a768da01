from __future__ import annotations

import dataclasses

import pytest

from consumer import cancels as cancels_module
from consumer.cancels import MAX_KEPT, REMEMBER_S, Cancels
from consumer.job import Job
from schemas import SlotCancel
from tests.support.jobs import job

ORDERED_MS = 1_000_000


def written(slot_id: int, at_ms: int | None) -> Job:
    return dataclasses.replace(job(slot_id), written_ms=at_ms)


def ordered(*slot_ids: int, **changes: str) -> Cancels:
    cancels = Cancels()
    for slot_id in slot_ids:
        cancels.note(SlotCancel(slot_id=slot_id, **changes), ORDERED_MS)
    return cancels


def test_order_concerns_what_was_written_before_it_and_nothing_later() -> None:
    cancels = ordered(1)
    assert cancels.why(written(1, ORDERED_MS - 1)) == "cancelled by an operator"
    assert cancels.why(written(1, ORDERED_MS)) is not None
    assert cancels.why(written(1, None)) is not None
    assert cancels.why(written(1, ORDERED_MS + 1)) is None


def test_order_concerns_its_channel_and_slot_alone() -> None:
    assert ordered(1).why(written(2, 0)) is None
    assert ordered(1, channel="other").why(written(1, 0)) is None


def test_reason_of_the_order_is_told() -> None:
    why = ordered(1, reason="the show was dropped").why(written(1, 0))
    assert why == "cancelled by an operator: the show was dropped"


def test_order_is_forgotten_after_its_time_and_by_too_many_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    monkeypatch.setattr(cancels_module, "now_s", lambda: now_s)
    cancels = ordered(1)
    now_s = REMEMBER_S
    assert cancels.why(written(1, 0)) is not None
    now_s = REMEMBER_S + 0.1
    assert cancels.why(written(1, 0)) is None
    many = ordered(*range(MAX_KEPT + 1))
    assert many.why(written(0, 0)) is None
    assert many.why(written(1, 0)) is not None


def test_order_that_is_repeated_is_as_young_as_its_last() -> None:
    cancels = ordered(1, *range(2, MAX_KEPT + 1), 1, MAX_KEPT + 1)
    assert cancels.why(written(1, 0)) is not None
    assert cancels.why(written(2, 0)) is None
