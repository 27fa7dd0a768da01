"""A stand-in for a face model: a mouth-shaped region of the portrait moves with the loudness."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional

from vortex.models.kokoro import Speech
from vortex.utils.audio import envelope
from vortex.utils.cancellation import CancellationToken

# Where a centred frontal portrait has its mouth, in coordinates from -1 (left, top) to 1.
_MOUTH_Y = 0.35
_MOUTH_HALF_WIDTH = 0.22
_JAW_LENGTH = 0.45
_WIDEST_GAP = 0.16
_GAP_EDGE = 0.02
_INTERIOR = torch.tensor([0.16, 0.05, 0.06]).view(1, 3, 1, 1)

_SILENCE = 0.12  # share of the loud level below which the mouth is closed
_RELEASE = 0.45  # how much of an opening is left one frame later

_SWAY = 0.012
_SWAY_HZ = (0.21, 0.13)
# How lively the head moves with an expression; the face itself cannot show any.
_LIVELINESS = {"neutral": 1.0, "calm": 0.5, "excited": 1.6, "manic": 2.2}


class MouthWarp:
    """Animates any picture as if its mouth were in the usual place. It knows nothing of faces.

    What is below the mouth's line is pushed down, by the loudness of the frame's own interval of
    speech, and a dark opening appears; the picture sways a little. It stands behind the interface
    of a real animator, and shows that sound and picture are in step.
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
        picture = _cover(portrait.float().cpu(), width, height)
        openings = torch.from_numpy(mouth_openings(speech, fps, frame_count))
        sway = _sway(fps, frame_count, expressions, seed)
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


def mouth_openings(speech: Speech, fps: int, frame_count: int) -> np.ndarray:
    """Return how far the mouth is open in each frame, float32 `[frame_count]` in [0, 1].

    Louder is wider, relative to the speech's own loud level; silence is a closed mouth. It opens
    within the frame and closes over two or three, as a jaw does.
    """
    loudness = envelope(speech.waveform, speech.sample_rate_hz, fps, frame_count)
    loud = float(np.quantile(loudness[loudness > 0], 0.9)) if loudness.any() else 1.0
    wanted = np.clip((loudness / loud - _SILENCE) / (1 - _SILENCE), 0.0, 1.0)
    openings = np.zeros(frame_count, dtype=np.float32)
    left = 0.0
    for frame, opening in enumerate(wanted):
        left = max(float(opening), left * _RELEASE)
        openings[frame] = left if left > 0.02 else 0.0
    return openings


def _sway(fps: int, frame_count: int, expressions: Sequence[str], seed: int) -> torch.Tensor:
    """Return a slow drift of the picture, `[frame_count, 2]` in half-widths."""
    phases = np.random.default_rng(seed).uniform(0, 2 * math.pi, size=2)
    time_s = np.arange(frame_count) / fps
    shares = np.minimum(np.arange(frame_count) * len(expressions) // frame_count, len(expressions))
    liveliness = np.array([_LIVELINESS[expressions[share]] for share in shares])
    kernel = np.ones(fps) / fps  # one second from one expression to the next
    padded = np.pad(liveliness, (fps // 2, fps - 1 - fps // 2), mode="edge")
    liveliness = np.convolve(padded, kernel, mode="valid")
    drift = [
        np.sin(2 * math.pi * hz * time_s + phase)
        for hz, phase in zip(_SWAY_HZ, phases, strict=True)
    ]
    return torch.from_numpy((_SWAY * liveliness * np.stack(drift)).T.astype(np.float32))


def _cover(picture: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Scale a picture until it covers the format, and cut what sticks out on both sides."""
    have_height, have_width = picture.shape[-2:]
    scale = max(width / have_width, height / have_height)
    size = (max(height, round(have_height * scale)), max(width, round(have_width * scale)))
    if size != (have_height, have_width):
        picture = functional.interpolate(picture, size, mode="bicubic", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return picture[..., top : top + height, left : left + width].clamp(0, 1)
