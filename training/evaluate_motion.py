"""Measures faces in motion against drawings of the same motion: pixels, lips, who it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.drawing import draw, draw_mouths, mouth_box
from training.faces import Face
from training.judge import Judge
from training.puppet import Pose
from vortex.models.kokoro import Speech
from vortex.models.liveportrait import LivePortrait
from vortex.models.liveportrait.animator import LivePortraitAnimator
from vortex.models.liveportrait.lipsync import drive
from vortex.utils.cancellation import CancellationToken

SIZE = 128
_CANDIDATES = np.linspace(0.0, 1.0, 21)
_MARGIN = 3  # pixels around the mouth's place, for a head that moves
_MOST_LAG = 4


@dataclass(frozen=True)
class Performance:
    """One drawn face that speaks: as it was rendered, and as it would be drawn."""

    face: Face
    poses: list[Pose]
    openings: NDArray[np.float32]
    """What the phonemes ask of the mouth, `[T]` from 0 to 1."""
    rendered: torch.Tensor
    """uint8 `[T, 3, SIZE, SIZE]`."""

    @classmethod
    def play(
        cls, model: LivePortrait, face: Face, speech: Speech, *, fps: int, seed: int
    ) -> Performance:
        """Let a face at rest speak."""
        frames = max(1, int(speech.duration_s * fps))
        expressions = ["neutral"]
        motion = drive(speech, fps, frames, expressions, seed)
        portrait = _as_tensor([draw(face, size=SIZE)]) / 255.0
        batches = LivePortraitAnimator(model).animate(
            portrait,
            speech,
            fps=fps,
            frame_count=frames,
            width=SIZE,
            height=SIZE,
            expressions=expressions,
            seed=seed,
            batch_frames=12,
            token=CancellationToken(),
        )
        poses = [Pose.read(*one) for one in zip(motion.expression, motion.angles, strict=True)]
        return cls(face, poses, motion.openings, torch.cat(list(batches)))

    @cached_property
    def drawn(self) -> torch.Tensor:
        """Drawings of the same motion, uint8 `[T, 3, SIZE, SIZE]`."""
        return _as_tensor([draw(self.face, pose.drawn(), SIZE) for pose in self.poses])

    def psnr_db(self) -> float:
        """Return the mean peak signal-to-noise ratio against drawings of the same motion."""
        errors = (self.rendered.float() - self.drawn.float()).div(255).square().mean(dim=(1, 2, 3))
        return float((-10 * errors.log10()).mean())

    def seen_openings(self) -> NDArray[np.float64]:
        """Return how far the mouth is open in the pixels, `[T]` from 0 to 1.

        The opening with which a drawing, its head turned as in the frame, comes closest.
        """
        rows, columns = mouth_box(self.face, SIZE)
        box = (
            slice(rows.start - _MARGIN, rows.stop + _MARGIN),
            slice(columns.start - _MARGIN, columns.stop + _MARGIN),
        )
        seen = []
        for frame, pose in zip(self.rendered, self.poses, strict=True):
            pixels = _pixels(frame)[box]
            drawings = draw_mouths(self.face, pose.drawn(), _CANDIDATES.tolist(), SIZE)
            errors = [np.square(pixels - drawn[box]) for drawn in drawings]
            seen.append(_CANDIDATES[int(np.argmin(np.mean(errors, axis=(1, 2, 3))))])
        return np.array(seen)

    def share_unchanged(self, judge: Judge, frames: torch.Tensor) -> dict[str, float]:
        """Return for each attribute in how many frames it is judged as in the portrait."""
        (first,) = judge.opinions(_as_tensor([draw(self.face, size=SIZE)]))
        opinions = judge.opinions(frames)
        return {
            name: float(np.mean([some[name] == value for some in opinions]))
            for name, value in first.items()
        }


def correlations(first: NDArray[Any], second: NDArray[Any]) -> dict[int, float]:
    """Return the correlation of two tracks by how many frames the first is late; 0 for stills."""
    frames = len(first)
    if not (first.std() and second.std()):
        return dict.fromkeys(range(-_MOST_LAG, _MOST_LAG + 1), 0.0)
    return {
        lag: float(
            np.corrcoef(
                first[max(0, lag) : frames + min(0, lag)],
                second[max(0, -lag) : frames - max(0, lag)],
            )[0, 1]
        )
        for lag in range(-_MOST_LAG, _MOST_LAG + 1)
    }


def figures(performances: Sequence[Performance], judge: Judge) -> dict[str, Any]:
    """Return what all performances show, as the means over them, and of lips the worst too.

    Whether a face stays who it is, is judged on drawings of the same motion too: what changes in
    these is the judge's own error.
    """
    by_lag = []
    closed, asked_closed = 0, 0
    for performance in performances:
        seen = performance.seen_openings()
        by_lag.append(correlations(seen, performance.openings))
        shut = performance.openings == 0
        closed += int((seen[shut] < 0.1).sum())
        asked_closed += int(shut.sum())
    mean = {lag: float(np.mean([some[lag] for some in by_lag])) for lag in by_lag[0]}
    unchanged = {
        "identity": [each.share_unchanged(judge, each.rendered) for each in performances],
        "identity_of_drawings": [each.share_unchanged(judge, each.drawn) for each in performances],
    }
    return {
        "psnr_db": round(float(np.mean([some.psnr_db() for some in performances])), 2),
        "lips_correlation": round(mean[0], 3),
        "lips_correlation_worst": round(min(some[0] for some in by_lag), 3),
        "lips_lag_frames": max(mean, key=mean.__getitem__),
        "closed_when_asked": round(closed / max(1, asked_closed), 3),
        **{
            key: {
                name: round(float(np.mean([some[name] for some in shares])), 3)
                for name in shares[0]
            }
            for key, shares in unchanged.items()
        },
    }


def _pixels(frame: torch.Tensor) -> NDArray[np.float64]:
    return frame.permute(1, 2, 0).numpy().astype(np.float64)


def _as_tensor(pictures: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
