"""What the networks share: normalised convolutions, and folding constants into weights."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by number of dimensions
_POWER_ITERATIONS = 8
# Which of a kernel's three rows meet the upper and the lower of two rows of the input, where these
# are upscaled: in the first row of what the lower becomes, in the last of what the upper becomes,
# and in those between.
_MEETS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)), ((0, 0, 0), (1, 1, 1)))


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


class UpscalingConv2d(Foldable):
    """A convolution with a kernel of 3 of an input that is first upscaled by nearest neighbour.

    Upscaled, every place of the kernel sees at most two different rows and columns of the input.
    Folded, it is a convolution of the input itself, with a kernel of 2 and an output for each way
    in which a place can lie: a quarter of the operations, or four ninths if `upscale` is 2.
    """

    def __init__(self, channels_in: int, channels_out: int, upscale: int) -> None:
        super().__init__()
        initial = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.weight = initial.weight
        self.bias = nn.Parameter(torch.as_tensor(initial.bias))
        self._upscale = upscale
        self._ways = min(len(_MEETS), upscale)
        self._folded = False

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return `[n, channels out, upscale H, upscale W]` of `[n, channels in, H, W]`."""
        if self._folded:
            return self._placed(functional.conv2d(features, self.weight, self.bias, padding=1))
        if self._upscale > 1:
            features = functional.interpolate(features, scale_factor=float(self._upscale))
        return functional.conv2d(features, self.weight, self.bias, padding=1)

    @torch.no_grad()
    def fold(self) -> None:
        """Add up the weights that meet the same element of the input."""
        if self._folded or self._upscale == 1:
            return
        meets = self.weight.new_tensor(_MEETS[: self._ways])
        weight = torch.einsum("kyv,lxw,oivw->kloiyx", meets, meets, self.weight)
        self.weight = nn.Parameter(weight.flatten(0, 2), requires_grad=False)
        self.bias = nn.Parameter(self.bias.repeat(self._ways**2), requires_grad=False)
        self._folded = True

    def _placed(self, ways: torch.Tensor) -> torch.Tensor:
        """Put the outputs for each way, `[n, ways C, H + 1, W + 1]`, where they belong."""
        upscale, height, width = self._upscale, ways.shape[-2] - 1, ways.shape[-1] - 1
        ways = ways.view(len(ways), self._ways, self._ways, -1, height + 1, width + 1)
        # First, those between, last: the way in which they lie, and the lower or upper of two rows.
        places = [(0, 0), *[(2, 0)] * (upscale - 2), (1, 1)]
        whole = torch.empty(
            (len(ways), ways.shape[3], upscale * height, upscale * width),
            dtype=ways.dtype,
            device=ways.device,
            memory_format=layout_of(self.weight),
        )
        for y, (row, below) in enumerate(places):
            for x, (column, right) in enumerate(places):
                part = ways[:, row, column, :, below : below + height, right : right + width]
                whole[:, :, y::upscale, x::upscale] = part
        return whole


@torch.no_grad()
def widen(convolution: nn.Conv2d | nn.Conv3d, *, inputs: int = 0, outputs: int = 0) -> None:
    """Give a convolution more channels, behind its own: inputs that do not count, outputs of 0."""
    kernel = [0, 0] * (convolution.weight.ndim - 2)
    convolution.weight = nn.Parameter(
        functional.pad(convolution.weight, [*kernel, 0, inputs, 0, outputs]), requires_grad=False
    )
    if convolution.bias is not None:
        convolution.bias = nn.Parameter(
            functional.pad(convolution.bias, [0, outputs]), requires_grad=False
        )
    convolution.in_channels += inputs
    convolution.out_channels += outputs


def channels_last(network: nn.Module) -> None:
    """Lay out all convolutions' weights as a GPU's matrix units read them, channels last."""
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.ndim in _CHANNELS_LAST:
            tensor.data = tensor.data.contiguous(memory_format=_CHANNELS_LAST[tensor.ndim])


def layout_of(weight: torch.Tensor) -> torch.memory_format:
    """Return the memory layout of a convolution's weight, which its input should have.

    A kernel of one element has no layout to go by, so it must be larger.
    """
    layout = _CHANNELS_LAST[weight.ndim]
    return layout if weight.is_contiguous(memory_format=layout) else torch.contiguous_format


def like_weights(features: torch.Tensor, convolution: nn.Conv2d | nn.Conv3d) -> torch.Tensor:
    """Bring features to the precision and memory layout of a convolution with a larger kernel."""
    weight = convolution.weight
    return features.to(weight.dtype).contiguous(memory_format=layout_of(weight))
