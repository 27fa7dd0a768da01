"""F: what a face looks like, as a volume of features (LivePortrait, arXiv 2407.03168)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from vortex.models.liveportrait.blocks import Conv3d, NormedConv
from vortex.models.liveportrait.dims import LivePortraitDims


class AppearanceExtractor(nn.Module):
    """Lifts a picture into a volume, which the flow can rotate and deform."""

    def __init__(self, dims: LivePortraitDims) -> None:
        super().__init__()
        width = dims.appearance_channels
        channels, depth = dims.volume_channels, dims.volume_depth
        self._volume_shape = (channels, depth)
        self.first = NormedConv(2, 3, width)
        self.down_blocks = nn.ModuleList(
            [NormedConv(2, width, 2 * width), NormedConv(2, 2 * width, 4 * width)]
        )
        self.second = nn.Conv2d(4 * width, channels * depth, 1)
        self.resblocks_3d = nn.Sequential()
        for index in range(dims.appearance_blocks_3d):
            self.resblocks_3d.add_module(f"3dr{index}", _ResidualBlock3d(channels))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the volume.

        Args:
            image: `[n, 3, S, S]` in [0, 1].

        Returns:
            `[n, C, D, S/4, S/4]`.
        """
        features = self.first(image)
        for block in self.down_blocks:
            features = functional.avg_pool2d(block(features), 2)
        volume: torch.Tensor = self.resblocks_3d(
            self.second(features).unflatten(1, self._volume_shape)
        )
        return volume


class _ResidualBlock3d(nn.Module):
    """Normalises before each of its two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = Conv3d(channels, channels, 3)
        self.norm2 = nn.BatchNorm3d(channels)
        self.conv2 = Conv3d(channels, channels, 3)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        change: torch.Tensor = self.conv1(functional.relu(self.norm1(volume)))
        change = self.conv2(functional.relu(self.norm2(change)))
        return volume + change
