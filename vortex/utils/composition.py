"""Puts a square picture of a head into a format, and finds it again in the frame.

The picture is never cut above or below, so that heads stay whole. What it leaves free is
background, continued from its edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

_SHOWN_WIDTH = 7 / 8
"""Least share of the picture's width that a tall format shows: hair and hats, not all of the
shoulders. At 0.8, 3 of 20 videos of `mini` no longer passed the self-check (November 2026)."""
_HEADROOM = 2 / 3
"""Of what a tall format leaves free, the share above the head; below, the garment goes on."""

# How an edge is continued.
_OVERLAP = 1 / 32  # of the picture, faded over: its outermost pixels are drawn worst
_SAMPLES = 64  # along the edge
_STEPS = 16  # away from the edge
_MEDIAN = 17  # samples; what is narrower, such as the tip of a hat, is not continued
_SOFTENING = 0.35  # how much wider the blur gets for each pixel further away


@dataclass(frozen=True)
class Placement:
    """The square of a frame that the picture fills; a tall frame cuts it on the left and right."""

    left: int
    top: int
    side: int

    @classmethod
    def of(cls, width: int, height: int) -> Placement:
        """Return where the picture is in frames of a format; a square one it fills."""
        side = height if width >= height else min(height, round(width / _SHOWN_WIDTH))
        return cls((width - side) // 2, round(_HEADROOM * (height - side)), side)


def compose(pictures: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Return frames that show each picture in a format.

    Args:
        pictures: uint8 `[n, 3, S, S]`, on any device.
        width: pixels across of the frames.
        height: pixels down of the frames.

    Returns:
        uint8 `[n, 3, height, width]`; the pictures themselves if they fit already.
    """
    if pictures.shape[-2:] == (height, width):
        return pictures
    place = Placement.of(width, height)
    scaled = pictures
    if pictures.shape[-1] != place.side:
        size = (place.side, place.side)
        scaled = functional.interpolate(pictures.float(), size, mode="bicubic", antialias=True)
        scaled = scaled.round_().clamp_(0, 255).to(torch.uint8)
    if width == height:
        return scaled
    shown = scaled[..., max(0, -place.left) :][..., :width]
    frames = scaled.new_empty(len(scaled), 3, height, width)
    _inside(frames, place)[:] = shown
    _continue(frames, place.left, place.side)
    _continue(frames.mT, place.top, place.side)
    return frames


def portrait_square(frames: torch.Tensor) -> torch.Tensor:
    """Return the pictures in frames, `[n, 3, S, S]`.

    Where a tall format cut them, their background goes on.

    Args:
        frames: `[n, 3, H, W]`, bytes or float, with the pictures where `compose` puts them.
    """
    height, width = frames.shape[-2:]
    place = Placement.of(width, height)
    shown = _inside(frames, place)
    cut = max(0, -place.left)
    if not cut:
        return shown
    pictures = functional.pad(shown, (cut, place.side - shown.shape[-1] - cut))
    _continue(pictures, cut, shown.shape[-1])
    return pictures


def _inside(frames: torch.Tensor, place: Placement) -> torch.Tensor:
    """Return the part of frames that the picture fills, as a view."""
    left = max(0, place.left)
    return frames[..., place.top : place.top + place.side, left : left + place.side]


def _continue(frames: torch.Tensor, start: int, side: int) -> None:
    """Draw background left and right of pictures in frames, and fade it into them.

    Args:
        frames: `[n, 3, L, W]`, bytes or float.
        start: the pictures' first column; nothing is left of them if it is not above 0.
        side: columns of the pictures.
    """
    overlap = max(1, round(_OVERLAP * side))
    share = (torch.arange(overlap, device=frames.device) + 0.5) / overlap
    for free, flipped in ((start, True), (frames.shape[-1] - start - side, False)):
        if free <= 0:
            continue
        depth = overlap + free
        columns = frames[..., :depth] if flipped else frames[..., -depth:]
        trusted = free + overlap // 2
        edge = frames[..., trusted] if flipped else frames[..., -trusted - 1]
        drawn = _continued(edge.float(), depth)
        faded = columns[..., free:].flip(-1) if flipped else columns[..., :overlap]
        drawn[..., :overlap] = torch.lerp(faded.float(), drawn[..., :overlap], share)
        if not columns.is_floating_point():
            drawn = drawn.round_()
        columns[:] = drawn.flip(-1) if flipped else drawn


def _continued(edge: torch.Tensor, depth: int) -> torch.Tensor:
    """Return the background beyond an edge `[n, 3, L]`, ever softer: `[n, 3, L, depth]`."""
    length = edge.shape[-1]
    samples = functional.adaptive_avg_pool1d(edge, _SAMPLES)
    reach = _MEDIAN // 2
    around = functional.pad(samples, (reach, reach), value=torch.nan).unfold(-1, _MEDIAN, 1)
    background = around.nanmedian(dim=-1).values
    at = torch.arange(_SAMPLES, device=edge.device)
    away = (torch.arange(_STEPS, device=edge.device) + 0.5) * (depth / _STEPS / length * _SAMPLES)
    blur = 0.5 + _SOFTENING * away.view(-1, 1, 1)
    kernels = torch.exp(-0.5 * ((at[:, None] - at) / blur) ** 2)
    kernels /= kernels.sum(dim=-1, keepdim=True)
    softened = torch.einsum("ncl,dml->ncmd", background, kernels)
    return functional.interpolate(softened, (length, depth), mode="bilinear")
