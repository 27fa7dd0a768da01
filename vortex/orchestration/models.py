"""What the scheduler returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from vortex.models.clip_ensemble import DualClipResult


@dataclass(frozen=True)
class GenerationBreakdown:
    """Milliseconds that each stage took on its own, retries included, and the whole slot.

    Audio and image run in parallel, so the stages may add up to more than the total.
    """

    audio_ms: float
    image_ms: float
    video_ms: float
    clip_ms: float
    total_ms: float


@dataclass(frozen=True)
class SlotMetadata:
    """When the slot was made; times are `time.monotonic()` seconds."""

    slot_id: int | None
    start_time: float
    end_time: float
    deadline: float


@dataclass(frozen=True)
class SlotResult:
    """A finished slot."""

    video_frames: torch.Tensor
    """`[T, 3, H, W]`, as the pipeline made them (ours: uint8 on the CPU)."""
    audio_waveform: torch.Tensor
    """`[samples]`, as the pipeline made them (ours: float32 in [-1, 1] at 24 kHz)."""
    clip_embedding: torch.Tensor
    """`[512]`, unit length."""
    metadata: SlotMetadata
    breakdown: GenerationBreakdown
    deadline_met: bool
    verification: DualClipResult | None = None
    """The whole verdict of the self-check; the caller decides what a failed one means."""

    @property
    def verdict(self) -> DualClipResult:
        """The self-check's verdict.

        Raises:
            ValueError: the pipeline returned none.
        """
        if self.verification is None:
            raise ValueError("the pipeline returned no verdict")
        return self.verification
