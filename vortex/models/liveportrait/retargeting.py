"""Three small networks that correct keypoints: stitching, lips and eyes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from vortex.models.liveportrait.dims import LivePortraitDims
from vortex.models.liveportrait.motion import KEYPOINTS

_COORDINATES = 3 * KEYPOINTS


class Retargeting(nn.Module):
    """Linear layers with ReLU between them, from keypoints and wishes to a change of keypoints."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        self.mlp = nn.Sequential()
        for before, after in pairwise(widths):
            self.mlp.extend([nn.Linear(before, after), nn.ReLU()])
        del self.mlp[-1]

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Map `[n, inputs]` to `[n, outputs]`."""
        change: torch.Tensor = self.mlp(numbers)
        return change


def stitching_network(dims: LivePortraitDims) -> Retargeting:
    """From source and driving keypoints to 63 changes and a shift in x and y."""
    return Retargeting(2 * _COORDINATES, dims.stitching_hidden, _COORDINATES + 2)


def lip_network(dims: LivePortraitDims) -> Retargeting:
    """From source keypoints, and lip opening as it is and as wished, to 63 changes."""
    return Retargeting(_COORDINATES + 2, dims.lip_hidden, _COORDINATES)


def eye_network(dims: LivePortraitDims) -> Retargeting:
    """From source keypoints, the opening of both eyes and the one wished, to 63 changes."""
    return Retargeting(_COORDINATES + 3, dims.eye_hidden, _COORDINATES)
