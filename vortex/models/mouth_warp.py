"""A stand-in for a face model: a mouth-shaped region of the portrait moves with the loudness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional

from vortex.models.kokoro import Speech
from vortex.utils.cancellation import CancellationToken
from vortex.utils.frames import cover
from vortex.utils.lipsync import drive

# Where a centred frontal portrait has its mouth, in coordinates from -1 (left, top) to 1.
_MOUTH_Y = 0.35
_MOUTH_HALF_WIDTH = 0.22
_JAW_LENGTH = 0.45
_WIDEST_GAP = 0.2
_GAP_EDGE = 0.02
_INTERIOR = torch.tensor([0.16, 0.05, 0.06]).view(1, 3, 1, 1)

_SWAY_PER_DEGREE = 0.006  # half-widths that the picture moves as a head would turn


class MouthWarp:
    """Animates any picture as if its mouth were in the usual place. It knows nothing of faces.

    What is below the mouth's line is pushed down as far as `lipsync` opens the mouth, and a dark
    opening appears; the picture sways a little with the head. It stands behind the interface of a
    real animator, and shows that sound and picture are in step.
    """

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
        """Yield the video in batches; see `FaceAnimator`."""
        picture = cover(portrait.float().cpu(), width, height)
        motion = drive(speech, fps, frame_count, expressions, seed)
        openings = torch.from_numpy(motion.openings)
        pitch, yaw, _ = torch.from_numpy(motion.angles).unbind(-1)
        sway = _SWAY_PER_DEGREE * torch.stack([yaw, pitch], dim=-1)
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
        )
        # Unit-height profiles of the mouth across and of the jaw below its line.
        across = torch.exp(-((x / _MOUTH_HALF_WIDTH) ** 2))
        below = (y - _MOUTH_Y).clamp(min=0.0)
        jaw = torch.where(y >= _MOUTH_Y, torch.exp(-((below / _JAW_LENGTH) ** 2)), 0.0)
        for start in range(0, frame_count, batch_frames):
            token.raise_if_cancelled()
            gap = _WIDEST_GAP * openings[start : start + batch_frames].view(-1, 1, 1) * across
            shift = sway[start : start + batch_frames].view(-1, 2, 1, 1)
            grid = torch.stack([x - shift[:, 0], y - gap * jaw - shift[:, 1]], dim=-1)
            frames = functional.grid_sample(
                picture.expand(len(grid), -1, -1, -1),
                grid,
                padding_mode="reflection",
                align_corners=True,
            )
            open_here = torch.sigmoid((gap - below) / _GAP_EDGE) * (gap / (gap + _GAP_EDGE))
            inside = (open_here * torch.where(y >= _MOUTH_Y, 1.0, 0.0)).unsqueeze(1)
            frames = frames * (1 - inside) + _INTERIOR * inside
            yield (frames * 255.0 + 0.5).clamp(0, 255).to(torch.uint8)
