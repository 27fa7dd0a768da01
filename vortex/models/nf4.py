"""A layer of four bits a weight, by bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import nn


class Nf4Linear(Linear4bit):
    """A linear layer whose weight is kept in NF4, and unpacked whenever it is used."""

    def __init__(
        self,
        linear: nn.Linear,
        block: int,
        *,
        device: torch.device,
        compute_dtype: torch.dtype,
    ) -> None:
        """Quantise a layer's weight on its target device.

        Args:
            linear: of full precision.
            block: how many weights share a scale.
            device: where the layer is placed.
            compute_dtype: what the weight is unpacked to.
        """
        super().__init__(  # type: ignore[no-untyped-call] # a gap of its own
            linear.in_features, linear.out_features, bias=False, device="meta"
        )
        self.compute_dtype = compute_dtype
        self.compute_type_is_set = True
        # bitsandbytes would repack the weight for some CPUs, and round its scales to bfloat16.
        self.support_avx512bf16_for_cpu = False
        packed: Any = Params4bit(  # its own annotations contradict each other
            linear.weight.detach().to(device, compute_dtype),
            requires_grad=False,
            blocksize=block,
            compress_statistics=True,
            quant_type="nf4",
            # T5 converts activations to the type that a weight has: the packed bytes must have
            # that of the activations.
            quant_storage=compute_dtype,
        )
        self.weight = packed.to(device)  # which quantises
        if linear.bias is not None:
            bias = linear.bias.detach().to(device, compute_dtype)
            self.bias = nn.Parameter(bias, requires_grad=False)
        self.train(linear.training)
