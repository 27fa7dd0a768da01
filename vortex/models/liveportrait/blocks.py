"""What the networks share: normalised convolutions, and folding constants into weights."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by number of dimensions
_POWER_ITERATIONS = 8


class Foldable(nn.Module, ABC):
    """A module that can do with fewer operations once its weights stay as they are."""

    @abstractmethod
    def fold(self) -> None:
        """Compute what is constant; the state dict changes, the outputs only by rounding."""


def fold(network: nn.Module) -> None:
    """Fold every foldable part of a network in evaluation mode; for loaded weights only."""
    for module in list(network.modules()):
        if isinstance(module, Foldable):
            module.fold()


class Conv3d(nn.Conv3d):
    """A 3-D convolution that keeps its input's size, fast on shallow volumes too.

    In a volume no deeper than the kernel, nearly every plane sees every other: there, one 2-D
    convolution with the planes among its channels is the same. Its gradients take a tenth of the
    time on a CPU, and are finite in bfloat16 (torch 2.14.1).
    """

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size, padding=kernel_size // 2)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Return `[n, channels out, D, H, W]` of `[n, channels in, D, H, W]`."""
        depth, reach = volume.shape[2], self.kernel_size[0]
        if depth > reach:
            return super().forward(volume)
        planes = torch.arange(depth, device=volume.device)
        offset = planes - planes[:, None] + reach // 2  # of a seen plane (column) from its row
        seen = ((offset >= 0) & (offset < reach)).to(self.weight.dtype)
        weight = self.weight[:, :, offset.clamp(0, reach - 1)] * seen[..., None, None]
        flat = functional.conv2d(
            volume.flatten(1, 2),
            weight.transpose(1, 2).flatten(2, 3).flatten(0, 1),
            None if self.bias is None else self.bias.repeat_interleave(depth),
            padding=reach // 2,
        )
        return flat.reshape(len(volume), self.out_channels, depth, *flat.shape[-2:])


class NormedConv(Foldable):
    """Convolution with a kernel of 3, batch normalisation, (leaky) ReLU; in 2 or 3 dimensions."""

    def __init__(
        self, dimensions: int, channels_in: int, channels_out: int, *, negative_slope: float = 0.0
    ) -> None:
        super().__init__()
        self.conv: nn.Conv2d | nn.Conv3d
        self.norm: nn.BatchNorm2d | nn.BatchNorm3d | nn.Identity
        if dimensions == 2:
            self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
            self.norm = nn.BatchNorm2d(channels_out)
        else:
            self.conv = Conv3d(channels_in, channels_out, 3)
            self.norm = nn.BatchNorm3d(channels_out)
        self._negative_slope = negative_slope

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Keep height and width, change the channels."""
        return functional.leaky_relu(self.norm(self.conv(features)), self._negative_slope)

    def fold(self) -> None:
        """Merge the normalisation into the convolution."""
        if not isinstance(self.norm, nn.Identity):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class SpectralConv2d(Foldable):
    """Convolution whose weight is divided by its largest singular value.

    The checkpoints keep the weight undivided, with the two singular vectors as training left them;
    only training iterates on those.
    """

    weight_u: torch.Tensor
    weight_v: torch.Tensor
    weight: torch.Tensor | None

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        self._padding = kernel_size // 2
        initial = nn.Conv2d(channels_in, channels_out, kernel_size, bias=bias)
        self.weight_orig = initial.weight
        self.bias = initial.bias
        self.register_buffer("weight_u", torch.empty(channels_out))
        self.register_buffer("weight_v", torch.empty(channels_in * kernel_size**2))
        self.register_buffer("weight", None)  # what folding leaves
        if not self.weight_orig.is_meta:  # where it would cost seconds of imports, for nothing
            nn.init.normal_(self.weight_u)
            self.estimate_vectors(_POWER_ITERATIONS)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Keep height and width, change the channels."""
        if self.training:
            self.estimate_vectors(1)
        weight = self._divided() if self.weight is None else self.weight
        return functional.conv2d(features, weight, self.bias, padding=self._padding)

    def fold(self) -> None:
        """Divide once."""
        if self.weight is None:
            self.weight = self._divided().detach()
            del self.weight_orig, self.weight_u, self.weight_v

    @torch.no_grad()
    def estimate_vectors(self, iterations: int) -> None:
        """Bring the singular vectors closer to the weight's, by power iterations."""
        matrix = self.weight_orig.float().flatten(1)
        for _ in range(iterations):
            self.weight_v.copy_(functional.normalize(matrix.T @ self.weight_u, dim=0))
            self.weight_u.copy_(functional.normalize(matrix @ self.weight_v, dim=0))

    def _divided(self) -> torch.Tensor:
        sigma = self.weight_u @ (self.weight_orig.flatten(1) @ self.weight_v)
        return self.weight_orig / sigma


def channels_last(network: nn.Module) -> None:
    """Lay out all convolutions' weights as a GPU's matrix units read them, channels last."""
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.ndim in _CHANNELS_LAST:
            tensor.data = tensor.data.contiguous(memory_format=_CHANNELS_LAST[tensor.ndim])


def like_weights(features: torch.Tensor, convolution: nn.Conv2d | nn.Conv3d) -> torch.Tensor:
    """Bring features to a convolution's precision and memory layout.

    A kernel of one element has no layout to go by, so the convolution's must be larger.
    """
    weight = convolution.weight
    layout = _CHANNELS_LAST[weight.ndim]
    if not weight.is_contiguous(memory_format=layout):
        layout = torch.contiguous_format
    return features.to(weight.dtype).contiguous(memory_format=layout)
