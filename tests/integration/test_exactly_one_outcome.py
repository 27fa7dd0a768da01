"""Every tick has exactly one outcome, whatever dies, on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from consumer.kafka.clients import make_admin, make_plain_producer, make_reader
from consumer.kafka.ledger import CommitPoint
from consumer.kafka.publisher import (
    OutgoingRecord,
    RecordsTooLargeError,
    TransactionalPublisher,
)
from consumer.kafka.topics import create_topics
from consumer.results import DeadLetter
from schemas import MAX_TICK_BYTES
from tests.integration.conftest import MakeLane
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import Lane, assert_one_outcome_each, slots, tick
from tests.support.waiting import until
from tests.support.worker_process import worker_process

pytestmark = pytest.mark.kafka


async def values_of(lane: Lane, topic: str, isolation_level: str) -> list[bytes]:
    """Return the values of all records up to the end of a topic of one partition."""
    at = TopicPartition(topic, 0)
    reader = AIOKafkaConsumer(
        bootstrap_servers=lane.config.bootstrap_servers, isolation_level=isolation_level
    )
    reader.assign([at])
    await reader.start()
    try:
        await reader.seek_to_beginning(at)
        end = (await reader.end_offsets([at]))[at]
        values: list[bytes] = []
        end_s = time.monotonic() + 10
        while await reader.position(at) < end and time.monotonic() < end_s:
            fetched = await reader.getmany(at, timeout_ms=500)
            values += [record.value for record in fetched.get(at, [])]
        return values
    finally:
        await reader.stop()


async def test_outcome_and_offset_are_committed_together_or_not_at_all(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    results = lane.config.topics.results
    (emitted,) = await lane.emit([tick(1)])
    publisher = TransactionalPublisher(
        lane.config, TopicPartition(emitted.topic, 0), client_id="test"
    )
    outcome = OutgoingRecord(results, b"1", b"outcome", [])
    too_large = OutgoingRecord(results, b"1", bytes(2 * 1024 * 1024), [])
    point = CommitPoint(1, frozenset())
    try:
        assert await publisher.start(10) is None
        with pytest.raises(RecordsTooLargeError):
            await publisher.publish([outcome, too_large], point, 10)
        await publisher.stop()
        assert await values_of(lane, results, "read_uncommitted") == [b"outcome"]
        assert await values_of(lane, results, "read_committed") == []
        assert await lane.committed() == -1

        assert await publisher.start(10) is None
        await publisher.publish([outcome], point, 10)
        assert await values_of(lane, results, "read_committed") == [b"outcome"]
        assert await lane.committed() == 1
    finally:
        await publisher.stop()


async def test_worker_serves_every_tick_and_commits_past_the_last(make_lane: MakeLane) -> None:
    lane = await make_lane()
    async with lane.worker(ScriptedEngine(), "a"):
        emitted = await lane.emit([*map(tick, range(9)), tick(9, deadline_s=-1)])
        results = await lane.outcomes(10)
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == set(range(9))
    assert slots(results, "deadline-missed") == {9}
    assert await lane.committed() == 10


@pytest.mark.parametrize("slots_first", [0, 3])
async def test_killed_worker_is_replaced_with_one_outcome_for_each_tick(
    slots_first: int, make_lane: MakeLane
) -> None:
    lane = await make_lane(partitions=2)
    with worker_process(lane.config, "killed", seconds=0.3) as process:
        emitted = await lane.emit([tick(slot_id) for slot_id in range(12)])
        first = await lane.outcomes(slots_first, settle_s=0.15) if slots_first else []
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert len(first) < 12
    async with lane.worker(ScriptedEngine(default=Script(work_s=0.02)), "replacement"):
        results = await lane.outcomes(12)
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == set(range(12))
    by = {result.worker.id for result in results if not isinstance(result, DeadLetter)}
    assert by == ({"killed", "replacement"} if slots_first else {"replacement"})


async def test_two_workers_share_partitions_and_one_leaves(make_lane: MakeLane) -> None:
    lane = await make_lane(partitions=4)
    emitted = []
    async with lane.worker(ScriptedEngine(default=Script(work_s=0.02)), "stays") as stays:
        async with lane.worker(ScriptedEngine(default=Script(work_s=0.02)), "leaves") as leaves:
            await until(lambda: stays.accepting and leaves.accepting)
            emitted += await lane.emit([tick(slot_id) for slot_id in range(40)])
            before = await lane.outcomes(8, settle_s=0.0)
            emitted += await lane.emit([tick(slot_id) for slot_id in range(40, 60)])
        emitted += await lane.emit([tick(slot_id) for slot_id in range(60, 80)])
        results = await lane.outcomes(80)
    assert len(before) < 60
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == set(range(80))
    by = {result.worker.id for result in results if not isinstance(result, DeadLetter)}
    assert by == {"stays", "leaves"}


async def test_slots_finished_out_of_order_are_not_made_again(make_lane: MakeLane) -> None:
    lane = await make_lane()
    emitted = await lane.emit([tick(slot_id, deadline_s=600 - slot_id) for slot_id in range(6)])
    first = ScriptedEngine({0: Script(hold=asyncio.Event())})
    async with lane.worker(first, "first", shutdown_grace_s=0.0):
        before = await lane.outcomes(5)
        assert first.started == [5, 4, 3, 2, 1, 0]
        assert await lane.committed() == 0  # slot 0 is unfinished, and it is the lowest
    assert first.cancelled == [0]

    second = ScriptedEngine()
    async with lane.worker(second, "second"):
        results = await lane.outcomes(6)
    assert second.started == [0]
    assert results[:5] == before
    assert_one_outcome_each(results, emitted)
    assert await lane.committed() == 6


async def test_sigterm_finishes_the_running_slot_and_leaves_the_others(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    with worker_process(
        lane.config.model_copy(update={"shutdown_grace_s": 2.5}), "stopped", seconds=1.0
    ) as process:
        emitted = await lane.emit([tick(slot_id) for slot_id in range(8)])
        await lane.outcomes(1, settle_s=0.0)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
    before = await lane.outcomes(1)
    assert 2 <= len(before) <= 5
    async with lane.worker(ScriptedEngine(), "next"):
        results = await lane.outcomes(8)
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == set(range(8))


async def test_ticks_beyond_the_queue_limit_stay_in_kafka(make_lane: MakeLane) -> None:
    lane = await make_lane()
    hold = asyncio.Event()
    engine = ScriptedEngine({0: Script(hold=hold)})
    async with lane.worker(engine, "a", queue_limit=4) as worker:
        emitted = await lane.emit([tick(0, deadline_s=50)])
        await until(lambda: engine.started == [0])
        emitted += await lane.emit([tick(slot_id) for slot_id in range(1, 40)])
        most = 0
        for _ in range(40):
            most = max(most, worker._dispatcher.waiting)
            await asyncio.sleep(0.025)
        assert most == 4
        hold.set()
        results = await lane.outcomes(40)
    assert_one_outcome_each(results, emitted)


def tick_with(**fields: object) -> bytes:
    """Return the JSON of a tick with other values in some fields."""
    return json.dumps(json.loads(tick(1).model_dump_json()) | fields).encode()


UNREADABLE: dict[str, bytes | None] = {
    "schema_version 2 is not known": tick_with(schema_version=2),
    "deadline: Input should have timezone info": tick_with(deadline="2030-01-01T00:00:00"),
    "slot_id: Input should be greater than or equal to 0": tick_with(slot_id=-1),
    "Invalid JSON": b"\xff\xfe not json \x00",
    f"at most {MAX_TICK_BYTES} are read": b" " * (MAX_TICK_BYTES + 1),
    "no value": None,
}


async def test_unreadable_ticks_become_dead_letters_byte_for_byte_and_the_next_is_served(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    topics = lane.config.topics
    headers = [("traceparent", b"\xff not text"), ("twice", b"1"), ("twice", b"2"), ("none", b"")]
    producer = make_plain_producer(lane.config, client_id="test")
    await producer.start()
    for value in UNREADABLE.values():
        await producer.send_and_wait(topics.ticks, value, key=b"\x00key", headers=headers)
    await producer.stop()
    emitted = await lane.emit([tick(7)])
    async with lane.worker(ScriptedEngine(), "a"):
        results = await lane.outcomes(len(UNREADABLE) + 1)
    assert slots(results, "slot-complete") == {7}
    assert await lane.committed() == emitted[0].offset + 1

    reader = make_reader(lane.config, topics.dead_letter, client_id="test")
    await reader.start()
    try:
        fetched = await reader.getmany(timeout_ms=10_000, max_records=50)
        (records,) = fetched.values()
    finally:
        await reader.stop()
    by_offset = sorted(records, key=lambda record: int(dict(record.headers)["__dlq.errors.offset"]))
    for offset, (record, (reason, value)) in enumerate(
        zip(by_offset, UNREADABLE.items(), strict=True)
    ):
        assert (record.key, record.value) == (b"\x00key", value)
        assert list(record.headers[: len(headers)]) == headers
        added = {name: text.decode() for name, text in record.headers[len(headers) :]}
        assert reason in added.pop("__dlq.errors.message")
        assert added == {
            "__dlq.errors.topic": topics.ticks,
            "__dlq.errors.partition": "0",
            "__dlq.errors.offset": str(offset),
            "__dlq.errors.group": lane.config.group_id,
        }


async def test_dead_letter_too_large_for_its_topic_says_where_the_tick_is(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane(dead_letter={"max.message.bytes": "100000"})
    producer = make_plain_producer(lane.config, client_id="test")
    await producer.start()
    await producer.send_and_wait(lane.config.topics.ticks, bytes(300_000), key=b"k")
    await producer.stop()
    await lane.emit([tick(7)])
    async with lane.worker(ScriptedEngine(), "a"):
        results = await lane.outcomes(2)
    assert slots(results, "slot-complete") == {7}
    (letter,) = (result for result in results if isinstance(result, DeadLetter))
    assert not letter.value
    assert letter.source.offset == 0
    assert "left out" in letter.reason


async def test_groups_and_topics_whose_names_run_together_do_not_fence_each_other(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    topic = lane.config.topics.ticks
    admin = make_admin(lane.config, client_id="test")
    await create_topics(admin, {f"b-{topic}": 1})
    publishers = []
    for group, ticks in (("a-b", topic), ("a", f"b-{topic}")):
        topics = lane.config.topics.model_copy(update={"ticks": ticks})
        config = lane.config.model_copy(update={"group_id": group, "topics": topics})
        publishers.append(
            TransactionalPublisher(config, TopicPartition(ticks, 0), client_id="test")
        )
    point = CommitPoint(1, frozenset())
    try:
        for publisher in publishers:
            assert await publisher.start(10) is None
        for number, publisher in enumerate(publishers):
            value = b"outcome %d" % number
            outcome = OutgoingRecord(lane.config.topics.results, b"1", value, [])
            await publisher.publish([outcome], point, 10)
    finally:
        for publisher in publishers:
            await publisher.stop()
    values = await values_of(lane, lane.config.topics.results, "read_committed")
    assert values == [b"outcome 0", b"outcome 1"]
