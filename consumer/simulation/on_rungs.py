"""The production planner, estimates and scheduler serve a trace with a ladder, in virtual time.

The dispatcher makes every slot at full quality; this loop stands in for it where there are rungs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from consumer.planning import Planner, Rung, Start, Waiting
from consumer.simulation.engine import SleepingPipeline, recipe_of, usual_priors
from consumer.simulation.machine import Run
from consumer.simulation.traces import SimulatedSlot
from consumer.simulation.virtual_time import run_in_virtual_time
from vortex.errors import DeadlineMissError
from vortex.orchestration.estimates import StageEstimates, work_units
from vortex.orchestration.scheduler import UNLIMITED, SlotScheduler
from vortex.utils.clock import now_s


def serve_on_rungs(trace: Sequence[SimulatedSlot], ladder: Sequence[Rung]) -> Run:
    """Serve a whole trace, and return what came of it."""
    return run_in_virtual_time(_Server(trace, ladder).serve())


class _Server:
    """Slots arrive, are planned, and are made one at a time."""

    def __init__(self, trace: Sequence[SimulatedSlot], ladder: Sequence[Rung]) -> None:
        self._trace = trace
        self._pipeline = SleepingPipeline(trace)
        self._estimates = StageEstimates(priors=usual_priors())
        self._scheduler = SlotScheduler(
            self._pipeline, UNLIMITED, estimates=self._estimates, clock=now_s
        )
        self._planner: Planner[int, SimulatedSlot] = Planner(
            self._predict_s, lambda: self._estimates.spread, ladder
        )
        self._units: dict[tuple[int, float], Mapping[str, float]] = {}
        self._changed = asyncio.Event()
        self._free_s: float | None = None
        self._making: asyncio.Task[None] | None = None
        self._arriving = True
        self._run = Run(arrivals=len(trace))

    async def serve(self) -> Run:
        """Serve until all slots are decided."""
        arrivals = asyncio.create_task(self._arrive())
        while self._arriving or len(self._planner) or self._making is not None:
            self._changed.clear()
            look_s = self._follow_plan()
            if not self._changed.is_set():
                await self._until_changed(look_s)
        await arrivals
        return self._run

    async def _until_changed(self, look_s: float) -> None:
        if not (self._arriving or len(self._planner) or self._making is not None):
            return
        try:
            async with asyncio.timeout_at(None if math.isinf(look_s) else look_s):
                await self._changed.wait()
        except TimeoutError:
            # A look exactly at its moment would find that the slot still just fits.
            await asyncio.sleep(1e-6)

    async def _arrive(self) -> None:
        for slot in self._trace:
            if slot.arrived_s > now_s():
                await asyncio.sleep(slot.arrived_s - now_s())
            waiting = Waiting(slot.number, slot, slot.emitted_s, slot.deadline_s)
            self._planner.arrive(waiting, now_s())
            self._changed.set()
        self._arriving = False
        self._changed.set()

    def _follow_plan(self) -> float:
        plan = self._planner.plan(now_s(), self._free_s)
        for victim in plan.give_up:
            self._run.given_up[victim.key] = now_s()
            self._run.lead_s.append(victim.lead_s)
        if plan.start is not None:
            self._free_s = now_s() + plan.start.seconds
            self._making = asyncio.create_task(self._make(plan.start))
        return plan.look_again_s

    async def _make(self, start: Start[int]) -> None:
        slot = self._trace[start.key]
        share = start.rung.work_share
        self._pipeline.scale = share
        began_s = now_s()
        self._run.errors.append((slot.number, start.seconds / (slot.seconds * share) - 1))
        try:
            recipe = recipe_of(slot.units * share)
            await self._scheduler.execute(recipe, slot.number, slot.deadline_s)
            self._run.on_time[slot.number] = start.rung.quality
        except DeadlineMissError:
            pass  # it is not among those on time
        self._run.worked_s[slot.number] = began_s, now_s()
        self._free_s = self._making = None
        self._changed.set()

    def _predict_s(self, slot: SimulatedSlot, rung: Rung) -> float:
        key = slot.number, rung.work_share
        if key not in self._units:
            self._units[key] = work_units(recipe_of(slot.units * rung.work_share))
        predicted_s = self._estimates.predict_units(self._units[key])
        if predicted_s is None:
            raise AssertionError("there are priors for all stages")
        return predicted_s
