"""The production planner, dispatcher, estimates and scheduler serve a trace in virtual time.

Only the stages are simulated: they sleep as long as the trace says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN

from consumer.dispatcher import Dispatcher
from consumer.engine.base import EngineResult, SlotMade
from consumer.job import Arrival, Job, TickKey
from consumer.simulation.engine import SimulatedEngine, recipe_of
from consumer.simulation.machine import Run
from consumer.simulation.traces import SimulatedSlot
from consumer.simulation.virtual_time import run_in_virtual_time
from schemas import SlotTick
from vortex.rung import FULL, Rung
from vortex.utils.clock import now_s

_EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


def serve(trace: Sequence[SimulatedSlot], ladder: tuple[Rung, ...] = (FULL,)) -> Run:
    """Serve a whole trace, and return what came of it."""
    return run_in_virtual_time(_Served(trace, ladder).serve()) if trace else Run()


class _Served:
    """One worker without Kafka."""

    def __init__(self, trace: Sequence[SimulatedSlot], ladder: tuple[Rung, ...]) -> None:
        self._trace = trace
        self._quality = {rung.name: rung.quality for rung in ladder}
        self._dispatcher = Dispatcher(SimulatedEngine(trace, ladder=ladder), self._on_result)
        self._run = Run(arrivals=len(trace))
        self._undecided = len(trace)
        self._all_decided = asyncio.Event()

    async def serve(self) -> Run:
        """Serve until all slots are decided."""
        arrivals = asyncio.create_task(self._arrive())
        serving = asyncio.create_task(self._dispatcher.run())
        decided = asyncio.create_task(self._all_decided.wait())
        await asyncio.wait({serving, decided}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        serving.cancel()
        await asyncio.wait({serving})
        await arrivals
        return self._run

    async def _arrive(self) -> None:
        for slot in self._trace:
            if slot.arrived_s > now_s():
                await asyncio.sleep(slot.arrived_s - now_s())
            self._dispatcher.submit(job_of(slot))

    def _on_result(self, job: Job, result: EngineResult, started_s: float | None) -> None:
        number, run, moment_s = job.key.offset, self._run, now_s()
        if started_s is None:
            run.given_up[number] = moment_s
            run.lead_s.append(job.deadline_s - moment_s)
        else:
            run.worked_s[number] = started_s, moment_s
            if isinstance(result, SlotMade) and moment_s < job.deadline_s:
                run.on_time[number] = self._quality[result.quality.rung]
        self._undecided -= 1
        if not self._undecided:
            self._all_decided.set()


def job_of(slot: SimulatedSlot) -> Job:
    """Return the job of a slot that arrives now; its key tells its number."""
    now = now_s()
    wall = _EPOCH + timedelta(seconds=now)
    tick = SlotTick(
        slot_id=slot.number,
        deadline=_EPOCH + timedelta(seconds=slot.deadline_s),
        recipe=recipe_of(slot.units),
    )
    return Job(
        key=TickKey("simulated", 0, slot.number),
        tick=tick,
        seed=0,
        arrival=Arrival(wall, now),
        emitted_s=slot.emitted_s,
        deadline_s=slot.deadline_s,
        span=INVALID_SPAN,
        context=Context(),
    )
