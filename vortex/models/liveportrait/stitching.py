"""The small network that corrects driving keypoints: stitching."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from vortex.models.liveportrait.dims import LivePortraitDims
from vortex.models.liveportrait.motion import KEYPOINTS

_COORDINATES = 3 * KEYPOINTS


class Stitching(nn.Module):
    """Linear layers with ReLU between them, from keypoints to a change of keypoints."""

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


def stitching_network(dims: LivePortraitDims) -> Stitching:
    """From source and driving keypoints to 63 changes and a shift in x and y."""
    return Stitching(2 * _COORDINATES, dims.stitching_hidden, _COORDINATES + 2)
