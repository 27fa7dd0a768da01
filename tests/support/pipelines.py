"""Two small pipelines for the scheduler, whose stages behave as a test tells them.

`PlainPipeline` has the four methods and nothing more; `TorchPipeline` does blocking torch work in
`StageThreads`, as the real one does.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from schemas import Recipe
from vortex.models.clip_ensemble import DualClipResult
from vortex.slot import SlotContext, as_recipe
from vortex.utils.cancellation import CancellationToken
from vortex.utils.threads import StageThreads

SAMPLE_RATE_HZ = 24_000
FPS = 4
SIZE = 32

RECIPE: Mapping[str, Any] = {
    "slot_params": {"duration_sec": 2.0, "fps": FPS},
    "audio_track": {"script": "Good evening, here is the news."},
    "visual_track": {"prompt": "a newsreader at a desk"},
}

CONFIG: Mapping[str, Any] = {
    "timeouts": {"audio_s": 15.0, "image_s": 12.0, "video_s": 15.0, "clip_s": 5.0},
    "retry_policy": {"audio": 0, "image": 0, "video": 0, "clip": 0},
    "deadline_buffer_s": 1.0,
}


def config(**changes: Any) -> dict[str, Any]:
    """Return the usual configuration; changes to a section are merged into it."""
    return {
        key: {**value, **changes.get(key, {})}
        if isinstance(value, Mapping)
        else changes.get(key, value)
        for key, value in CONFIG.items()
    }


@dataclass
class PlainStage:
    """How a stage of `PlainPipeline` behaves, and what became of its attempts."""

    delay_s: float = 0.0
    errors: list[Exception] = field(default_factory=list)
    """Raised by the first attempts, one each."""
    cleanup_s: float = 0.0
    """How long a cancelled attempt takes to end."""

    started: int = 0
    finished: int = 0
    cancelled: int = 0
    """Attempts that were cancelled and have ended."""

    async def play(self) -> None:
        self.started += 1
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            await asyncio.sleep(self.cleanup_s)
            self.cancelled += 1
            raise
        if self.errors:
            raise self.errors.pop(0)
        self.finished += 1


class PlainPipeline:
    def __init__(
        self,
        *,
        audio: PlainStage | None = None,
        image: PlainStage | None = None,
        video: PlainStage | None = None,
        clip: PlainStage | None = None,
    ) -> None:
        self.audio = audio or PlainStage()
        self.image = image or PlainStage()
        self.video = video or PlainStage()
        self.clip = clip or PlainStage()
        self.scores = 0.8, 0.8

    async def _generate_audio(self, recipe: Mapping[str, Any]) -> torch.Tensor:
        await self.audio.play()
        return speech(recipe)

    async def _generate_actor(self, recipe: Mapping[str, Any]) -> torch.Tensor:
        await self.image.play()
        return portrait(recipe)

    async def _generate_video(self, image: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        await self.video.play()
        return animate(image, audio)

    async def _verify_semantic(
        self, video: torch.Tensor, recipe: Mapping[str, Any]
    ) -> DualClipResult:
        await self.clip.play()
        return verdict(video, *self.scores)


@dataclass
class TorchStage:
    """How a stage of `TorchPipeline` behaves, and how far it came."""

    steps: int = 2
    """Matrix products of an attempt, between which it asks whether it is cancelled."""
    overruns: int = 0
    """So many attempts, from the first, never come to an end by themselves."""
    error: Exception | None = None
    """Raised at the end."""
    meet: threading.Barrier | None = None
    """Waited at before the first step; broken, and so an error, when others are late."""
    deaf_until: threading.Event | None = None
    """Until it is set, the stage neither ends nor looks whether it is cancelled."""

    steps_done: int = 0
    longest_step_s: float = 0.0
    contexts: list[SlotContext] = field(default_factory=list)
    """What each attempt was given."""

    def work(self, token: CancellationToken) -> None:
        if self.meet is not None:
            self.meet.wait(timeout=30)
        if self.deaf_until is not None:
            assert self.deaf_until.wait(timeout=30), "the test forgot to release a deaf stage"
        matrix = torch.full((256, 256), 1 / 256)
        overruns = len(self.contexts) <= self.overruns
        for _ in itertools.count() if overruns else range(self.steps):
            token.raise_if_cancelled()
            started = time.perf_counter()
            matrix = matrix @ matrix
            self.steps_done += 1
            self.longest_step_s = max(self.longest_step_s, time.perf_counter() - started)
        if self.error is not None:
            raise self.error


class TorchPipeline:
    takes_slot_context = True

    def __init__(
        self,
        *,
        audio: TorchStage | None = None,
        image: TorchStage | None = None,
        video: TorchStage | None = None,
        clip: TorchStage | None = None,
        cancel_grace_s: float = 30.0,
    ) -> None:
        self.threads = StageThreads(max_threads=2, cancel_grace_s=cancel_grace_s)
        self.audio = audio or TorchStage()
        self.image = image or TorchStage()
        self.video = video or TorchStage()
        self.clip = clip or TorchStage()

    async def _generate_audio(self, recipe: Recipe, slot: SlotContext) -> torch.Tensor:
        await self._play(self.audio, slot)
        return speech(recipe)

    async def _generate_actor(self, recipe: Recipe, slot: SlotContext) -> torch.Tensor:
        await self._play(self.image, slot)
        return portrait(recipe)

    async def _generate_video(
        self, image: torch.Tensor, audio: torch.Tensor, slot: SlotContext
    ) -> torch.Tensor:
        await self._play(self.video, slot)
        return animate(image, audio)

    async def _verify_semantic(
        self, video: torch.Tensor, recipe: Recipe, slot: SlotContext
    ) -> DualClipResult:
        await self._play(self.clip, slot)
        return verdict(video, 0.8, 0.8)

    async def _play(self, stage: TorchStage, slot: SlotContext) -> None:
        stage.contexts.append(slot)
        await self.threads.run(stage.work)

    @property
    def steps_done(self) -> int:
        return sum(stage.steps_done for stage in (self.audio, self.image, self.video, self.clip))


def working_threads() -> list[str]:
    """Return the names of the threads that are inside a `TorchStage` at this moment."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    working = []
    for ident, top in sys._current_frames().items():
        frame = top
        while frame is not None and frame.f_code is not TorchStage.work.__code__:
            frame = frame.f_back  # type: ignore[assignment]  # None below the last frame
        if frame is not None:
            working.append(names.get(ident, str(ident)))
    return working


def speech(recipe: Recipe | Mapping[str, Any]) -> torch.Tensor:
    samples = int(as_recipe(recipe).slot_params.duration_sec * SAMPLE_RATE_HZ)
    return torch.sin(torch.arange(samples) * (220 * 2 * torch.pi / SAMPLE_RATE_HZ))


def portrait(recipe: Recipe | Mapping[str, Any]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(as_recipe(recipe).visual_track.prompt))
    return torch.rand(1, 3, SIZE, SIZE, generator=generator)


def animate(image: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
    """Return one brightened or darkened copy of the portrait a frame, uint8 `[T, 3, H, W]`."""
    loudness = functional.adaptive_avg_pool1d(
        audio.abs()[None], len(audio) * FPS // SAMPLE_RATE_HZ
    )[0]
    return (image * loudness[:, None, None, None] * 255).to(torch.uint8)


def verdict(video: torch.Tensor, score_clip_b: float, score_clip_l: float) -> DualClipResult:
    """Return the self-check's verdict for given scores; the embedding is the frames' histogram."""
    histogram = torch.histc(video.float(), bins=512, min=0, max=255)
    embedding = functional.normalize(histogram, dim=0)
    return DualClipResult.from_scores(embedding, score_clip_b, score_clip_l)
