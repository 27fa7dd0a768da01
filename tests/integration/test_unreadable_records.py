"""What one partition's bytes do to another: nothing. On a real Kafka, with damage on its disk."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from consumer.kafka.clients import make_reader
from consumer.kafka.reader import FIRST_RETRY_S
from consumer.results import DeadLetter
from schemas import SlotTick
from tests.integration.conftest import MakeLane
from tests.support.cases import slow_but
from tests.support.engines import ScriptedEngine
from tests.support.lane import Lane, assert_one_outcome_each, place, slots, tick
from tests.support.odd_records import (
    emit_with_header_name,
    flip_a_bit,
    overwrite,
    set_length,
)
from tests.support.shared_kafka import SharedKafka
from tests.support.waiting import until

pytestmark = pytest.mark.kafka

HEALTHY, HARMED = 0, 1
LENGTHS = (-1, 0, 40, 2**31 - 1)
CODECS = ("lz4", "snappy", "zstd", "gzip")


async def emit_to(
    lane: Lane, partition: int, ticks: list[SlotTick], codec: str | None = None
) -> list[RecordMetadata]:
    """Write ticks to one partition, all in one batch where they fit."""
    producer = AIOKafkaProducer(
        bootstrap_servers=lane.config.bootstrap_servers, compression_type=codec, linger_ms=50
    )
    await producer.start()
    try:
        sent = [
            await producer.send(
                lane.config.topics.ticks, each.model_dump_json().encode(), partition=partition
            )
            for each in ticks
        ]
        return list(await asyncio.gather(*sent))
    finally:
        await producer.stop()


async def emit_bad_header(lane: Lane, partition: int, name: bytes, value: bytes) -> None:
    servers, topic = lane.config.bootstrap_servers, lane.config.topics.ticks
    await emit_with_header_name(servers, topic, partition, name, value)


@pytest.mark.parametrize("codec", CODECS)
async def test_tick_in_every_codec_is_read_and_its_neighbour_loses_nothing(
    codec: str, make_lane: MakeLane
) -> None:
    lane = await make_lane(partitions=2)
    emitted = await emit_to(lane, HEALTHY, [tick(slot_id) for slot_id in range(50)])
    emitted += await emit_to(lane, HARMED, [tick(slot_id) for slot_id in range(50, 55)], codec)
    async with lane.worker(ScriptedEngine(), "a"):
        results = await lane.outcomes(55)
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == set(range(55))


async def test_flipped_bit_in_a_stored_batch_stops_its_partition_alone(
    kafka: SharedKafka, make_lane: MakeLane, caplog: pytest.LogCaptureFixture
) -> None:
    lane = await make_lane(partitions=2)
    before = await emit_to(lane, HARMED, [tick(1), tick(2)])
    await emit_to(lane, HARMED, [tick(77_777_777), tick(4)])
    flip_a_bit(kafka, lane.config.topics.ticks, HARMED, b"77777777")
    healthy = await emit_to(lane, HEALTHY, [tick(slot_id) for slot_id in range(100, 300)])
    engine = ScriptedEngine()
    async with lane.worker(engine, "a") as worker:
        await lane.outcomes(202)
        await until(lambda: bool(worker.standing))
        delays_s = []
        for slot_id in range(300, 320):  # over several tries to read the damaged batch again
            started_s = time.monotonic()
            healthy += await emit_to(lane, HEALTHY, [tick(slot_id)])
            await until(lambda: slot_id in engine.finished)  # noqa: B023
            delays_s.append(time.monotonic() - started_s)
        results = await lane.outcomes(222)
        ((partition, fault),) = worker.standing.items()
    assert_one_outcome_each(results, [*before, *healthy])
    assert (partition.partition, fault.offset) == (HARMED, 2)
    assert await lane.committed(HARMED) == 2
    assert await lane.committed(HEALTHY) == 220
    assert max(delays_s) < 1.0
    told = [r for r in caplog.records if r.getMessage().startswith("Partition stands still")]
    assert [(r.partition, r.offset) for r in told] == [(HARMED, 2)]  # type: ignore[attr-defined]


async def test_partition_that_stood_still_is_read_again_once_its_bytes_are_whole(
    kafka: SharedKafka, make_lane: MakeLane
) -> None:
    lane = await make_lane(partitions=2)
    emitted = await emit_to(lane, HARMED, [tick(77_777_777), tick(4)])
    flip_a_bit(kafka, lane.config.topics.ticks, HARMED, b"77777777")
    async with lane.worker(ScriptedEngine(), "a") as worker:
        await until(lambda: bool(worker.standing))
        flip_a_bit(kafka, lane.config.topics.ticks, HARMED, b"67777777")
        results = await lane.outcomes(2)
        await until(lambda: not worker.standing)
    assert_one_outcome_each(results, emitted)


@pytest.mark.parametrize(
    "case",
    slow_but(
        [(-1, True), (0, False), (40, True), (2**31 - 1, False)],
        itertools.product(LENGTHS, (True, False)),
    ),
    ids=lambda case: f"{case[0]}, {'read' if case[1] else 'nothing'} before",
)
async def test_batch_with_a_wrong_length_stops_its_partition_alone_and_is_reported_once(
    case: tuple[int, bool],
    kafka: SharedKafka,
    make_lane: MakeLane,
    caplog: pytest.LogCaptureFixture,
) -> None:
    length, read_before = case
    lane = await make_lane(partitions=2)
    before = await emit_to(lane, HARMED, [tick(1), tick(2)]) if read_before else []
    first = len(before)
    harmed = await emit_to(lane, HARMED, [tick(77_777_777), tick(4)])
    place_of = set_length(kafka, lane.config.topics.ticks, HARMED, b"77777777", length)
    engine = ScriptedEngine()
    async with lane.worker(engine, "a") as worker:
        await until(lambda: bool(worker.standing), 20.0)
        healthy = await emit_to(lane, HEALTHY, [tick(slot_id) for slot_id in range(100, 120)])
        await lane.outcomes(first + 20)
        ((partition, fault),) = worker.standing.items()
        assert (partition.partition, fault.offset) == (HARMED, first)
        asked_before = len(caplog.records)
        await asyncio.sleep(3 * FIRST_RETRY_S)  # over several tries
        # The client itself would ask without a break, and log each time.
        assert len(caplog.records) - asked_before < 20
        told = [r for r in caplog.records if r.getMessage().startswith("Partition stands still")]
        assert [(r.partition, r.offset) for r in told] == [(HARMED, first)]  # type: ignore[attr-defined]
        assert told[0].reason  # type: ignore[attr-defined]
        overwrite(place_of[0], place_of[1], place_of[2])
        results = await lane.outcomes(first + 22)
        await until(lambda: not worker.standing)
    assert_one_outcome_each(results, [*before, *harmed, *healthy])


async def test_healthy_partition_goes_on_within_a_second_of_a_neighbour_s_damage(
    kafka: SharedKafka, make_lane: MakeLane
) -> None:
    lane = await make_lane(partitions=2)
    engine = ScriptedEngine()
    async with lane.worker(engine, "a") as worker:
        await until(lambda: worker.accepting)
        await emit_to(lane, HARMED, [tick(77_777_777)])
        await lane.outcomes(1, settle_s=0.0)
        await emit_bad_header(lane, HARMED, b"\xff\xfe", b"no tick")
        delays_s = []
        for slot_id in range(20):
            started_s = time.monotonic()
            await emit_to(lane, HEALTHY, [tick(slot_id)])
            await until(lambda: slot_id in engine.finished, 10.0)  # noqa: B023
            delays_s.append(time.monotonic() - started_s)
    assert max(delays_s) < 1.0


@pytest.mark.parametrize("name", [b"\xff\xfe", b"ok\xc3", b"\x80" * 300])
async def test_header_name_that_is_not_utf8_becomes_a_dead_letter_and_stops_nobody(
    name: bytes, make_lane: MakeLane
) -> None:
    lane = await make_lane(partitions=2)
    value = tick(9).model_dump_json().encode()
    healthy = await emit_to(lane, HEALTHY, [tick(slot_id) for slot_id in range(100, 200)])
    await emit_bad_header(lane, HARMED, name, value)
    later = await emit_to(lane, HARMED, [tick(slot_id) for slot_id in range(10, 15)])
    async with lane.worker(ScriptedEngine(), "a"):
        results = await lane.outcomes(108)
    (letter,) = (result for result in results if isinstance(result, DeadLetter))
    assert (letter.source.partition, letter.source.offset) == (HARMED, 1)
    assert (letter.key, letter.value) == (b"k", value)
    assert "is not UTF-8" in letter.reason
    answered = {place(result)[1:] for result in results}
    assert answered == {(at.partition, at.offset) for at in [*healthy, *later]} | {
        (HARMED, 0),
        (HARMED, 1),
        (HARMED, 2),
    }
    assert len(results) == len(answered)
    assert await lane.committed(HARMED) == 8

    reader = make_reader(lane.config, lane.config.topics.dead_letter, client_id="test")
    await reader.start()
    try:
        ((record,),) = (await reader.getmany(timeout_ms=10_000)).values()
    finally:
        await reader.stop()
    escaped = name.decode("utf-8", "backslashreplace")
    assert list(record.headers[:3]) == [("before", b"1"), (escaped, b"x"), ("after", b"2")]


async def test_many_bad_header_names_do_not_hold_up_the_ticks_behind_them(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane(partitions=1)
    value = tick(9).model_dump_json().encode()
    for _ in range(40):
        await emit_bad_header(lane, 0, b"\xff\xfe", value)
    async with lane.worker(ScriptedEngine(), "a"):
        results = await lane.outcomes(120)
    assert sum(isinstance(result, DeadLetter) for result in results) == 40


async def test_ticks_deleted_before_they_were_read_are_told_and_the_rest_is_served(
    kafka: SharedKafka, make_lane: MakeLane, caplog: pytest.LogCaptureFixture
) -> None:
    lane = await make_lane()
    await emit_to(lane, 0, [tick(slot_id) for slot_id in range(5)])
    async with lane.worker(ScriptedEngine(), "a"):
        await lane.outcomes(5)
    await emit_to(lane, 0, [tick(slot_id) for slot_id in range(5, 10)])
    await delete_before(lane, 8)
    async with lane.worker(ScriptedEngine(), "b"):
        results = await lane.outcomes(7)
    assert slots(results, "slot-complete") == {0, 1, 2, 3, 4, 8, 9}
    assert await lane.committed() == 10
    (told,) = [r for r in caplog.records if "deleted by their topic's retention" in r.getMessage()]
    assert (told.offset, told.next_offset) == (5, 8)  # type: ignore[attr-defined]


async def delete_before(lane: Lane, offset: int) -> None:
    """Delete a topic's records below an offset, as its retention would."""
    from aiokafka import TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.admin.records_to_delete import RecordsToDelete

    admin = AIOKafkaAdminClient(bootstrap_servers=lane.config.bootstrap_servers)
    await admin.start()
    try:
        at = TopicPartition(lane.config.topics.ticks, 0)
        await admin.delete_records({at: RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()
