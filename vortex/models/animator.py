"""What the video stage needs of a face animator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from vortex.models.kokoro import Speech
from vortex.utils.cancellation import CancellationToken


class FaceAnimator(Protocol):
    """Makes a portrait speak."""

    def animate(
        self,
        portrait: torch.Tensor,
        speech: Speech,
        *,
        fps: int,
        frame_count: int,
        width: int,
        height: int,
        expressions: Sequence[str],
        seed: int,
        batch_frames: int,
        token: CancellationToken,
    ) -> Iterator[torch.Tensor]:
        """Yield the video in batches, in order.

        Args:
            portrait: float32 `[1, 3, H, W]` in [0, 1].
            speech: the waveform that the mouth follows, with phoneme times where known.
            fps: frames per second.
            frame_count: frames in all.
            width: pixels across of the video.
            height: pixels down of the video.
            expressions: shown in order, each for an equal share of the video.
            seed: decides everything random; same arguments, same frames, whatever the batches.
            batch_frames: frames in one batch.
            token: polled before each batch.

        Yields:
            uint8 `[n, 3, height, width]` on the CPU, of its own memory.

        Raises:
            StageCancelled: the token was cancelled.
        """
