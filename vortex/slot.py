"""What one slot carries from stage to stage beside the recipe."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from vortex.models.kokoro import Speech


class MediaSink(Protocol):
    """Takes the video while it is made; its methods block and are called from a stage's thread."""

    def begin(
        self, *, waveform: np.ndarray, sample_rate_hz: int, fps: int, width: int, height: int
    ) -> None:
        """Start over: what an earlier attempt of the video stage wrote is discarded.

        Args:
            waveform: float32 `[samples]` in [-1, 1], mono, as long as the video or shorter.
            sample_rate_hz: samples per second of the waveform.
            fps: frames per second, constant.
            width: pixels across.
            height: pixels down.
        """

    def write(self, frames: np.ndarray) -> None:
        """Append frames, uint8 `[n, H, W, 3]`; they are not referred to after the call."""


@dataclass
class SlotContext:
    """One slot on its way through the stages.

    The scheduler hands it to pipelines that declare `takes_slot_context`; plain pipelines never
    see it. Stages leave here what later stages and the caller need, on the event loop's thread.
    """

    recipe: Mapping[str, Any]
    slot_id: int
    seed: int
    """Decides every random choice of the slot."""
    sink: MediaSink | None = None
    """Takes frames as they are made; None keeps them in the result alone."""

    stage: str | None = None
    """The last stage that was started."""
    breakdown: dict[str, float] = field(default_factory=dict)
    """Milliseconds of each stage that ended, well or not: `audio_ms`, `image_ms`, …"""
    speech: Speech | None = None
    """What the audio stage made, with the times of its phonemes."""
    frames_computed: int = 0
    """Frames that the video stage rendered."""
    steps: int = 0
    """Denoising steps that the image stage took."""


def slot_seed(recipe: Mapping[str, Any], slot_id: int, channel: str = "main") -> int:
    """Return the recipe's seed, or one derived from channel and slot id.

    Derived, so that a slot made again after a crash is the same slot.
    """
    seed = recipe.get("seed")
    return zlib.crc32(f"{channel}/{slot_id}".encode()) if seed is None else int(seed)
