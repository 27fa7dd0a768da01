"""The production planner, estimates and scheduler serve a trace in virtual time.

Only the stages are simulated: they sleep as long as the trace says.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consumer.planning import Planner, Rung, Start, Waiting
from consumer.simulation.machine import Run
from consumer.simulation.traces import MEAN_S, PARALLEL_SHARE, SimulatedSlot
from consumer.simulation.virtual_time import run_in_virtual_time
from schemas import AudioTrack, Recipe, SlotParams, VisualTrack
from vortex.errors import DeadlineMissError
from vortex.orchestration.estimates import SPOKEN_CHARACTERS_PER_S, StageEstimates, work_units
from vortex.orchestration.learning import Prior
from vortex.orchestration.scheduler import UNLIMITED, SlotScheduler
from vortex.rung import FULL
from vortex.slot import SlotContext
from vortex.utils.clock import now_s

# What a usual slot consists of: so much video that eleven times as much is still a slot, and takes
# MEAN_S to make.
_USUAL_S = 4.0
_FPS = 24
_CLIP_SHARE = 0.03
_DOUBT = 0.3


def serve(trace: Sequence[SimulatedSlot], ladder: Sequence[Rung] = (FULL,)) -> Run:
    """Serve a whole trace, and return what came of it."""
    return run_in_virtual_time(_Server(trace, ladder).serve())


@dataclass(frozen=True)
class _Verdict:
    """What the self-check of a simulated slot finds."""

    embedding: None = None


class _SleepingPipeline:
    """A pipeline whose stages take the time of the trace."""

    takes_slot_context = True

    def __init__(self, trace: Sequence[SimulatedSlot]) -> None:
        self._trace = trace
        self.share = 1.0

    async def _generate_audio(self, recipe: Recipe, slot: SlotContext) -> Any:
        await self._sleep(slot, PARALLEL_SHARE)

    async def _generate_actor(self, recipe: Recipe, slot: SlotContext) -> Any:
        await self._sleep(slot, PARALLEL_SHARE / 2)

    async def _generate_video(self, image: Any, audio: Any, slot: SlotContext) -> Any:
        await self._sleep(slot, 1 - PARALLEL_SHARE - _CLIP_SHARE)

    async def _verify_semantic(self, video: Any, recipe: Recipe, slot: SlotContext) -> Any:
        await self._sleep(slot, _CLIP_SHARE)
        return _Verdict()

    async def _sleep(self, slot: SlotContext, part: float) -> None:
        await asyncio.sleep(self._trace[slot.slot_id].seconds * self.share * part)


class _Server:
    """One worker without Kafka: slots arrive, are planned, and are made one at a time."""

    def __init__(self, trace: Sequence[SimulatedSlot], ladder: Sequence[Rung]) -> None:
        self._trace = trace
        self._pipeline = _SleepingPipeline(trace)
        parts = {
            "audio": PARALLEL_SHARE,
            "image": PARALLEL_SHARE / 2,
            "video": 1 - PARALLEL_SHARE - _CLIP_SHARE,
            "clip": _CLIP_SHARE,
        }
        usual = work_units(_recipe(1.0))
        self._estimates = StageEstimates(
            priors={
                stage: Prior(0.05 * MEAN_S * part, 0.95 * MEAN_S * part / usual[stage], _DOUBT)
                for stage, part in parts.items()
            }
        )
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
        self._pipeline.share = share
        began_s = now_s()
        self._run.errors.append((slot.number, start.seconds / (slot.seconds * share) - 1))
        try:
            recipe = _recipe(slot.units * share)
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
            self._units[key] = work_units(_recipe(slot.units * rung.work_share))
        predicted_s = self._estimates.predict_units(self._units[key])
        if predicted_s is None:
            raise AssertionError("there are priors for all stages")
        return predicted_s


def _recipe(units: float) -> Recipe:
    """Return a recipe with so many times the work of a usual slot."""
    duration_s = _USUAL_S * units
    return Recipe(
        slot_params=SlotParams(duration_sec=duration_s, fps=_FPS),
        audio_track=AudioTrack(script="x" * max(1, round(SPOKEN_CHARACTERS_PER_S * duration_s))),
        visual_track=VisualTrack(prompt="x"),
    )
