"""An engine whose stages sleep: the production scheduler and estimates, and no models."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from consumer.engine.base import (
    EngineResult,
    OnStage,
    SlotMade,
    SlotNotMade,
    SlotRequest,
    StageListener,
    ignore_stage,
)
from consumer.simulation.traces import MEAN_S, PARALLEL_SHARE, SimulatedSlot
from schemas import (
    Artifact,
    AudioTrack,
    MissReason,
    Quality,
    Recipe,
    SlotParams,
    Stage,
    Verification,
    VisualTrack,
)
from vortex.errors import DeadlineMissError
from vortex.orchestration.estimates import SPOKEN_CHARACTERS_PER_S, StageEstimates, work_units
from vortex.orchestration.learning import Prior
from vortex.orchestration.scheduler import UNLIMITED, SlotScheduler
from vortex.rung import FULL, Rung
from vortex.slot import SlotContext
from vortex.utils.clock import now_s

# What a usual slot consists of: so much video that eleven times as much is still a slot, and takes
# MEAN_S to make.
_USUAL_S = 4.0
_FPS = 24
_CLIP_SHARE = 0.03
_DOUBT = 0.3
PARTS = {
    "audio": PARALLEL_SHARE,
    "image": PARALLEL_SHARE / 2,
    "video": 1 - PARALLEL_SHARE - _CLIP_SHARE,
    "clip": _CLIP_SHARE,
}
"""Each stage's share of a slot's time."""

_ARTIFACT = Artifact(
    uri="memory://simulated", bytes=1, sha256="0" * 64, duration_s=1, width=64, height=64, fps=4
)
_VERIFICATION = Verification(
    score_clip_b=1.0,
    score_clip_l=1.0,
    ensemble_score=1.0,
    self_check_passed=True,
    enforced=False,
    outlier_detected=False,
    embedding=(1.0, *([0.0] * 511)),
)


@dataclass(frozen=True)
class _Verdict:
    """What the self-check of a simulated slot finds."""

    embedding: None = None


class SleepingPipeline:
    """A pipeline whose stages take the time of the trace; slot ids are the trace's numbers."""

    takes_slot_context = True

    def __init__(self, trace: Sequence[SimulatedSlot], scale: float = 1.0) -> None:
        """Sleep as long as the trace says.

        Args:
            trace: the slots by their numbers.
            scale: seconds to sleep for each second of the trace.
        """
        self._trace = trace
        self.scale = scale

    async def _generate_audio(self, recipe: Recipe, slot: SlotContext) -> Any:
        await self._sleep(slot, "audio")

    async def _generate_actor(self, recipe: Recipe, slot: SlotContext) -> Any:
        await self._sleep(slot, "image")

    async def _generate_video(self, image: Any, audio: Any, slot: SlotContext) -> Any:
        await self._sleep(slot, "video")

    async def _verify_semantic(self, video: Any, recipe: Recipe, slot: SlotContext) -> Any:
        await self._sleep(slot, "clip")
        return _Verdict()

    async def _sleep(self, slot: SlotContext, stage: str) -> None:
        if slot.slot_id is None:
            raise AssertionError("a trace has no warm-up")
        await asyncio.sleep(self._trace[slot.slot_id].seconds * self.scale * PARTS[stage])


