"""`vortex partitions`: what it shows of a partition, and how it goes past damage. Real Kafka."""

from __future__ import annotations

import asyncio
import json

import pytest

from consumer.kafka.clients import make_reader
from consumer.results import DeadLetter
from tests.integration.conftest import MakeLane
from tests.integration.test_unreadable_records import HARMED, HEALTHY, emit_to
from tests.support.command_line import complaint, kafka_variables, vortex
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import Lane, assert_one_outcome_each, slots, tick
from tests.support.odd_records import flip_a_bit, set_length
from tests.support.shared_kafka import SharedKafka
from tests.support.waiting import until

pytestmark = pytest.mark.kafka


async def partitions(lane: Lane, *arguments: str, **keywords: str):  # type: ignore[no-untyped-def]
    variables = kafka_variables(lane.config)
    return await asyncio.to_thread(vortex, "partitions", *arguments, **variables, **keywords)


async def states(lane: Lane) -> list[dict[str, object]]:
    done = await partitions(lane, "--json")
    assert done.returncode in (0, 1), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def dead_letters(lane: Lane) -> list[tuple[bytes, dict[str, str]]]:
    """Return value and added headers of each dead letter, by offset."""
    reader = make_reader(lane.config, lane.config.topics.dead_letter, client_id="test")
    await reader.start()
    try:
        fetched = await reader.getmany(timeout_ms=10_000, max_records=100)
    finally:
        await reader.stop()
    letters = [
        (record.value, {name: value.decode() for name, value in record.headers if "__dlq" in name})
        for records in fetched.values()
        for record in records
    ]
    return sorted(letters, key=lambda letter: int(letter[1]["__dlq.errors.offset"]))


async def test_table_shows_position_lag_window_and_damage_without_a_worker(
    kafka: SharedKafka, make_lane: MakeLane
) -> None:
    lane = await make_lane(partitions=2)
    await emit_to(lane, HEALTHY, [tick(slot_id, deadline_s=90 - slot_id) for slot_id in range(5)])
    engine = ScriptedEngine({0: Script(hold=asyncio.Event())})
    async with lane.worker(engine, "a", shutdown_grace_s=0.0):
        await lane.outcomes(4)
    await emit_to(lane, HARMED, [tick(1)])
    await emit_to(lane, HARMED, [tick(77_777_777), tick(3)])
    flip_a_bit(kafka, lane.config.topics.ticks, HARMED, b"77777777")

    healthy, harmed = await states(lane)
    assert (healthy["committed"], healthy["log_end"], healthy["lag"]) == (0, 5, 1)
    assert (healthy["done_above"], healthy["window_used"]) == (4, 4)
    assert healthy["standing_at"] is None
    assert (harmed["committed"], harmed["log_end"], harmed["lag"]) == (None, 3, 3)
    assert harmed["standing_at"] == 1
    assert "CRC" in str(harmed["standing_because"])

    shown = await partitions(lane)
    assert shown.returncode == 1
    assert f"{lane.config.topics.ticks}/1" in shown.stdout
    assert "at 1: CorruptRecordException" in " ".join(shown.stdout.split())


@pytest.mark.parametrize("damage", ["bit", "length"])
async def test_skip_goes_past_damage_alone_while_a_worker_runs_and_every_tick_has_one_outcome(
    damage: str, kafka: SharedKafka, make_lane: MakeLane
) -> None:
    lane = await make_lane(partitions=2)
    topic = lane.config.topics.ticks
    emitted = await emit_to(lane, HARMED, [tick(1), tick(2)])
    emitted += await emit_to(lane, HARMED, [tick(77_777_777), tick(4)])
    held = asyncio.Event()
    engine = ScriptedEngine({2: Script(hold=held)})
    if damage == "bit":
        emitted += await emit_to(lane, HARMED, [tick(5), tick(6)])
        flip_a_bit(kafka, topic, HARMED, b"77777777")
    else:  # nothing behind it can be found, until the file's index has an entry
        set_length(kafka, topic, HARMED, b"77777777", 2**31 - 1)
    async with lane.worker(engine, "a") as worker:
        await until(lambda: bool(worker.standing) and engine.started == [1, 2])
        done = await partitions(lane, "skip", f"{topic}/{HARMED}", "--yes")
        assert done.returncode == 0, done.stderr
        assert "dead letters written: 2" in done.stdout
        assert "cannot be read: 2 to 3" in done.stdout
        await until(lambda: not worker.standing)
        held.set()
        results = await lane.outcomes(len(emitted))
        emitted += await emit_to(lane, HEALTHY, [tick(8)])
        results = await lane.outcomes(len(emitted))
    assert_one_outcome_each(results, emitted)
    assert engine.started.count(2) == 1  # adopted, not made again
    assert slots(results, "slot-complete") == {1, 2, 8} | ({5, 6} if damage == "bit" else set())
    assert await lane.committed(HARMED) == len(emitted) - 1
    letters = await dead_letters(lane)
    assert [letter[1]["__dlq.errors.offset"] for letter in letters] == ["2", "3"]
    for value, headers in letters:
        assert not value
        assert headers["__dlq.errors.topic"] == topic
        assert headers["__dlq.errors.partition"] == str(HARMED)
        assert "skipped by an operator" in headers["__dlq.errors.message"]
        assert "cannot be read" in headers["__dlq.errors.message"]


async def test_skip_to_answers_only_what_has_no_outcome_with_its_bytes(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    emitted = await emit_to(lane, 0, [tick(slot, deadline_s=90 - slot) for slot in range(6)])
    engine = ScriptedEngine({0: Script(hold=asyncio.Event())})
    async with lane.worker(engine, "a", shutdown_grace_s=0.0):
        await lane.outcomes(5)
    emitted += await emit_to(lane, 0, [tick(7), tick(8)])
    done = await partitions(lane, "skip", f"{lane.config.topics.ticks}/0", "--to", "7", "--yes")
    assert done.returncode == 0, done.stderr
    assert await lane.committed() == 7
    async with lane.worker(ScriptedEngine(), "b"):
        results = await lane.outcomes(8)
    assert_one_outcome_each(results, emitted)
    skipped = sorted(each.source.offset for each in results if isinstance(each, DeadLetter))
    assert skipped == [0, 6]
    (first, _) = await dead_letters(lane)
    assert json.loads(first[0])["slot_id"] == 0


async def test_skip_of_a_healthy_partition_or_a_wrong_place_changes_nothing(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    topic = lane.config.topics.ticks
    await emit_to(lane, 0, [tick(1)])
    wrong = {
        (f"{topic}/0",): "can be read",
        (f"{topic}/0", "--to", "2"): "at most 1, where the log ends",
        (f"{topic}/4",): "has no partition 4",
        ("other/0",): "must be a partition of kafka.topics.ticks",
    }
    for arguments, expected in wrong.items():
        said = complaint(await partitions(lane, "skip", *arguments, "--yes"), exit_code=2)
        assert expected in said
    refused = await partitions(lane, "skip", f"{topic}/0", "--to", "1")
    assert refused.returncode == 1  # nobody is there to confirm it
    assert await lane.committed() == -1
