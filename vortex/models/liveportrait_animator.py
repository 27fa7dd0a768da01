"""The face animator: LivePortrait, driven by the slot's own speech."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from vortex.models.kokoro import Speech
from vortex.models.liveportrait import LivePortrait
from vortex.utils.cancellation import CancellationToken
from vortex.utils.frames import cover
from vortex.utils.lipsync import drive


class LivePortraitAnimator:
    """Makes a portrait speak; see `FaceAnimator`."""

    def __init__(self, model: LivePortrait) -> None:
        """Take the loaded model."""
        self._model = model

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """LivePortrait's networks by name."""
        return self._model.parts

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
        """Yield the video in batches, scaled and cut to the format; see `FaceAnimator`."""
        motion = drive(speech, fps, frame_count, expressions, seed)
        source = self._model.prepare(portrait)
        driving = self._model.drive(
            source,
            expression=torch.from_numpy(motion.expression),
            angles=torch.from_numpy(motion.angles),
        )
        for batch in self._model.render_batches(
            source, driving, batch_frames=batch_frames, token=token
        ):
            yield cover(batch, width, height)
