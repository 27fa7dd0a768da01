"""A backlog that can be made in time is made in time, however it lies on partitions."""

from __future__ import annotations

import pytest

from tests.integration.conftest import MakeLane
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import assert_one_outcome_each, slots, tick

pytestmark = pytest.mark.kafka

TICKS = 300
PARTITIONS = 8
SLOT_S = 0.1
LOAD = 0.9
# To write the ticks, start the worker (a fresh broker takes seconds to have a coordinator), claim
# all partitions, and for what a busy machine adds to each slot. Partition by partition, the last
# ticks would be seen 26 s after the first.
START_S = 16.0


async def test_backlog_on_eight_partitions_is_all_but_lossless_below_full_load(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane(partitions=PARTITIONS)
    emitted = await lane.emit(
        [tick(n, deadline_s=START_S + n * SLOT_S / LOAD) for n in range(TICKS)]
    )
    assert {record.partition for record in emitted} == set(range(PARTITIONS))
    engine = ScriptedEngine(default=Script(work_s=SLOT_S), predicted_s=SLOT_S)
    async with lane.worker(engine, "a", queue_limit=64):
        results = await lane.outcomes(TICKS)
    assert_one_outcome_each(results, emitted)
    on_time = slots(results, "slot-complete")
    print(f"{len(on_time)} of {TICKS} on time")
    assert len(on_time) >= 0.98 * TICKS
