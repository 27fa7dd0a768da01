"""`vortex size` on a topic of ticks that a worker has served."""

from __future__ import annotations

import asyncio

import pytest

from consumer.simulation.recorded import UnreadableRecordingError
from consumer.simulation.recorded_topic import read_recorded_topic
from tests.integration.conftest import MakeLane
from tests.support.command_line import kafka_variables, vortex
from tests.support.engines import ScriptedEngine
from tests.support.lane import tick

pytestmark = pytest.mark.kafka


async def test_topic_of_ticks_is_a_load_with_its_partitions_and_times(make_lane: MakeLane) -> None:
    lane = await make_lane(partitions=2)
    ticks = [tick(number) for number in range(6)]
    emitted = await lane.emit(ticks)
    async with lane.worker(ScriptedEngine(), "a"):
        await lane.outcomes(6)
    await lane.emit([tick(7, deadline_s=30.0)])  # without an outcome: takes the usual time
    recorded = await read_recorded_topic(lane.config, lane.config.topics.ticks)
    assert len(recorded.slots) == 7
    assert recorded.partitions is not None
    assert sorted(recorded.partitions[:6]) == sorted(each.partition for each in emitted)
    assert all(0 < slot.seconds < 5 for slot in recorded.slots)
    leads = [slot.deadline_s - slot.arrived_s for slot in recorded.slots]
    assert leads[:6] == pytest.approx([60.0] * 6, abs=2.0)
    assert leads[6] == pytest.approx(30.0, abs=2.0)
    arguments = ("size", "--trace", lane.config.topics.ticks, "--most", "2")
    done = await asyncio.to_thread(vortex, *arguments, **kafka_variables(lane.config))
    assert done.returncode == 0, done.stderr
    assert "7 slots" in done.stdout
    assert "99.0% on time: 1 GPUs with handover" in done.stdout


async def test_topic_without_outcomes_is_refused_by_name(make_lane: MakeLane) -> None:
    lane = await make_lane()
    await lane.emit([tick(1)])
    with pytest.raises(UnreadableRecordingError, match=lane.config.topics.ticks):
        await read_recorded_topic(lane.config, lane.config.topics.ticks)


async def test_trace_that_is_neither_file_nor_topic_is_told_in_one_line(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    variables = kafka_variables(lane.config)
    done = await asyncio.to_thread(vortex, "size", "--trace", "missing.jsonl", **variables)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "missing.jsonl: is no file, and as a topic: " in done.stderr
