"""A trace of the simulator, served by a real worker on a real Kafka, in a shorter time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from aiokafka.structs import RecordMetadata

from consumer.emitter import TickEmitter
from consumer.simulation.engine import SimulatedEngine, recipe_of
from consumer.simulation.traces import SimulatedSlot
from schemas import SlotTick
from tests.support.lane import Lane, assert_one_outcome_each, slots

READY_TIMEOUT_S = 30.0
OUTCOMES_TIMEOUT_S = 600.0
# From the first tick of a backlog to the moment from which it is due: to write it, and to start.
BACKLOG_HEAD_S = 25.0


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
