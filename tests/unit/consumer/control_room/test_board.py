from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumer.control_room.board import MAX_AHEAD, Board, Slot
from schemas import (
    DeadlineMissed,
    HandedOver,
    ProgressStep,
    SlotComplete,
    SlotProgress,
    Stage,
    TickSource,
    WorkerInfo,
)
from schemas.examples import example_events

NOON = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)
NOON_MS = NOON.timestamp() * 1000


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def source(number: int) -> TickSource:
    return TickSource(topic="slot.ticks", partition=0, offset=number)


def progress(
    number: int, at_s: float, stage: Stage | None = None, worker: str = "w", **changes: Any
) -> SlotProgress:
    step = ProgressStep.ACCEPTED if stage is None else ProgressStep.STAGE_STARTED
    fields = {"deadline": after(60 + number), "predicted_s": 10.0, **changes}
    return SlotProgress(
        slot_id=number,
        channel="main",
        source=source(number),
        at=after(at_s),
        step=step,
        stage=stage,
        worker=WorkerInfo(id=worker, version="0.1.0"),
        **fields,
    )


def missed(number: int, at_s: float, worker: str = "w", **changes: Any) -> DeadlineMissed:
    event = example_events()["deadline-missed.rejected"]
    assert isinstance(event, DeadlineMissed)
    return event.model_copy(
        update={
            "slot_id": number,
            "source": source(number),
            "deadline": after(60 + number),
            "decided_at": after(at_s),
            "worker": WorkerInfo(id=worker, version="0.1.0"),
            **changes,
        }
    )


def noted(*events: SlotProgress | DeadlineMissed) -> Board:
    board = Board()
    for event in events:
        note = board.progress if isinstance(event, SlotProgress) else board.outcome
        note(event)  # type: ignore[operator]
    return board


def slot(board: Board, number: int) -> Slot:
    found = board.get(f"slot.ticks/0/{number}")
    assert found is not None
    return found


# Progress


def test_stage_has_its_start_end_rung_and_forecast() -> None:
    forecast = {"predicted_finish": after(9), "rung": "half", "rung_reason": "no time"}
    board = noted(
        progress(1, 0, planned_start=after(1), planned_s=4.0),
        progress(1, 1, Stage.AUDIO, **forecast),
        progress(1, 1, Stage.AUDIO, ended_at=after(3), **forecast),
    )
    one = slot(board, 1)
    assert one.stages == {"audio": NOON_MS + 1000}
    assert one.ended == {"audio": NOON_MS + 3000}
    assert (one.rung, one.rung_reason, one.planned_s) == ("half", "no time", 4.0)
    assert one.predicted_finish == NOON_MS + 9000
    assert one.planned_start == NOON_MS + 1000
    assert json.loads(json.dumps(one.as_json()))["state"] == "making"


def test_new_attempt_of_a_stage_is_under_way_again_and_news_that_come_late_change_nothing() -> None:
    first = progress(1, 1, Stage.VIDEO)
    board = noted(
        first,
        progress(1, 1, Stage.VIDEO, ended_at=after(3)),
        progress(1, 4, Stage.VIDEO),
        first,
        progress(1, 1, Stage.VIDEO, ended_at=after(3)),
    )
    assert slot(board, 1).stages == {"video": NOON_MS + 4000}
    assert slot(board, 1).ended == {}


def test_what_is_zero_is_told() -> None:
    board = noted(missed(1, 61, slack_ms=0.0))
    assert slot(board, 1).as_json()["slack_ms"] == 0.0


# Outcomes


def test_finished_slot_tells_loudness_captions_and_credentials() -> None:
    event = example_events()["slot-complete"]
    assert isinstance(event, SlotComplete)
    told = Board().outcome(event).as_json()
    assert told["artifact"]["loudness"] == {"integrated_lufs": -23.1, "true_peak_dbtp": -4.7}
    assert told["artifact"]["captions_uri"].endswith(".vtt")
    assert event.provenance is not None
    assert told["provenance"]["manifest_sha256"] == event.provenance.manifest_sha256
    assert told["models"] == event.models


def test_cancelled_slot_is_told_as_one() -> None:
    told = Board().outcome(missed(1, 5, cancelled=True)).as_json()
    assert told["cancelled"] is True
    assert "cancelled" not in Board().outcome(missed(1, 5)).as_json()


# The plan at the moment of a decision


def test_plan_has_what_its_worker_was_making_and_what_was_due_before_and_nothing_else() -> None:
    board = noted(
        progress(1, 0),
        progress(1, 1, Stage.AUDIO, predicted_finish=after(11)),
        progress(1, 30, Stage.VIDEO, predicted_finish=after(40)),  # after the decision
        progress(2, 0, planned_s=3.0),
        progress(3, 0),
        progress(4, 0, deadline=after(300)),  # due later
        progress(5, 9),  # came later
        progress(6, 0, worker="another"),
        progress(7, 0),
        missed(7, 2),  # decided before
        progress(50, 0, planned_s=5.0),
        missed(50, 8),
        missed(3, 9),  # decided later
    )
    plan = board.plan_at_the_end_of(slot(board, 50))
    assert [(each["name"], each["making"], each["needs_s"]) for each in plan["ahead"]] == [
        ("main/1", True, 3.0),
        ("main/2", False, 3.0),
        ("main/3", False, 10.0),
    ]
    assert plan["ahead_s"] == pytest.approx(16.0)
    assert (plan["needs_s"], plan["left_s"], plan["told"]) == (5.0, 102.0, True)


def test_plan_is_the_same_in_whatever_order_the_topics_are_read() -> None:
    events = [progress(1, 0), progress(2, 0), missed(2, 3), missed(1, 7)]
    there, back = noted(*events), noted(*reversed(events))
    plan = there.plan_at_the_end_of(slot(there, 2))
    assert plan == back.plan_at_the_end_of(slot(back, 2))
    assert [each["name"] for each in plan["ahead"]] == ["main/1"]


def test_long_plan_is_cut_and_says_by_how_much() -> None:
    count = MAX_AHEAD + 5
    board = noted(*(progress(number, 0) for number in range(count + 1)), missed(count, 5))
    plan = board.plan_at_the_end_of(slot(board, count))
    assert (len(plan["ahead"]), plan["more"]) == (MAX_AHEAD, 5)
    assert plan["ahead_s"] == pytest.approx(10.0 * count)


def test_plan_of_a_worker_that_tells_no_progress_says_so() -> None:
    board = noted(missed(1, 5))
    assert board.plan_at_the_end_of(slot(board, 1))["told"] is False


def test_slot_that_was_handed_over_tells_by_whom() -> None:
    hop = HandedOver(worker="donor", at=after(1))
    board = noted(missed(1, 2, worker="receiver", handed_over=hop), missed(2, 2))
    assert (slot(board, 1).worker, slot(board, 1).handed_over_by) == ("receiver", "donor")
    assert slot(board, 2).handed_over_by == ""
