"""What the simulator says of a trace is what a real worker on a real Kafka makes of it."""

from __future__ import annotations

import asyncio

import pytest

from consumer.simulation.served import serve
from consumer.simulation.traces import Traffic
from tests.integration.conftest import MakeLane
from tests.support.real_runs import serve_for_real

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

LOADS = (0.8, 1.2, 2.0)
SLOTS = 300
# A slot of 12 s takes 0.6 s: so long that what a busy machine adds to it matters little.
SCALE = 0.05
MOST_APART = 0.02
# In the backlog a slot takes 0.2 s.
BACKLOG_SCALE = 0.2 / 12


async def test_shares_on_time_are_within_two_points_of_real_runs(make_lane: MakeLane) -> None:
    traces = [Traffic(load, slots=SLOTS).trace(seed=1) for load in LOADS]
    # In a thread, as it runs an event loop of its own.
    simulated = [len((await asyncio.to_thread(serve, trace)).on_time) / SLOTS for trace in traces]
    lanes = [await make_lane(name=f"load-{load:g}") for load in LOADS]
    runs = (serve_for_real(lane, trace, SCALE) for lane, trace in zip(lanes, traces, strict=True))
    real = [len(on_time) / SLOTS for on_time in await asyncio.gather(*runs)]
    for load, promised, kept in zip(LOADS, simulated, real, strict=True):
        print(f"load {load:g}: simulated {promised:.1%}, real {kept:.1%} on time")
    assert real == pytest.approx(simulated, abs=MOST_APART)


async def test_long_backlog_on_eight_partitions_is_all_but_lossless_below_full_load(
    make_lane: MakeLane,
) -> None:
    trace = Traffic(0.9, slots=1500, backlog=True).trace(seed=1)
    on_time = await serve_for_real(await make_lane(partitions=8), trace, BACKLOG_SCALE)
    print(f"backlog at load 0.9: {len(on_time)} of {len(trace)} on time")
    assert len(on_time) >= 0.99 * len(trace)