class SimulatedEngine:
    """An `Engine` that makes the slots of a trace by sleeping, on whatever clock its loop has."""

    def __init__(
        self,
        trace: Sequence[SimulatedSlot],
        scale: float = 1.0,
        ladder: tuple[Rung, ...] = (FULL,),
    ) -> None:
        """Be down.

        Args:
            trace: the slots by their numbers.
            scale: seconds to sleep for each second of the trace.
            ladder: of each rung, `work_share` is the share of a slot's whole time.
        """
        self._estimates = StageEstimates(priors=usual_priors(scale * _unit_s(trace)))
        self._scale = scale
        self._ladder = ladder
        self._pipeline = SleepingPipeline(trace, scale)
        self._scheduler = SlotScheduler(
            self._pipeline, UNLIMITED, estimates=self._estimates, clock=now_s
        )
        self._up = False

    @property
    def ready(self) -> bool:
        """Whether it is started."""
        return self._up

    async def start(self) -> None:
        """Be ready at once."""
        self._up = True

    async def run(self, request: SlotRequest, on_stage: OnStage = ignore_stage) -> EngineResult:
        """Sleep through the stages, as far as the deadline allows."""
        rung = request.rungs[0]
        recipe = _on_rung(request.recipe, rung)
        self._pipeline.scale = self._scale * rung.work_share
        slot = SlotContext(
            recipe=recipe,
            slot_id=request.slot_id,
            seed=request.seed,
            listener=StageListener(on_stage),
            admitted=True,
        )
        try:
            await self._scheduler.execute(recipe, request.slot_id, request.deadline_s, slot=slot)
        except DeadlineMissError as error:
            stage = None if slot.stage is None else Stage(slot.stage)
            return SlotNotMade(MissReason.PREDICTED, stage, str(error), dict(slot.breakdown))
        quality = Quality(frames_computed=1, frames_total=1, steps=1, rung=rung.name)
        return SlotMade(_ARTIFACT, _VERIFICATION, quality, request.seed, {}, dict(slot.breakdown))

    async def speak_ahead(self, request: SlotRequest) -> None:
        """Do nothing: a slot sleeps through its speech in its turn."""

    async def settle(self) -> None:
        """Do nothing: `run` returns when the slot's work has stopped."""

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The rungs that were given."""
        return self._ladder

    def predict_s(self, recipe: Recipe, rung: Rung = FULL) -> float | None:
        """Return the predicted critical path; nothing is encoded or stored."""
        return self._estimates.predict_slot(_on_rung(recipe, rung))

    def predict_rest_s(self, recipe: Recipe, rung: Rung, stage: Stage) -> float | None:
        """Return the predicted stages ahead; nothing is encoded or stored."""
        return self._estimates.predict_rest(_on_rung(recipe, rung), rung=FULL, stage=stage)

    @property
    def overlap_room_s(self) -> float:
        """Return that slots do not overlap: nothing is stored."""
        return math.inf

    def speech_room_s(self, recipe: Recipe) -> float:
        """Return that nothing is spoken ahead."""
        return math.inf

    @property
    def memory_bytes(self) -> int:
        """Return 0: there are no models."""
        return 0

    @property
    def spread(self) -> float:
        """How far predictions are off; see `Engine`."""
        return self._estimates.spread

    def rule_out(self, recipe: Recipe) -> str | None:
        """Return None: the stages have no limits."""
        return None

    def most_work(self) -> Mapping[str, float]:
        """Return nothing: the stages have no limits."""
        return {}

    async def stop(self) -> None:
        """Be down."""
        self._up = False


def _unit_s(trace: Sequence[SimulatedSlot]) -> float:
    """Return the seconds of a usual slot of a trace."""
    return trace[0].predicted_s / trace[0].units if trace else MEAN_S


def usual_priors(mean_s: float = MEAN_S) -> dict[str, Prior]:
    """Return what a configuration would say of the stages of a usual slot of so many seconds."""
    usual = work_units(recipe_of(1.0))
    return {
        stage: Prior(0.05 * mean_s * part, 0.95 * mean_s * part / usual[stage], _DOUBT)
        for stage, part in PARTS.items()
    }


def _on_rung(recipe: Recipe, rung: Rung) -> Recipe:
    """Return the recipe of a slot that takes as long as this one does on a rung."""
    if rung.work_share == 1.0:
        return recipe
    return _with_duration(recipe.slot_params.duration_sec, rung.work_share)


@lru_cache(maxsize=4096)
def _with_duration(duration_s: float, share: float) -> Recipe:
    return recipe_of(duration_s / _USUAL_S * share)


def recipe_of(units: float) -> Recipe:
    """Return a recipe with so many times the work of a usual slot."""
    duration_s = _USUAL_S * units
    return Recipe(
        slot_params=SlotParams(duration_sec=duration_s, fps=_FPS),
        audio_track=AudioTrack(script="x" * max(1, round(SPOKEN_CHARACTERS_PER_S * duration_s))),
        visual_track=VisualTrack(prompt="x"),
    )
