"""Dead letters around the size that their topic takes: only what is too large loses its content."""

from __future__ import annotations

import time

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from consumer.kafka.clients import make_plain_producer, make_reader
from consumer.results import DeadLetter
from tests.integration.conftest import MakeLane
from tests.support.engines import ScriptedEngine
from tests.support.lane import Lane, place, slots, tick

pytestmark = pytest.mark.kafka

LIMIT_BYTES = 100_000
# The batch's header, and of its one record the length (3 bytes here), attributes and two deltas.
BATCH_FRAMING_BYTES = 61 + 3 + 1 + 1 + 1


async def emit_unreadable(lane: Lane, values: list[bytes], headers: dict[int, int]) -> None:
    """Write values that are no ticks, some with a header of so many bytes."""
    producer = make_plain_producer(lane.config, client_id="test")
    await producer.start()
    try:
        for index, value in enumerate(values):
            extra = [("big", bytes(headers[index]))] if index in headers else []
            await producer.send_and_wait(lane.config.topics.ticks, value, headers=extra)
    finally:
        await producer.stop()


async def letters_of(lane: Lane, count: int) -> dict[int, DeadLetter]:
    results = await lane.outcomes(count)
    return {place(r).offset: r for r in results if isinstance(r, DeadLetter)}


async def test_only_the_dead_letter_whose_headers_are_too_large_loses_its_content(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane(dead_letter={"max.message.bytes": str(LIMIT_BYTES)})
    values = [b"x" * 40_000 for _ in range(30)]
    values[17] = b"small"
    await emit_unreadable(lane, values, {17: LIMIT_BYTES})
    await lane.emit([tick(7)])
    started_s = time.monotonic()
    async with lane.worker(ScriptedEngine(), "a"):
        results = await lane.outcomes(31)
    assert slots(results, "slot-complete") == {7}
    letters = {place(r).offset: r for r in results if isinstance(r, DeadLetter)}
    assert [offset for offset, letter in letters.items() if not letter.value] == [17]
    assert "left out" in letters[17].reason
    assert time.monotonic() - started_s < 20


async def test_hundred_dead_letters_just_over_the_limit_take_a_few_transactions(
    make_lane: MakeLane, caplog: pytest.LogCaptureFixture
) -> None:
    lane = await make_lane(dead_letter={"max.message.bytes": str(LIMIT_BYTES)})
    values = [b"x" * (LIMIT_BYTES + index) for index in range(100)]
    await emit_unreadable(lane, values, {})
    async with lane.worker(ScriptedEngine(), "a", queue_limit=200):
        letters = await letters_of(lane, 100)
    assert not any(letter.value for letter in letters.values())
    failed = [r for r in caplog.records if r.getMessage().startswith("Transaction failed")]
    assert len(failed) < 20


@pytest.mark.parametrize("beyond", [0, 1])
async def test_limit_is_counted_with_key_value_headers_and_framing(
    beyond: int, make_lane: MakeLane
) -> None:
    """The largest dead letter that fits keeps its content, one byte more does not."""
    lane = await make_lane(dead_letter={"max.message.bytes": str(LIMIT_BYTES)})
    # What a dead letter of this lane needs beside its value is seen from a first one.
    await emit_unreadable(lane, [b"{" * 50_000], {})
    async with lane.worker(ScriptedEngine(), "a"):
        await letters_of(lane, 1)
        size = await stored_batch_bytes(lane)
        await emit_unreadable(lane, [b"{" * (50_000 + LIMIT_BYTES - size + beyond)], {})
        letters = await letters_of(lane, 2)
    assert bool(letters[1].value) is (beyond == 0)


async def stored_batch_bytes(lane: Lane) -> int:
    """Return the size of the one batch in the dead letters, as the broker counts it."""
    reader = make_reader(lane.config, lane.config.topics.dead_letter, client_id="test")
    await reader.start()
    try:
        ((record,),) = (await reader.getmany(timeout_ms=10_000)).values()
    finally:
        await reader.stop()
    size = DefaultRecordBatchBuilder.size_of(record.key, record.value, list(record.headers))
    return BATCH_FRAMING_BYTES + int(size)


async def test_small_limit_is_found_although_records_share_a_batch(make_lane: MakeLane) -> None:
    lane = await make_lane(dead_letter={"max.message.bytes": "3000"})
    values = [b"x" * (2000 if index % 4 else 4000) for index in range(12)]
    await emit_unreadable(lane, values, {})
    async with lane.worker(ScriptedEngine(), "a"):
        letters = await letters_of(lane, 12)
    assert [offset for offset in sorted(letters) if not letters[offset].value] == [0, 4, 8]
