"""An engine for tests that need slots but no videos; it does what a test tells it, slot by slot."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from consumer.engine.base import (
    EngineLostError,
    EngineResult,
    OnStage,
    SlotMade,
    SlotRequest,
    ignore_stage,
)
from schemas import Artifact, Quality, Recipe, Stage, Verification
from vortex.rung import FULL, Rung


@dataclass(frozen=True)
class Script:
    """How the work on one slot goes."""

    work_s: float = 0.0
    """Seconds of work."""
    hold: asyncio.Event | None = None
    """The work goes on until this is set, on top of `work_s`."""
    speech: asyncio.Event | None = None
    """The video begins once this is set, before `work_s`."""
    ahead: asyncio.Event | None = None
    """Speaking the slot ahead goes on until this is set."""
    ahead_error: EngineLostError | None = None
    """Raised at the end of speaking it ahead; takes the engine down."""
    store: asyncio.Event | None = None
    """The slot is then stored until this is set."""
    error: Exception | None = None
    """Raised at the end of the work; an `EngineLostError` takes the engine down."""
    lost_when_cancelled: bool = False
    """Cancelling the work takes the engine down."""
    result: EngineResult | None = None
    """What comes of it; None is a slot that was made."""


class ScriptedEngine:
    """An `Engine` whose slots follow scripts, by slot id.

    It insists on what an engine may rely on: it is started first, makes one slot at a time besides
    those that are being stored, speaks one slot ahead at a time, and is started again after it was
    lost.
    """

    def __init__(
        self,
        scripts: Mapping[int, Script] | None = None,
        *,
        default: Script | None = None,
        predicted_s: float | None = None,
    ) -> None:
        """Follow these scripts; all of them may be changed later.

        Args:
            scripts: by slot id.
            default: of all other slots; without one they are made at once.
            predicted_s: what `predict_s` answers.
        """
        self.scripts = dict(scripts or {})
        self.default = default or Script()
        self.predicted_s = predicted_s
        self.rest_s: dict[Stage, float] = {}
        """What `predict_rest_s` answers."""
        self.room_s = math.inf
        """What `overlap_room_s` answers."""
        self.speech_s = math.inf
        """What `speech_room_s` answers."""
        self.ladder: tuple[Rung, ...] = (FULL,)
        self.ruled_out: str | None = None
        """What `rule_out` answers."""
        self.most: Mapping[str, float] = {}
        """What `most_work` answers."""
        self.start_error: Exception | None = None
        """Raised by the next `start`."""
        self.start_s = 0.0
        """Seconds that `start` takes."""
        self.settle_error: EngineLostError | None = None
        """Raised by the next `settle`, which takes the engine down."""
        self.may_start = asyncio.Event()
        """`start` waits for it; set unless a test clears it."""
        self.may_start.set()
        self.starts = 0
        self.stops = 0
        """How often it was stopped while it was up."""
        self.requests: list[SlotRequest] = []
        """All that `run` was called with."""
        self.finished: list[int] = []
        """Slot ids that got a result."""
        self.failed: list[int] = []
        """Slot ids whose work raised an error."""
        self.cancelled: list[int] = []
        """Slot ids whose work was stopped from outside."""
        self.running: int | None = None
        """The slot id that is being made."""
        self.ahead_s = 0.0
        """Seconds that speaking a slot ahead takes."""
        self.spoken: list[int] = []
        """Slot ids that were asked for ahead."""
        self.silenced: list[int] = []
        """Slot ids whose speech ahead was stopped from outside."""
        self.speaking: int | None = None
        """The slot id that is spoken ahead."""
        self.storing: set[int] = set()
        """The slot ids that are being stored."""
        self.up = False
        """Whether the engine is started and not lost."""

    @property
    def started(self) -> list[int]:
        """The slot ids whose work began, in order."""
        return [request.slot_id for request in self.requests]

    @property
    def ready(self) -> bool:
        """Whether it is up."""
        return self.up

    async def settle(self) -> None:
        """Do nothing, since the work has stopped when `run` returns; or fail as told."""
        error, self.settle_error = self.settle_error, None
        if error is not None:
            self.up = False
            raise error

    async def start(self) -> None:
        """Be ready as soon as the test allows it."""
        assert not self.up, "started twice"
        self.starts += 1
        await asyncio.sleep(self.start_s)
        await self.may_start.wait()
        if self.start_error is not None:
            raise self.start_error
        self.up = True

    async def run(self, request: SlotRequest, on_stage: OnStage = ignore_stage) -> EngineResult:
        """Follow the slot's script."""
        assert self.up, "asked for a slot before it was started, or after it was lost"
        assert self.running is None, f"asked for a slot while slot {self.running} is being made"
        script = self.scripts.get(request.slot_id, self.default)
        self.requests.append(request)
        self.running = request.slot_id
        on_stage(Stage.AUDIO)
        try:
            await self._work(script, request.slot_id, on_stage)
        except asyncio.CancelledError as error:
            self.cancelled.append(request.slot_id)
            if script.lost_when_cancelled:
                self.up = False
                raise EngineLostError("did not stop when it was told to") from error
            raise
        except Exception as error:
            self.failed.append(request.slot_id)
            self.up = self.up and not isinstance(error, EngineLostError)
            raise
        finally:
            if self.running == request.slot_id:
                self.running = None
            self.storing.discard(request.slot_id)
        self.finished.append(request.slot_id)
        return script.result or slot_made(request)

    async def speak_ahead(self, request: SlotRequest) -> None:
        """Follow the slot's script."""
        assert self.up, "asked to speak before it was started, or after it was lost"
        assert self.running != request.slot_id, "asked to speak a slot ahead of itself"
        assert self.speaking is None, f"asked to speak while slot {self.speaking} is spoken"
        script = self.scripts.get(request.slot_id, self.default)
        self.spoken.append(request.slot_id)
        self.speaking = request.slot_id
        try:
            await asyncio.sleep(self.ahead_s)
            if script.ahead is not None:
                await script.ahead.wait()
        except asyncio.CancelledError:
            self.silenced.append(request.slot_id)
            raise
        finally:
            self.speaking = None
        if script.ahead_error is not None:
            self.up = False
            raise script.ahead_error

    def predict_s(self, recipe: Recipe, rung: Rung = FULL) -> float | None:
        """Return `predicted_s`, whatever the recipe, or the rung's share of it."""
        return None if self.predicted_s is None else self.predicted_s * rung.work_share

    def predict_rest_s(self, recipe: Recipe, rung: Rung, stage: Stage) -> float | None:
        """Return what `rest_s` says of the stage, whatever the recipe."""
        return self.rest_s.get(stage)

    @property
    def spread(self) -> float:
        """Return 0: predictions are exact."""
        return 0.0

    @property
    def overlap_room_s(self) -> float:
        """Return `room_s`."""
        return self.room_s

    def speech_room_s(self, recipe: Recipe) -> float:
        """Return `speech_s`, whatever the recipe."""
        return self.speech_s

    def rule_out(self, recipe: Recipe) -> str | None:
        """Return `ruled_out`, whatever the recipe."""
        return self.ruled_out

    def most_work(self) -> Mapping[str, float]:
        """Return `most`."""
        return self.most

    @property
    def memory_bytes(self) -> int:
        """Return a size that no test changes."""
        return 123_000_000

    async def stop(self) -> None:
        """Be down."""
        self.stops += self.up
        self.up = False

    async def _work(self, script: Script, slot_id: int, on_stage: OnStage) -> None:
        if script.speech is not None:
            await script.speech.wait()
            on_stage(Stage.AUDIO, ended=True)
            on_stage(Stage.VIDEO)
        await asyncio.sleep(script.work_s)
        if script.hold is not None:
            await script.hold.wait()
        if script.store is not None:
            self.running = None
            self.storing.add(slot_id)
            on_stage(Stage.STORE)
            await script.store.wait()
        if script.error is not None:
            raise script.error


def slot_made(request: SlotRequest) -> SlotMade:
    """Return a valid result for a request; the same request gives the same result."""
    name = f"{request.channel}/{request.slot_id}"
    params = request.recipe.slot_params
    frames = params.frame_count
    return SlotMade(
        artifact=Artifact(
            uri=f"memory://slots/{name}.mp4",
            bytes=1000 + request.slot_id % 1000,
            sha256=hashlib.sha256(f"{name}/{request.seed}".encode()).hexdigest(),
            duration_s=frames / params.fps,
            width=params.width,
            height=params.height,
            fps=params.fps,
        ),
        verification=Verification(
            score_clip_b=0.78,
            score_clip_l=0.81,
            ensemble_score=0.798,
            self_check_passed=True,
            enforced=True,
            outlier_detected=False,
            embedding=(1.0, *([0.0] * 511)),
        ),
        quality=Quality(frames_computed=frames, frames_total=frames, steps=4, rung="full"),
        seed=request.seed,
        models={"scripted": "1"},
        times_ms={"audio_ms": 40.0, "image_ms": 30.0, "video_ms": 200.0, "clip_ms": 5.0},
    )
