"""M: where a face's keypoints are and how its head is turned, by ConvNeXt V2 (arXiv 2301.00808)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from vortex.models.liveportrait.dims import LivePortraitDims
from vortex.models.liveportrait.motion import KEYPOINTS, POSE_BINS, Motion, degrees_from_bins

_EPSILON = 1e-6


class MotionExtractor(nn.Module):
    """Reads the motion parameters of a face off a picture."""

    def __init__(self, dims: LivePortraitDims) -> None:
        super().__init__()
        # One level down, because the checkpoint's names say so.
        self.detector = _Detector(dims)

    def forward(self, image: torch.Tensor) -> Motion:
        """Return the motion of `[n, 3, S, S]` in [0, 1]."""
        raw: dict[str, torch.Tensor] = self.detector(image)
        return Motion(
            keypoints=raw["kp"].view(-1, KEYPOINTS, 3),
            expression=raw["exp"].view(-1, KEYPOINTS, 3),
            scale=raw["scale"],
            translation=raw["t"],
            angles=torch.stack(
                [degrees_from_bins(raw[angle]) for angle in ("pitch", "yaw", "roll")], dim=-1
            ),
        )


class _Detector(nn.Module):
    def __init__(self, dims: LivePortraitDims) -> None:
        super().__init__()
        widths = dims.motion_channels
        # A stage first reduces the size: by 4 and then a norm, or a norm and then by 2.
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), _ChannelNorm(widths[0]))]
        )
        for before, after in pairwise(widths):
            self.downsample_layers.append(
                nn.Sequential(_ChannelNorm(before), nn.Conv2d(before, after, 2, stride=2))
            )
        self.stages = nn.ModuleList(
            nn.Sequential(*[_Block(width) for _ in range(count)])
            for width, count in zip(widths, dims.motion_blocks, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=_EPSILON)
        self.fc_kp = nn.Linear(widths[-1], 3 * KEYPOINTS)
        self.fc_exp = nn.Linear(widths[-1], 3 * KEYPOINTS)
        self.fc_scale = nn.Linear(widths[-1], 1)
        self.fc_t = nn.Linear(widths[-1], 3)
        self.fc_pitch = nn.Linear(widths[-1], POSE_BINS)
        self.fc_yaw = nn.Linear(widths[-1], POSE_BINS)
        self.fc_roll = nn.Linear(widths[-1], POSE_BINS)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return each head's numbers `[n, k]`, angles as scores of their bins."""
        features = image
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            features = stage(downsample(features))
        pooled = self.norm(features.mean(dim=(-2, -1)))
        heads = {"kp": self.fc_kp, "exp": self.fc_exp, "scale": self.fc_scale, "t": self.fc_t}
        angles = {"pitch": self.fc_pitch, "yaw": self.fc_yaw, "roll": self.fc_roll}
        return {name: head(pooled) for name, head in (heads | angles).items()}


class _Block(nn.Module):
    """Depthwise convolution, then two layers on each pixel with a response normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.grn = _GlobalResponseNorm(4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pixels = self.norm(self.dwconv(features).movedim(1, -1))
        pixels = self.pwconv2(self.grn(functional.gelu(self.pwconv1(pixels))))
        change: torch.Tensor = pixels.movedim(-1, 1)
        return features + change


class _GlobalResponseNorm(nn.Module):
    """Scales each channel by its share in the picture's response, `[n, h, w, c]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        response = torch.linalg.vector_norm(pixels, dim=(1, 2), keepdim=True)
        share = response / (response.mean(dim=-1, keepdim=True) + _EPSILON)
        scaled: torch.Tensor = pixels + self.gamma * (pixels * share) + self.beta
        return scaled


class _ChannelNorm(nn.LayerNorm):
    """Normalises each pixel of `[n, c, h, w]` over its channels."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=_EPSILON)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)
