"""The face animator: LivePortrait, driven by the slot's own speech."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from vortex.models.kokoro import Speech
from vortex.models.liveportrait import LivePortrait
from vortex.models.liveportrait.crop import Background
from vortex.models.liveportrait.lipsync import drive
from vortex.utils.cancellation import CancellationToken
from vortex.utils.composition import Placement, compose


class LivePortraitAnimator:
    """Makes a portrait speak."""

    def __init__(self, model: LivePortrait) -> None:
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
        chosen: Iterator[Sequence[int]] | None = None,
        token: CancellationToken,
    ) -> Iterator[torch.Tensor]:
        """Yield the video in batches, in order, composed for the format.

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
            chosen: the numbers of each batch's frames, asked for when it is about to be drawn; None
                draws all, `batch_frames` at a time.
            token: polled before each batch.

        Yields:
            uint8 `[n, 3, height, width]` on the CPU, of its own memory.

        Raises:
            StageCancelled: the token was cancelled.
        """
        motion = drive(speech, fps, frame_count, expressions, seed)
        crop = self._model.find_face(portrait)
        source = self._model.prepare(crop.of(portrait))
        driving = self._model.drive(
            source,
            expression=torch.from_numpy(motion.expression),
            angles=torch.from_numpy(motion.angles),
        )
        around = None
        if crop.side < crop.whole:
            side = Placement.of(width, height).side
            around = Background(portrait.to(driving.device), crop, side).around

        def finish(drawn: torch.Tensor) -> torch.Tensor:
            return compose(drawn if around is None else around(drawn), width, height)

        yield from self._model.render_batches(
            source, driving, batch_frames=batch_frames, chosen=chosen, finish=finish, token=token
        )
