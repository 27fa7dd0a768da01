"""Small operations on pictures `[n, 3, H, W]`."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def cover(pictures: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Scale pictures until they cover a format, and cut what sticks out on both sides.

    Args:
        pictures: `[n, 3, H, W]`, float in [0, 1] or uint8.
        width: pixels across of the result.
        height: pixels down of the result.

    Returns:
        `[n, 3, height, width]` of the same kind; the pictures themselves if they fit already.
    """
    have_height, have_width = pictures.shape[-2:]
    if (have_width, have_height) == (width, height):
        return pictures
    scale = max(width / have_width, height / have_height)
    size = (max(height, round(have_height * scale)), max(width, round(have_width * scale)))
    scaled = pictures.float()
    if size != (have_height, have_width):
        scaled = functional.interpolate(scaled, size, mode="bicubic", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    cut = scaled[..., top : top + height, left : left + width]
    if pictures.dtype == torch.uint8:
        return cut.round().clamp(0, 255).to(torch.uint8)
    return cut.clamp(0, 1)


class FrameBuffer:
    """Memory for the frames of one slot after the other; grows to the largest, never shrinks."""

    def __init__(self) -> None:
        """Start without memory."""
        self._memory = torch.empty(0, dtype=torch.uint8)

    def of(self, shape: tuple[int, int, int, int]) -> torch.Tensor:
        """Return frames, uint8 `[T, 3, H, W]`, to be written; what was in them is undefined.

        They share the memory of all frames that this buffer has returned before.
        """
        size = math.prod(shape)
        if size > self._memory.numel():
            self._memory = torch.empty(size, dtype=torch.uint8)
        return self._memory[:size].view(shape)
