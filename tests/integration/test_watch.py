"""`vortex watch` and `vortex tick` on a real Kafka: foreign records, old ones, no topics."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from consumer.kafka.clients import make_plain_producer
from consumer.results import Result, read_results
from schemas import outcome_json
from tests.integration.conftest import MakeLane
from tests.support.command_line import complaint, kafka_variables, vortex
from tests.support.lane import Lane
from tests.support.results import missed

pytestmark = pytest.mark.kafka


async def write(lane: Lane, *values: bytes | None) -> None:
    producer = make_plain_producer(lane.config, client_id="test")
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(lane.config.topics.results, value, key=b"1")
    finally:
        await producer.stop()


async def test_foreign_records_are_left_out_and_what_follows_is_read(make_lane: MakeLane) -> None:
    lane = await make_lane()
    await write(lane, b"not json", None, b"{}", outcome_json(missed(7)))
    (result,) = await lane.outcomes(1)
    assert result == missed(7)


async def test_without_from_start_nothing_old_is_read(make_lane: MakeLane) -> None:
    lane = await make_lane()
    await write(lane, *(outcome_json(missed(slot)) for slot in range(50)))

    async def first_seen() -> Result:
        async with aclosing(read_results(lane.config, from_start=False)) as results:
            assert await anext(results) is None  # from here on nothing is missed
            await write(lane, outcome_json(missed(99)))
            async for result in results:
                if result is not None:
                    return result
        raise AssertionError("results never end")

    for _ in range(5):
        seen = await asyncio.wait_for(first_seen(), 30)
        assert seen == missed(99)


@pytest.mark.parametrize("command", ["tick", "watch"])
async def test_missing_topic_is_one_line(command: str, make_lane: MakeLane) -> None:
    lane = await make_lane()
    missing = {"ticks": "not.t", "results": "not.r", "dead_letter": "not.d"}
    topics = lane.config.topics.model_copy(update=missing)
    variables = kafka_variables(lane.config.model_copy(update={"topics": topics}))
    said = complaint(await asyncio.to_thread(vortex, command, **variables), exit_code=3)
    assert "has no topic not." in said
    assert "create-topics" in said
