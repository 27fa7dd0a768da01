"""Crops a picture to its face as the weights want to see one, and puts the face back.

The published weights saw faces cropped by a detector's landmarks. The motion extractor says where a
face is as well, by scale and translation, and needs no detector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from vortex.models.liveportrait.dims import LivePortraitDims
from vortex.models.liveportrait.motion import Motion

# A face is well framed within these: the range of the reference's recorded faces.
_MOST_SCALING = 1.25
_MOST_SHIFT = 0.15
_SMALLEST = 0.25  # of the picture; a smaller face would be shown by too few pixels
_FADE = 1 / 8  # of the crop, over which a face that is put back passes into the picture


@dataclass(frozen=True)
class Crop:
    """A square part of a square picture, in its pixels."""

    left: int
    top: int
    side: int
    whole: int
    """The picture's own side."""

    @classmethod
    def all_of(cls, picture: torch.Tensor) -> Crop:
        """Return the crop that is the whole of `[1, 3, S, S]`."""
        return cls(0, 0, picture.shape[-1], picture.shape[-1])

    def of(self, picture: torch.Tensor) -> torch.Tensor:
        """Return this part of a picture, as a view."""
        return picture[..., self.top : self.top + self.side, self.left : self.left + self.side]

    def reframed(self, seen: Motion, wanted: LivePortraitDims) -> Crop:
        """Return the crop in which the face is as the weights want it, as far as there is picture.

        Args:
            seen: what the motion extractor says of this crop.
            wanted: says where a face should be.
        """
        scale, (x, y) = float(seen.scale), seen.translation[0, :2].tolist()
        ratio = scale / wanted.face_scale
        shift = max(abs(x), abs(y - wanted.face_y))
        if 1 / _MOST_SCALING <= ratio <= _MOST_SCALING and shift <= _MOST_SHIFT:
            return self
        side = min(max(round(self.side * ratio), round(_SMALLEST * self.whole)), self.whole)
        # Positions are -1 to 1 over the crop.
        middle = (1 + x) * self.side / 2, (1 + y) * self.side / 2 - wanted.face_y * side / 2
        left, top = (
            min(max(round(start + at - side / 2), 0), self.whole - side)
            for start, at in zip((self.left, self.top), middle, strict=True)
        )
        return Crop(left, top, side, self.whole)


class Background:
    """A picture with a face in it that moves: the rest of it stands still."""

    def __init__(self, picture: torch.Tensor, crop: Crop, side: int) -> None:
        """Scale the picture.

        Args:
            picture: float32 `[1, 3, S, S]` in [0, 1].
            crop: what of it is drawn anew in each frame.
            side: pixels, both sides, of the result.
        """
        self._canvas = 255 * _scaled(picture, side).clamp(0, 1)
        left, top, end_x, end_y = (
            round(at * side / crop.whole)
            for at in (crop.left, crop.top, crop.left + crop.side, crop.top + crop.side)
        )
        self._box = (..., slice(top, end_y), slice(left, end_x))
        self._share = _fade(top, end_y, side)[:, None] * _fade(left, end_x, side)
        self._share = self._share.to(picture.device)

    def around(self, faces: torch.Tensor) -> torch.Tensor:
        """Return the picture with each of the faces, uint8 `[n, 3, side, side]`.

        Args:
            faces: of the crop, uint8 `[n, 3, F, F]`, where the picture is.
        """
        pictures = self._canvas.repeat(len(faces), 1, 1, 1)
        part = pictures[self._box]
        size = (part.shape[-2], part.shape[-1])
        drawn = functional.interpolate(faces.float(), size, mode="bicubic", antialias=True)
        part.lerp_(drawn, self._share)
        return pictures.round_().clamp_(0, 255).to(torch.uint8)


def _scaled(picture: torch.Tensor, side: int) -> torch.Tensor:
    return functional.interpolate(picture, (side, side), mode="bicubic", antialias=True)


def _fade(start: int, end: int, whole: int) -> torch.Tensor:
    """Return a face's share in each row or column of its crop: none at edges inside the picture."""
    at = (torch.arange(end - start) + 0.5) / (_FADE * (end - start))
    first = at if start > 0 else torch.ones_like(at)
    last = at.flip(0) if end < whole else torch.ones_like(at)
    return torch.minimum(first, last).clamp(max=1)
