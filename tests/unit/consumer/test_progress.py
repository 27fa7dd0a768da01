"""What the topic of progress is told, without a broker."""

from __future__ import annotations

import asyncio
from typing import Any

from consumer.job import Job, Step
from consumer.progress import ProgressTeller
from schemas import ProgressStep, SlotProgress, Stage, WorkerInfo
from tests.support.jobs import job

WORKER = WorkerInfo(id="w", version="0.1.0")
TIMEOUT_S = 5.0


class Producer:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    async def send(self, _topic: str, value: bytes, **_: Any) -> None:
        self.values.append(value)


async def told(job: Job, *steps: Step, predicted_s: float | None = 4.0) -> list[SlotProgress]:
    """Return the events that a slot's steps become."""
    teller = ProgressTeller(WORKER, lambda _recipe: predicted_s)
    for step in steps:
        teller.note(job, step)
    producer = Producer()
    sending = asyncio.create_task(teller.send(producer, "progress"))
    async with asyncio.timeout(TIMEOUT_S):
        while len(producer.values) < len(steps):
            await asyncio.sleep(0)
    sending.cancel()
    return [SlotProgress.model_validate_json(value) for value in producer.values]


async def test_waiting_slot_is_told_with_its_planned_start() -> None:
    one = job(7, arrived_s=100.0)
    (event,) = await told(one, Step(needed_s=2.5, planned_start_s=103.5))
    assert (event.step, event.stage, event.rung) == (ProgressStep.ACCEPTED, None, None)
    assert (event.predicted_s, event.planned_s) == (4.0, 2.5)
    assert event.planned_start == one.arrival.to_wall(103.5)
    assert event.predicted_finish is None


async def test_end_of_a_stage_repeats_its_start_for_readers_who_know_only_that() -> None:
    one = job(7, arrived_s=100.0)
    began = Step(Stage.VIDEO, began_s=104.0, finish_s=110.0, rung="half", rung_why="no time")
    ended = Step(Stage.VIDEO, began_s=104.0, ended_s=108.0, finish_s=110.0, rung="half")
    start, end = await told(one, began, ended)
    assert (start.step, start.stage, start.at) == (end.step, end.stage, end.at)
    assert start.at == one.arrival.to_wall(104.0)
    assert (start.ended_at, end.ended_at) == (None, one.arrival.to_wall(108.0))
    assert (start.rung, start.rung_reason) == ("half", "no time")
    assert start.predicted_finish == one.arrival.to_wall(110.0)


async def test_nothing_is_predicted_before_anything_was_measured() -> None:
    step = Step(Stage.AUDIO, began_s=101.0, finish_s=101.0, rung="full")
    (unknown,) = await told(job(7, arrived_s=100.0), step, predicted_s=None)
    (never,) = await told(job(7, arrived_s=100.0), step, predicted_s=float("inf"))
    assert (unknown.predicted_s, unknown.predicted_finish) == (None, None)
    assert (never.predicted_s, never.predicted_finish) == (None, None)
