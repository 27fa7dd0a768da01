"""`kafka.duplicate_window_s`: the same slot again is one video and two outcomes. Real Kafka."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka import AIOKafkaProducer

from consumer.kafka.clients import make_reader
from consumer.results import DeadLetter, Result
from tests.integration.conftest import MakeLane
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import Lane, assert_one_outcome_each, slots, tick
from tests.support.waiting import until

pytestmark = pytest.mark.kafka

WINDOW_S = 60.0


async def emit_aged(lane: Lane, slot_id: int, *ages_s: float) -> None:
    """Emit ticks for one slot that were written so many seconds ago."""
    producer = AIOKafkaProducer(bootstrap_servers=lane.config.bootstrap_servers)
    await producer.start()
    try:
        for age_s in ages_s:
            await producer.send_and_wait(
                lane.config.topics.ticks,
                tick(slot_id).model_dump_json().encode(),
                partition=0,
                timestamp_ms=round((time.time() - age_s) * 1000),
            )
    finally:
        await producer.stop()


def duplicates(results: list[Result]) -> list[int]:
    """Return the offsets of the dead letters, all of which must be about duplicates."""
    letters = [result for result in results if isinstance(result, DeadLetter)]
    assert all(letter.reason.startswith("duplicate of offset ") for letter in letters)
    return sorted(letter.source.offset for letter in letters)


async def test_same_slot_again_becomes_a_dead_letter_that_names_the_first(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    engine = ScriptedEngine()
    async with lane.worker(engine, "a", duplicate_window_s=WINDOW_S):
        emitted = await lane.emit([tick(1), tick(2), tick(1), tick(1, channel="other"), tick(1)])
        results = await lane.outcomes(5)
    assert_one_outcome_each(results, emitted)
    assert duplicates(results) == [2, 4]
    assert sorted(engine.started) == [1, 1, 2]
    reader = make_reader(lane.config, lane.config.topics.dead_letter, client_id="test")
    await reader.start()
    try:
        (records,) = (await reader.getmany(timeout_ms=10_000)).values()
    finally:
        await reader.stop()
    assert {dict(record.headers)["__dlq.errors.duplicate_of"] for record in records} == {b"0"}


async def test_same_slot_again_after_a_restart_is_a_duplicate_without_a_database(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    async with lane.worker(ScriptedEngine(), "a", duplicate_window_s=WINDOW_S):
        emitted = await lane.emit([tick(1), tick(2)])
        await lane.outcomes(2)
    engine = ScriptedEngine()
    async with lane.worker(engine, "b", duplicate_window_s=WINDOW_S):
        emitted += await lane.emit([tick(2), tick(3)])
        results = await lane.outcomes(4)
    assert_one_outcome_each(results, emitted)
    assert duplicates(results) == [2]
    assert engine.started == [3]


async def test_slot_is_made_again_after_the_window_also_across_a_restart(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    await emit_aged(lane, 1, 500.0, 400.0)
    async with lane.worker(ScriptedEngine(), "a", duplicate_window_s=WINDOW_S):
        assert duplicates(await lane.outcomes(2)) == []
    await emit_aged(lane, 1, 300.0, 299.0)
    async with lane.worker(ScriptedEngine(), "b", duplicate_window_s=WINDOW_S):
        assert duplicates(await lane.outcomes(4)) == [3]


async def test_tick_that_is_delivered_again_is_not_a_duplicate_of_itself(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    emitted = await lane.emit([tick(1, deadline_s=50), tick(2, deadline_s=40), tick(2)])
    engine = ScriptedEngine({1: Script(hold=asyncio.Event())})
    async with lane.worker(engine, "a", duplicate_window_s=WINDOW_S, shutdown_grace_s=0.0):
        await until(lambda: engine.started == [2, 1])
        assert duplicates(await lane.outcomes(2)) == [2]
    # Offset 0 comes again; offset 1, answered above it, must still be known as the first.
    emitted += await lane.emit([tick(2)])
    again = ScriptedEngine()
    async with lane.worker(again, "b", duplicate_window_s=WINDOW_S):
        results = await lane.outcomes(4)
    assert_one_outcome_each(results, emitted)
    assert again.started == [1]
    assert duplicates(results) == [2, 3]


async def test_without_a_window_each_tick_is_a_slot_of_its_own(make_lane: MakeLane) -> None:
    lane = await make_lane()
    engine = ScriptedEngine()
    async with lane.worker(engine, "a"):
        await lane.emit([tick(1), tick(1)])
        results = await lane.outcomes(2)
    assert duplicates(results) == []
    assert slots(results, "slot-complete") == {1}
    assert engine.started == [1, 1]
