"""W: moves a face's feature volume as its keypoints move (LivePortrait; arXiv 2011.15126)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from vortex.models.liveportrait.blocks import Conv3d, NormedConv, like_weights, widen
from vortex.models.liveportrait.dims import LivePortraitDims
from vortex.models.liveportrait.motion import KEYPOINTS

_KEYPOINT_VARIANCE = 0.01
# Heat below it is none. A product of three such tails would be subnormal, and convolutions of
# subnormal numbers take Intel processors up to fourteen times as long (November 2026).
_COLDEST = 1e-12
_MOTIONS = KEYPOINTS + 1  # that of every keypoint, and none for the background
_WHOLE_CHANNELS = 8  # a GPU's matrix units take channels in multiples of it


@dataclass(frozen=True)
class WarpingSource:
    """What warping needs of `s` source pictures, the same for every frame of theirs.

    Attributes:
        volume: float32 `[s, C, D, H, W]`.
        keypoints: float32 `[s, 21, 3]`.
        compressed: the volume in few channels, from which the flow is estimated, float32.
        heat: one Gaussian around each keypoint, float32 `[s, 21, D, H, W]`.
    """

    volume: torch.Tensor
    keypoints: torch.Tensor
    compressed: torch.Tensor
    heat: torch.Tensor


@dataclass(frozen=True)
class Warped:
    """The outcome of warping for `n` frames.

    Attributes:
        features: what the generator draws, `[n, C, H, W]`.
        deformation: where in the source each voxel comes from, float32 `[n, D, H, W, 3]`.
        occlusion: how far the source shows what is needed, `[n, 1, H, W]` in [0, 1].
    """

    features: torch.Tensor
    deformation: torch.Tensor
    occlusion: torch.Tensor


class Warping(nn.Module):
    """Estimates a flow from the source's keypoints to the driving ones, and warps with it.

    Coordinates stay float32 whatever the precision of the weights: bfloat16 would round them to
    an eighth of a voxel.
    """

    def __init__(self, dims: LivePortraitDims) -> None:
        super().__init__()
        width = dims.warped_channels
        self.dense_motion_network = _DenseMotion(dims)
        self.third = NormedConv(
            2, dims.volume_channels * dims.volume_depth, width, negative_slope=0.01
        )
        self.fourth = nn.Conv2d(width, width, 1)

    def prepare(self, volume: torch.Tensor, keypoints: torch.Tensor) -> WarpingSource:
        """Compute what depends on the source alone.

        Args:
            volume: float32 `[s, C, D, H, W]`.
            keypoints: float32 `[s, 21, 3]`.
        """
        network = self.dense_motion_network
        compressed = network.norm(network.compress(volume.to(network.compress.weight.dtype)))
        return WarpingSource(
            volume=volume,
            keypoints=keypoints,
            compressed=functional.relu(compressed).float(),
            heat=_heat(keypoints, volume.shape[-3:]),
        )

    def fill_channels(self) -> None:
        """Add channels of zeros where a GPU's matrix units want more; for folded weights only.

        The outputs stay as they are.
        """
        self.dense_motion_network.fill_channels()

    def forward(self, source: WarpingSource, driving: torch.Tensor) -> Warped:
        """Warp for the keypoints float32 `[n, 21, 3]` of `n` frames, `n / s` of each source."""
        deformation, occlusion = self.dense_motion_network(source, driving)
        moved = functional.grid_sample(
            _for_frames(source.volume, len(driving)), deformation, align_corners=False
        )
        features = self.fourth(self.third(like_weights(moved.flatten(1, 2), self.third.conv)))
        return Warped(features * occlusion, deformation, occlusion)


class _DenseMotion(nn.Module):
    """Blends the shifts of all keypoints into one flow."""

    def __init__(self, dims: LivePortraitDims) -> None:
        super().__init__()
        channels = dims.flow_feature_channels
        self.compress = nn.Conv3d(dims.volume_channels, channels, 1)
        self.norm = nn.BatchNorm3d(channels)
        self.hourglass = _Hourglass(dims, _MOTIONS * (channels + 1))
        width = self.hourglass.channels_out
        self.mask = Conv3d(width, _MOTIONS, 7)
        self.occlusion = nn.Conv2d(width * dims.volume_depth, 1, 7, padding=3)
        self._fill = 0

    def fill_channels(self) -> None:
        """Add channels of zeros, as `Warping` says."""
        first = cast("NormedConv", self.hourglass.encoder.down_blocks[0]).conv
        last = self.hourglass.decoder.conv
        depth = self.occlusion.in_channels // self.mask.in_channels
        fill = -first.in_channels % _WHOLE_CHANNELS
        widen(first, inputs=fill)
        widen(last, inputs=fill, outputs=fill)
        widen(self.mask, inputs=fill, outputs=-self.mask.out_channels % _WHOLE_CHANNELS)
        widen(self.occlusion, inputs=fill * depth)
        self._fill += fill

    def forward(
        self, source: WarpingSource, driving: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        frames, sources = len(driving), len(source.volume)
        depth, height, width = size = source.volume.shape[-3:]
        grid = _grid(size, driving)
        still = torch.zeros_like(driving[:, :1])
        shifts = torch.cat([still, _for_frames(source.keypoints, frames) - driving], dim=1)

        # The source as each single shift would move it. The motions are laid along the depth of
        # the sampled volume, so that the source is read as it is instead of being repeated.
        moved_grids = grid + shifts[:, :, None, None, None]
        moved = functional.grid_sample(
            source.compressed,
            moved_grids.view(sources, -1, height, width, 3),
            align_corners=False,
        )
        moved = moved.view(sources, -1, frames // sources, _MOTIONS, depth, height, width)
        moved = moved.movedim(1, 3).flatten(0, 1)
        heat = _heat(driving, size) - _for_frames(source.heat, frames)
        heat = functional.pad(heat, (0, 0, 0, 0, 0, 0, 1, 0))
        inputs = torch.cat([heat.unsqueeze(2), moved], dim=2).flatten(1, 2)
        if self._fill:
            inputs = functional.pad(inputs, (0, 0, 0, 0, 0, 0, 0, self._fill))

        estimate = self.hourglass(like_weights(inputs, self.mask))
        # The weights of the motions sum to one: blending whole grids is blending their shifts.
        weights = self.mask(estimate)[:, :_MOTIONS].float().softmax(dim=1)
        deformation = grid + torch.einsum("nkdhw,nkc->ndhwc", weights, shifts)
        occlusion = self.occlusion(like_weights(estimate.flatten(1, 2), self.occlusion)).sigmoid()
        return deformation, occlusion


class _Hourglass(nn.Module):
    """Looks at the inputs at several sizes; depth is never reduced."""

    def __init__(self, dims: LivePortraitDims, channels_in: int) -> None:
        super().__init__()
        inner = [
            min(dims.flow_max_channels, dims.flow_channels << level)
            for level in range(dims.flow_levels + 1)
        ]
        self.encoder = _Encoder([channels_in, *inner[1:]])
        self.decoder = _Decoder(inner, channels_in)
        self.channels_out = inner[0] + channels_in

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = self.decoder.climb(self.encoder(features))
        return decoded


class _Encoder(nn.Module):
    """Halves height and width at every level."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList(NormedConv(3, *pair) for pair in pairwise(widths))

    def forward(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Return the input and every level, innermost last."""
        levels = [features]
        for block in self.down_blocks:
            levels.append(_halved(block(levels[-1])))
        return levels


class _Decoder(NormedConv):
    """Goes back up; all but the innermost level also see what the encoder saw at their size."""

    def __init__(self, inner: list[int], channels_in: int) -> None:
        super().__init__(3, inner[0] + channels_in, inner[0] + channels_in)
        self.up_blocks = nn.ModuleList()
        for level in range(len(inner) - 1, 0, -1):
            innermost = level == len(inner) - 1
            self.up_blocks.append(
                NormedConv(3, inner[level] * (1 if innermost else 2), inner[level - 1])
            )

    def climb(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """Return features of the outermost size from the encoder's levels."""
        features = levels[-1]
        for block, seen in zip(self.up_blocks, reversed(levels[:-1]), strict=True):
            features = block(functional.interpolate(features, scale_factor=(1, 2, 2)))
            features = torch.cat([features, seen], dim=1)
        return self.forward(features)


def _halved(volume: torch.Tensor) -> torch.Tensor:
    """Average four neighbours of each plane, `[n, C, D, H, W]` to `[n, C, D, H / 2, W / 2]`."""
    if volume.is_contiguous():  # as on a CPU, which has no average of bfloat16 volumes
        halved = functional.avg_pool2d(volume.flatten(1, 2), 2)
        return halved.view(*volume.shape[:3], *halved.shape[-2:])
    return functional.avg_pool3d(volume, (1, 2, 2))


def _for_frames(of_sources: torch.Tensor, frames: int) -> torch.Tensor:
    """Give each frame what its source has, `[s, ...]` to `[n, ...]`; no copy of a single one."""
    each = frames // len(of_sources)
    return of_sources.unsqueeze(1).expand(-1, each, *of_sources.shape[1:]).flatten(0, 1)


def _grid(size: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Return the coordinates of a volume's voxels, x first, from -1 to 1, `[D, H, W, 3]`."""
    z, y, x = torch.meshgrid(*[_axis(count, like) for count in size], indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def _axis(count: int, like: torch.Tensor) -> torch.Tensor:
    return torch.linspace(-1, 1, count, device=like.device, dtype=like.dtype)


def _heat(keypoints: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Return a Gaussian around each of `[n, k, 3]`, `[n, k, D, H, W]`."""

    def along(coordinate: torch.Tensor, count: int) -> torch.Tensor:
        distance = _axis(count, coordinate) - coordinate.unsqueeze(-1)
        heat = torch.exp(-0.5 * distance.square() / _KEYPOINT_VARIANCE)
        return functional.threshold(heat, _COLDEST, 0.0)

    x, y, z = (
        along(coordinate, count)
        for coordinate, count in zip(keypoints.unbind(-1), reversed(size), strict=True)
    )
    return z[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]
