"""Records that are wrong, odd or malicious, through a real Kafka: each has its one outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from consumer.intake import UnreadableTickError, read_tick
from consumer.job import TickKey
from consumer.results import DeadLetter
from tests.integration.conftest import MakeLane
from tests.support.engines import ScriptedEngine
from tests.support.hostile_ticks import HostileRecord, hostile_records
from tests.support.jobs import record
from tests.support.lane import Lane, assert_one_outcome_each, place, tick

pytestmark = pytest.mark.kafka

PARTITIONS = 3
SEED = 20261124
MOST_S_PER_TICK = 0.05
"""Far more than one takes; a partition that stands still takes longer."""


async def emit(lane: Lane, records: Sequence[HostileRecord]) -> list[RecordMetadata]:
    producer = AIOKafkaProducer(bootstrap_servers=lane.config.bootstrap_servers)
    await producer.start()
    try:
        sent = []
        for number, each in enumerate(records):
            # aiokafka refuses a record that has neither; an empty value is as unreadable.
            value = b"" if each.key is None and each.value is None else each.value
            sent.append(
                await producer.send(
                    lane.config.topics.ticks,
                    value,
                    key=each.key,
                    headers=each.headers,
                    partition=number % PARTITIONS,
                )
            )
        return list(await asyncio.gather(*sent))
    finally:
        await producer.stop()


def readable(each: HostileRecord) -> bool:
    try:
        read_tick(record(each.value, key=each.key, headers=each.headers))
    except UnreadableTickError:
        return False
    return True


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(300),
        pytest.param(10_000, marks=(pytest.mark.slow, pytest.mark.timeout(900))),
    ],
)
async def test_every_hostile_record_has_one_outcome_and_stops_no_partition(
    count: int, make_lane: MakeLane
) -> None:
    lane = await make_lane(partitions=PARTITIONS)
    records = list(hostile_records(SEED, count))
    emitted = await emit(lane, records)
    good = [tick(10**9 + number) for number in range(PARTITIONS)]
    emitted += await emit(
        lane, [HostileRecord(None, each.model_dump_json().encode(), []) for each in good]
    )
    started_s = time.monotonic()
    async with lane.worker(ScriptedEngine(), "a") as worker:
        results = await lane.outcomes(len(emitted))
        assert not worker.standing
    assert time.monotonic() - started_s < 30 + MOST_S_PER_TICK * count
    assert_one_outcome_each(results, emitted)
    letters = {place(result) for result in results if isinstance(result, DeadLetter)}
    unreadable = {
        TickKey(at.topic, at.partition, at.offset)
        for each, at in zip(records, emitted, strict=False)
        if not readable(each)
    }
    assert letters == unreadable
    assert 0.2 * count < len(unreadable) < 0.9 * count  # the generator makes both kinds
    for partition in range(PARTITIONS):
        assert await lane.committed(partition) >= count // PARTITIONS
