"""G: draws the frame from warped features, by SPADE blocks (arXiv 1903.07291)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from vortex.models.liveportrait.blocks import (
    Foldable,
    SpectralConv2d,
    UpscalingConv2d,
    like_weights,
)
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
            self.add_module(name, _SpadeBlock(trunk, trunk, seen, hidden, upscale=1))
        self.up_0 = _SpadeBlock(trunk, first, seen, hidden, upscale=2)
        self.up_1 = _SpadeBlock(first, second, seen, hidden, upscale=4)
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
    """Two convolutions and a shortcut, each of features modulated by what is to be drawn.

    The features are `upscale` times as high and wide as what is to be drawn.
    """

    def __init__(
        self, channels_in: int, channels_out: int, seen: int, hidden: int, *, upscale: int
    ) -> None:
        super().__init__()
        middle = min(channels_in, channels_out)
        self.norm_0 = _Spade(channels_in, seen, hidden, upscale)
        self.conv_0 = SpectralConv2d(channels_in, middle, 3)
        self.norm_1 = _Spade(middle, seen, hidden, upscale)
        self.conv_1 = SpectralConv2d(middle, channels_out, 3)
        self._reshapes = channels_in != channels_out
        if self._reshapes:
            self.norm_s = _Spade(channels_in, seen, hidden, upscale)
            self.conv_s = SpectralConv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, features: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
        plain = functional.instance_norm(features)
        change = self.conv_0(_leaky(self.norm_0(plain, warped)))
        change = functional.instance_norm(change)
        change = self.conv_1(_leaky(self.norm_1(change, warped)))
        shortcut = self.conv_s(self.norm_s(plain, warped)) if self._reshapes else features
        total: torch.Tensor = shortcut + change
        return total


class _Spade(Foldable):
    """Scales and shifts normalised features, differently at each place."""

    mlp_scale_and_shift: nn.Conv2d | None

    def __init__(self, channels: int, seen: int, hidden: int, upscale: int) -> None:
        super().__init__()
        shared = UpscalingConv2d(seen, hidden, upscale)
        self.mlp_shared = nn.Sequential(shared, nn.ReLU(inplace=True))
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_scale_and_shift = None  # what folding leaves of the two

    def forward(self, plain: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
        hidden = self.mlp_shared(warped)
        if self.mlp_scale_and_shift is None:
            scale, shift = 1 + self.mlp_gamma(hidden), self.mlp_beta(hidden)
        else:
            scale, shift = self.mlp_scale_and_shift(hidden).chunk(2, dim=1)
        return torch.addcmul(shift, plain, scale)

    @torch.no_grad()
    def fold(self) -> None:
        """Compute scale and shift by one convolution, whose bias holds the scale's 1."""
        if self.mlp_scale_and_shift is not None:
            return
        hidden, channels = self.mlp_gamma.in_channels, self.mlp_gamma.out_channels
        gamma, beta = self.mlp_gamma.state_dict(), self.mlp_beta.state_dict()
        gamma["bias"] = 1 + gamma["bias"]
        both = nn.Conv2d(hidden, 2 * channels, 3, padding=1, device="meta")
        merged = {name: torch.cat([gamma[name], beta[name]]) for name in gamma}
        both.load_state_dict(merged, assign=True)
        self.mlp_scale_and_shift = both
        del self.mlp_gamma, self.mlp_beta


def _drawing(channels: int, upscale: int) -> nn.Module:
    """Return the last convolution, to the pixels of frames `upscale` times as large."""
    convolution = nn.Conv2d(channels, 3 * upscale**2, 3, padding=1)
    if upscale == 1:
        return convolution
    return nn.Sequential(convolution, nn.PixelShuffle(upscale))


def _leaky(features: torch.Tensor) -> torch.Tensor:
    """Change features that nothing else needs."""
    return functional.leaky_relu(features, _NEGATIVE_SLOPE, inplace=True)
