"""A pipeline without models that hands real frames to the encoder, as fast as it takes them."""

from __future__ import annotations

import asyncio

import numpy as np
import torch

from schemas import Recipe
from tests.support.pipelines import SAMPLE_RATE_HZ, speech, verdict
from vortex.models.clip_ensemble import DualClipResult
from vortex.pipeline import ModelRegistry
from vortex.slot import SlotContext

BATCH = 4


class FilmPipeline:
    """Films of noise, which no encoder makes small."""

    takes_slot_context = True
    device_title = "none"

    def __init__(self) -> None:
        self.models = ModelRegistry({}, {})

    async def _generate_audio(self, recipe: Recipe, slot: SlotContext) -> torch.Tensor:
        return speech(recipe)

    async def _generate_actor(self, recipe: Recipe, slot: SlotContext) -> torch.Tensor:
        return torch.zeros(1, 3, 64, 64)

    async def _generate_video(
        self, image: torch.Tensor, audio: torch.Tensor, slot: SlotContext
    ) -> torch.Tensor:
        frames = np.random.default_rng(slot.seed).integers(
            0, 255, (slot.recipe.slot_params.frame_count, 64, 64, 3), dtype=np.uint8
        )
        await asyncio.to_thread(_write, slot, audio.numpy(), frames)
        slot.frames_computed = len(frames)
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    async def _verify_semantic(
        self, video: torch.Tensor, recipe: Recipe, slot: SlotContext
    ) -> DualClipResult:
        return verdict(video, 0.8, 0.8)

    async def encode_prompt(self, recipe: Recipe, seed: int) -> None:
        """Have no text encoder."""

    def close(self) -> None:
        """Hold nothing."""


def _write(slot: SlotContext, waveform: np.ndarray, frames: np.ndarray) -> None:
    sink = slot.sink
    assert sink is not None
    fps = slot.recipe.slot_params.fps
    sink.begin(waveform=waveform, sample_rate_hz=SAMPLE_RATE_HZ, fps=fps, width=64, height=64)
    for start in range(0, len(frames), BATCH):
        sink.write(frames[start : start + BATCH])
