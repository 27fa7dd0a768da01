"""A trace of the simulator, served by a real worker on a real Kafka, in a shorter time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

from aiokafka.structs import RecordMetadata

from consumer.emitter import TickEmitter
from consumer.kafka.clients import make_plain_producer
from consumer.results import DeadLetter
from consumer.simulation.engine import SimulatedEngine, recipe_of
from consumer.simulation.fleet import Fleet, FleetRun
from consumer.simulation.traces import SimulatedSlot
from consumer.worker import Worker
from schemas import SlotComplete, SlotTick
from tests.support.lane import Lane, assert_one_outcome_each, slots

READY_TIMEOUT_S = 60.0
OUTCOMES_TIMEOUT_S = 600.0
# From the first tick of a backlog to the moment from which it is due: to write it, and to start.
BACKLOG_HEAD_S = 25.0
# For all workers to have heard of each other.
HEARD_S = 2.5


async def serve_for_real(lane: Lane, trace: Sequence[SimulatedSlot], scale: float) -> set[int]:
    """Return the slots that were on time; a second of the trace takes `scale` seconds.

    A backlog is written before the worker starts.
    """
    backlog = all(slot.arrived_s == 0.0 for slot in trace)
    async with TickEmitter(lane.config) as emitter:
        emitted: list[RecordMetadata] = []
        if backlog:
            emitted += await _emit(emitter, trace, scale, time.time() + BACKLOG_HEAD_S)
        async with lane.worker(SimulatedEngine(trace, scale), "real") as worker:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not worker.accepting:
                    await asyncio.sleep(0.01)
            if not backlog:
                emitted += await _emit(emitter, trace, scale, time.time() + 0.1)
            results = await lane.outcomes(len(trace), timeout_s=OUTCOMES_TIMEOUT_S)
    assert_one_outcome_each(results, emitted)
    return slots(results, "slot-complete")


async def serve_fleet_for_real(
    lane: Lane, trace: Sequence[SimulatedSlot], fleet: Fleet, seed: int
) -> FleetRun:
    """Serve a trace as `serve_fleet` does, with real workers in this process and a real Kafka.

    Every tick goes to the partition that the simulation draws, and every partition to the worker
    that has it there: ids of workers have one digit, so that the assignor takes them in order.
    """
    assert fleet.workers <= 10
    partitions = fleet.read_from(len(trace), seed)
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                lane.worker(SimulatedEngine(trace, fleet.scale), f"worker-{number}")
            )
            for number in range(fleet.workers)
        ]
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not all(_owns(worker, at, fleet) for at, worker in enumerate(workers)):
                await asyncio.sleep(0.05)
        await asyncio.sleep(HEARD_S)
        producer = await stack.enter_async_context(
            make_plain_producer(lane.config, client_id="trace")
        )
        began_s, emitted = time.time() + 0.1, []
        for slot, partition in zip(trace, partitions, strict=True):
            await asyncio.sleep(max(0.0, began_s + slot.arrived_s * fleet.scale - time.time()))
            value = _tick(slot, began_s, fleet.scale).model_dump_json().encode()
            topic = lane.config.topics.ticks
            emitted.append(await producer.send_and_wait(topic, value, partition=partition))
        results = await lane.outcomes(len(trace), timeout_s=OUTCOMES_TIMEOUT_S)
    assert_one_outcome_each(results, emitted)
    run = FleetRun(trace, fleet.workers)
    for result in results:
        assert not isinstance(result, DeadLetter), result
        if isinstance(result, SlotComplete):
            run.quality_on_time[result.slot_id] = 1.0
        if result.handed_over is not None:
            run.handed_over += 1
            run.handed_over_on_time += isinstance(result, SlotComplete)
    return run


def _owns(worker: Worker, number: int, fleet: Fleet) -> bool:
    """Return whether a worker reads all that it has in the simulation, and no more."""
    claimed: dict[str, set[int]] = {topic: set() for topic in worker._config.topics.inputs}
    for at, owner in worker._partitions.items():
        if owner.claimed:
            claimed[at.topic].add(at.partition)
    ticks, *handed = claimed.values()
    return (
        ticks == {each for each in range(fleet.partitions) if fleet.owner_of(each) == number}
        and handed == [{number}] * fleet.handover
    )


async def _emit(
    emitter: TickEmitter, trace: Sequence[SimulatedSlot], scale: float, began_s: float
) -> list[RecordMetadata]:
    """Write each tick when it arrives, or at once if that is past."""
    emitted = []
    for slot in trace:
        if slot.arrived_s:
            await asyncio.sleep(max(0.0, began_s + slot.arrived_s * scale - time.time()))
        emitted.append(await emitter.emit(_tick(slot, began_s, scale)))
    return emitted


def _tick(slot: SimulatedSlot, began_s: float, scale: float) -> SlotTick:
    began = datetime.fromtimestamp(began_s, UTC)
    return SlotTick(
        slot_id=slot.number,
        deadline=began + timedelta(seconds=slot.deadline_s * scale),
        recipe=recipe_of(slot.units),
    )
