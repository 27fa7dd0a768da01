"""`vortex dead-letters`: a tick that could not be read is found, mended and made. Real Kafka."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from consumer.kafka.clients import make_reader
from schemas import MAX_TICK_BYTES
from tests.integration.conftest import MakeLane
from tests.support.command_line import complaint, kafka_variables, vortex
from tests.support.engines import ScriptedEngine
from tests.support.lane import Lane, slots, tick

pytestmark = pytest.mark.kafka

UNREADABLE = b'{"slot_id": "seven", "note": "[red]\x1b[2J\xff"}'
HEADERS = [("vortex-signature", b"of other bytes"), ("x-token", b"geheim"), ("origin", b"\x1b[1m")]


async def letters(lane: Lane, *arguments: str):  # type: ignore[no-untyped-def]
    variables = kafka_variables(lane.config)
    return await asyncio.to_thread(vortex, "dead-letters", *arguments, **variables)


async def write(lane: Lane, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=lane.config.bootstrap_servers)
    await producer.start()
    try:
        await producer.send_and_wait(lane.config.topics.ticks, value, key=b"7", headers=HEADERS)
    finally:
        await producer.stop()


async def last_tick(lane: Lane) -> ConsumerRecord:
    reader = make_reader(lane.config, lane.config.topics.ticks, client_id="test")
    await reader.start()
    try:
        fetched = await reader.getmany(timeout_ms=10_000, max_records=100)
    finally:
        await reader.stop()
    return max((each for records in fetched.values() for each in records), key=lambda r: r.offset)


async def test_unreadable_tick_is_listed_shown_replayed_mended_and_gets_its_outcome(
    make_lane: MakeLane, tmp_path: Path
) -> None:
    lane = await make_lane()
    await write(lane, b"earlier")
    await write(lane, UNREADABLE)
    mended = tmp_path / "mended.json"
    mended.write_text(tick(7).model_dump_json())
    async with lane.worker(ScriptedEngine(), "a"):
        await lane.outcomes(2)
        listed = await letters(lane, "list", "--limit", "1", "--json")
        assert listed.returncode == 0, listed.stderr
        (letter,) = map(json.loads, listed.stdout.splitlines())
        assert letter["source"] == {"topic": lane.config.topics.ticks, "partition": 0, "offset": 1}
        assert (letter["bytes"], letter["topic"]) == (
            len(UNREADABLE),
            lane.config.topics.dead_letter,
        )
        assert letter["reason"]
        assert letter["time"].endswith("Z")
        place = f"{letter['topic']}/{letter['partition']}@{letter['offset']}"
        assert place in (await letters(lane, "list")).stdout

        shown = (await letters(lane, "show", place)).stdout
        assert r'"note": "[red]\x1b[2J\xff"' in shown
        assert "\x1b" not in shown
        assert "geheim" not in shown

        refused = await letters(lane, "replay", place, "--value", str(mended))
        assert refused.returncode == 1  # nobody is there to confirm it
        done = await letters(lane, "replay", place, "--value", str(mended), "--yes")
        assert done.returncode == 0, done.stderr
        assert f"replayed: {lane.config.topics.ticks}/0@2" in done.stdout
        results = await lane.outcomes(3)
    assert slots(results, "slot-complete") == {7}
    written = await last_tick(lane)
    assert (written.offset, written.key, written.value) == (2, b"7", mended.read_bytes())
    assert list(written.headers) == [*HEADERS[1:], ("vortex-replay-of", place.encode())]


async def test_replay_as_it_came_keeps_bytes_and_headers_and_wrong_places_are_refused(
    make_lane: MakeLane, tmp_path: Path
) -> None:
    lane = await make_lane()
    await write(lane, UNREADABLE)
    async with lane.worker(ScriptedEngine(), "a"):
        await lane.outcomes(1)
        (letter,) = map(json.loads, (await letters(lane, "list", "--json")).stdout.splitlines())
        place = f"{letter['partition']}@{letter['offset']}"
        assert (await letters(lane, "replay", place, "--yes")).returncode == 0
        await lane.outcomes(2)  # a dead letter again, as the outcome of the new tick
    written = await last_tick(lane)
    assert (written.key, written.value) == (b"7", UNREADABLE)
    replayed = f"{lane.config.topics.dead_letter}/{place}".encode()
    assert list(written.headers) == [*HEADERS, ("vortex-replay-of", replayed)]

    large = tmp_path / "large.json"
    large.write_bytes(b" " * (MAX_TICK_BYTES + 1))
    wrong = {
        ("show", "seven"): "must be PARTITION@OFFSET",
        ("show", "99@0"): "has no partition 99",
        ("show", f"{letter['partition']}@9999"): "has no offset 9999",
        ("replay", place, "--yes", "--value", str(tmp_path / "none")): "cannot be read",
        ("replay", place, "--yes", "--value", str(large)): f"at most {MAX_TICK_BYTES} are read",
    }
    for arguments, expected in wrong.items():
        assert expected in complaint(await letters(lane, *arguments), exit_code=2)
    assert (await last_tick(lane)).offset == written.offset
