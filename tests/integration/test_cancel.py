"""Slots that an operator cancels, on a real Kafka: each keeps its one outcome."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from consumer.cancels import reading_cancels
from schemas import DeadlineMissed, MissReason
from tests.integration.conftest import MakeLane, MakeTopic
from tests.support.command_line import complaint, kafka_variables, vortex
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import Lane, assert_one_outcome_each, slots, tick
from tests.support.waiting import until

pytestmark = pytest.mark.kafka

WORKERS = ("a", "b")


@pytest.fixture
async def lane(make_lane: MakeLane, make_topic: MakeTopic) -> Lane:
    """Give a lane of two partitions with a topic of orders."""
    made = await make_lane(partitions=2)
    topics = made.config.topics.model_copy(update={"control": await make_topic("control")})
    return Lane(made.config.model_copy(update={"topics": topics}))


@contextlib.asynccontextmanager
async def worker(lane: Lane, engine: ScriptedEngine, worker_id: str) -> AsyncIterator[None]:
    async with (
        lane.worker(engine, worker_id) as running,
        reading_cancels(lane.config, worker_id, running.cancel),
    ):
        yield


async def cancel(lane: Lane, *arguments: str) -> None:
    done = await asyncio.to_thread(vortex, "cancel", *arguments, **kafka_variables(lane.config))
    assert done.returncode == 0, done.stderr


async def test_running_waiting_and_unread_slots_are_cancelled_and_later_ticks_made(
    lane: Lane,
) -> None:
    held = asyncio.Event()
    engines = {name: ScriptedEngine(default=Script(hold=held)) for name in WORKERS}
    emitted = await lane.emit([tick(1), tick(9)])
    await cancel(lane, "main", "9")  # before any worker runs
    async with worker(lane, engines["a"], "a"), worker(lane, engines["b"], "b"):
        await until(lambda: any(engine.running == 1 for engine in engines.values()))
        emitted += await lane.emit([tick(slot_id) for slot_id in range(2, 8)])
        await asyncio.gather(
            cancel(lane, "main", "1", "--reason", "the show was dropped"),
            cancel(lane, "main", "2"),
            cancel(lane, "other", "3"),
        )
        await until(lambda: any(1 in engine.cancelled for engine in engines.values()))
        emitted += await lane.emit([tick(1)])  # after the order
        held.set()
        results = await lane.outcomes(len(emitted))
    assert_one_outcome_each(results, emitted)
    missed = {each.slot_id: each for each in results if isinstance(each, DeadlineMissed)}
    assert missed.keys() == {1, 2, 9}
    assert {each.reason for each in missed.values()} == {MissReason.PREDICTED}
    assert all(each.cancelled for each in missed.values())
    assert missed[1].detail == "cancelled by an operator: the show was dropped"
    assert missed[1].stage is not None
    assert slots(results, "slot-complete") == {1, 3, 4, 5, 6, 7}


async def test_cancel_after_the_outcome_changes_nothing(lane: Lane) -> None:
    emitted = await lane.emit([tick(1)])
    async with worker(lane, ScriptedEngine(), "a"):
        await lane.outcomes(1)
        await cancel(lane, "main", "1")
        emitted += await lane.emit([tick(2)])
        results = await lane.outcomes(2)
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == {1, 2}


async def test_cancelled_slot_that_moves_to_another_worker_is_not_made_there(lane: Lane) -> None:
    """All workers know the order, so it does not matter which of them decides."""
    stuck = ScriptedEngine(default=Script(hold=asyncio.Event()))
    emitted = await lane.emit([tick(1)])
    async with worker(lane, stuck, "a"):
        await until(lambda: stuck.running == 1)
    await cancel(lane, "main", "1")
    fresh = ScriptedEngine(default=Script(hold=asyncio.Event()))
    async with worker(lane, fresh, "b"):
        results = await lane.outcomes(1)
    assert_one_outcome_each(results, emitted)
    assert isinstance(results[0], DeadlineMissed)
    assert results[0].cancelled


async def test_command_says_in_one_line_what_is_wrong(lane: Lane) -> None:
    variables = kafka_variables(lane.config)
    run = asyncio.to_thread
    wrong = complaint(await run(vortex, "cancel", "no channel", "1", **variables), 2)
    assert "channel" in wrong
    off = {**variables, "VORTEX__KAFKA__TOPICS__CONTROL": "null"}
    assert "kafka.topics.control is null" in complaint(
        await run(vortex, "cancel", "main", "1", **off), 2
    )
    gone = {**variables, "VORTEX__KAFKA__TOPICS__CONTROL": "nowhere"}
    assert "has no topic nowhere" in complaint(await run(vortex, "cancel", "main", "1", **gone), 3)
