"""What the simulator says of a trace is what real workers on a real Kafka make of it."""

from __future__ import annotations

import asyncio

import pytest

from consumer.simulation.fleet import Fleet, serve_fleet
from consumer.simulation.served import serve
from consumer.simulation.traces import Traffic
from tests.integration.conftest import MakeLane
from tests.support.real_runs import serve_fleet_for_real, serve_for_real

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

SLOTS = 300
# A slot of 12 s takes 0.6 s: so long that what a busy machine adds to it matters little.
SCALE = 0.05
MOST_APART = 0.02
# In the backlog a slot takes 0.2 s.
BACKLOG_SCALE = 0.2 / 12
WORKERS = 8
FLEET_LOAD = 0.9
FLEET_SLOTS = 600
# A slot takes 1.2 s. What does not scale, such as the least time between announcements, is the same
# in the simulation, which is scaled as well.
FLEET_SCALE = 0.1


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


@pytest.mark.parametrize("busier", [1.0, 1.9])
@pytest.mark.parametrize("handover", [False, True], ids=["bound", "handover"])
async def test_fleet_s_share_on_time_is_within_two_points_of_a_real_one(
    make_lane: MakeLane, handover: bool, busier: float
) -> None:
    """`busier`: each partition of the first half has so many times the ticks of the others."""
    trace = Traffic(FLEET_LOAD * WORKERS, slots=FLEET_SLOTS).trace(seed=1)
    fleet = Fleet(WORKERS, WORKERS, handover, busier, scale=FLEET_SCALE)
    simulated = await asyncio.to_thread(serve_fleet, trace, fleet, 1)
    lane = await make_lane(partitions=WORKERS, handover=WORKERS if handover else None)
    real = await serve_fleet_for_real(lane, trace, fleet, seed=1)
    for name, run in (("simulated", simulated), ("real", real)):
        print(
            f"busier {busier:g}, handover {handover}, {name}:"
            f" {run.on_time / run.slots:.1%} on time, {run.handed_over} slots handed over,"
            f" {run.handed_over_on_time} of them on time"
        )
    assert real.on_time / FLEET_SLOTS == pytest.approx(
        simulated.on_time / FLEET_SLOTS, abs=MOST_APART
    )
