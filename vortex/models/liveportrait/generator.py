"""G: draws the frame from warped features, by SPADE blocks (arXiv 1903.07291)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from vortex.models.liveportrait.blocks import SpectralConv2d, like_weights
from vortex.models.liveportrait.dims import LivePortraitDims

_NEGATIVE_SLOPE = 0.2


class Generator(nn.Module):
    """Draws frames of four times the features' height and width, or of a multiple of it."""

    def __init__(self, dims: LivePortraitDims) -> None:
        super().__init__()
        seen, hidden = dims.warped_channels, dims.generator_hidden_channels
        trunk, (first, second) = dims.generator_channels, dims.generator_up_channels
        self.fc = nn.Conv2d(seen, trunk, 3, padding=1)
        self._middle = [f"G_middle_{index}" for index in range(dims.generator_blocks)]
        for name in self._middle:
            self.add_module(name, _SpadeBlock(trunk, trunk, seen, hidden))
        self.up_0 = _SpadeBlock(trunk, first, seen, hidden)
        self.up_1 = _SpadeBlock(first, second, seen, hidden)
        self.conv_img = _drawing(second, dims.upscale)

    def forward(self, warped: torch.Tensor) -> torch.Tensor:
        """Return float32 frames `[n, 3, 4 U H, 4 U W]` in [0, 1] of features `[n, C, H, W]`."""
        warped = like_weights(warped, self.fc)
        features = self.fc(warped)
        for name in self._middle:
            features = self.get_submodule(name)(features, warped)
        features = self.up_0(functional.interpolate(features, scale_factor=2.0), warped)
        features = self.up_1(functional.interpolate(features, scale_factor=2.0), warped)
        drawn: torch.Tensor = self.conv_img(_leaky(features))
        return drawn.float().sigmoid()


class _SpadeBlock(nn.Module):
    """Two convolutions and a shortcut, each of features modulated by what is to be drawn."""

    def __init__(self, channels_in: int, channels_out: int, seen: int, hidden: int) -> None:
        super().__init__()
        middle = min(channels_in, channels_out)
        self.norm_0 = _Spade(channels_in, seen, hidden)
        self.conv_0 = SpectralConv2d(channels_in, middle, 3)
        self.norm_1 = _Spade(middle, seen, hidden)
        self.conv_1 = SpectralConv2d(middle, channels_out, 3)
        self._reshapes = channels_in != channels_out
        if self._reshapes:
            self.norm_s = _Spade(channels_in, seen, hidden)
            self.conv_s = SpectralConv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, features: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
        warped = functional.interpolate(warped, features.shape[-2:])
        plain = functional.instance_norm(features)
        change = self.conv_0(_leaky(self.norm_0(plain, warped)))
        change = functional.instance_norm(change)
        change = self.conv_1(_leaky(self.norm_1(change, warped)))
        shortcut = self.conv_s(self.norm_s(plain, warped)) if self._reshapes else features
        total: torch.Tensor = shortcut + change
        return total


class _Spade(nn.Module):
    """Scales and shifts normalised features, differently at each place."""

    def __init__(self, channels: int, seen: int, hidden: int) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(seen, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, plain: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
        hidden = self.mlp_shared(warped)
        scaled: torch.Tensor = plain * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)
        return scaled


def _drawing(channels: int, upscale: int) -> nn.Module:
    """Return the last convolution, to the pixels of frames `upscale` times as large."""
    convolution = nn.Conv2d(channels, 3 * upscale**2, 3, padding=1)
    if upscale == 1:
        return convolution
    return nn.Sequential(convolution, nn.PixelShuffle(upscale))


def _leaky(features: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(features, _NEGATIVE_SLOPE)
