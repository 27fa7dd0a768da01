"""What the simulator says of a trace is what a real worker on a real Kafka makes of it."""

from __future__ import annotations

import asyncio

import pytest

from consumer.simulation.served import serve
from consumer.simulation.traces import Traffic
from tests.integration.conftest import MakeLane
from tests.support.real_runs import serve_for_real

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

SLOTS = 300
# A slot of 12 s takes 0.6 s: so long that what a busy machine adds to it matters little.
SCALE = 0.05
MOST_APART = 0.02
# In the backlog a slot takes 0.2 s.
BACKLOG_SCALE = 0.2 / 12


@pytest.mark.parametrize("load", [0.8, 1.2, 2.0])
async def test_share_on_time_is_within_two_points_of_a_real_run(
    make_lane: MakeLane, load: float
) -> None:
    trace = Traffic(load, slots=SLOTS).trace(seed=1)
    # In a thread, as it runs an event loop of its own.
    simulated = len((await asyncio.to_thread(serve, trace)).on_time) / SLOTS
    real = len(await serve_for_real(await make_lane(), trace, SCALE)) / SLOTS
    print(f"load {load:g}: simulated {simulated:.1%}, real {real:.1%} on time")
    assert real == pytest.approx(simulated, abs=MOST_APART)


async def test_long_backlog_on_eight_partitions_is_all_but_lossless_below_full_load(
    make_lane: MakeLane,
) -> None:
    trace = Traffic(0.9, slots=1500, backlog=True).trace(seed=1)
    on_time = await serve_for_real(await make_lane(partitions=8), trace, BACKLOG_SCALE)
    print(f"backlog at load 0.9: {len(on_time)} of {len(trace)} on time")
    assert len(on_time) >= 0.99 * len(trace)
