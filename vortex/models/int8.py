"""Weights as INT8 rows, in any module, attention included, whose weights are in no linear layer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

_LARGEST = 127
_KINDS = (nn.Linear, nn.Embedding, nn.Conv2d, nn.MultiheadAttention)
_NAMES = ("weight", "in_proj_weight")


class Int8Rows(nn.Module):
    """Keeps a weight as bytes with one scale for each output channel.

    The weight's own type is that of its scales, and of what it is unpacked to at every access.
    """

    def forward(self, rows: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return the weight of int8 `[n, ...]` and scales `[n, 1, ...]`."""
        return rows * scales

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows and scales; each value is off by half its scale at most."""
        largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        # Rows of zeros have a scale, too, that can be divided by.
        scales = largest.clamp(min=_LARGEST * torch.finfo(weight.dtype).tiny) / _LARGEST
        return (weight / scales).round().to(torch.int8), scales


def quantize_rows(network: nn.Module) -> None:
    """Keep the weights of all linear, embedding, convolution and attention layers as INT8.

    The weights take no gradients afterwards. Nothing is kept of a weight that is unpacked: it lives
    for the one operation that uses it.
    """
    network.requires_grad_(requires_grad=False)
    for module in list(network.modules()):
        for name in _NAMES:
            if isinstance(module, _KINDS) and isinstance(getattr(module, name, None), nn.Parameter):
                # Unsafe only means that it is not unpacked once more, to look at shape and type.
                parametrize.register_parametrization(module, name, Int8Rows(), unsafe=True)
