"""Fewer bits a weight: NF4 by bitsandbytes, INT8 by torchao."""

from __future__ import annotations

from typing import Literal, TypeGuard

import torch
from torch import nn

from vortex.config import ModelsConfig
from vortex.errors import VortexInitializationError

Quantization = Literal["none", "nf4", "int8"]
ClipQuantization = Literal["none", "int8"]

NF4_BLOCK = 64
"""Weights of NF4 that share a scale."""
NF4_SCALES_BLOCK = 256
"""These scales are kept in a byte each; so many share a scale of their own."""
BITS_PER_WEIGHT = {"nf4": 4 + 8 / NF4_BLOCK + 32 / (NF4_BLOCK * NF4_SCALES_BLOCK), "int8": 8.0}

_PACKAGES = {"nf4": "bitsandbytes", "int8": "torchao"}


def flux_quantization(models: ModelsConfig) -> Quantization:
    """Return what `models.flux_quantization` means for the profile."""
    if models.flux_quantization == "auto":
        return "nf4" if models.profile == "production" else "none"
    return models.flux_quantization


def clip_quantization(models: ModelsConfig) -> ClipQuantization:
    """Return what `models.clip_quantization` means for the profile."""
    if models.clip_quantization == "auto":
        return "int8" if models.profile == "production" else "none"
    return models.clip_quantization


def quantize(
    network: nn.Module, method: Quantization, *, device: torch.device, compute_dtype: torch.dtype
) -> None:
    """Put a network on a device, its linear layers quantised one at a time on the way.

    At no time is there more than one layer of full precision on the device.

    Args:
        network: on the CPU, in evaluation mode.
        method: `none` only moves it.
        device: where it is placed.
        compute_dtype: what the weights are unpacked to when they are used.

    Raises:
        VortexInitializationError: the package that quantises is not installed.
    """
    try:
        match method:
            case "none":
                network.to(device)
            case "nf4":
                _quantize_nf4(network, device, compute_dtype)
            case "int8":
                _quantize_int8(network, device)
    except ModuleNotFoundError as error:
        package = _PACKAGES[method]
        raise VortexInitializationError(
            f"models.flux_quantization {method} needs the package {package}, which is not"
            f" installed: `pip install {package}`, or set another method"
        ) from error


def is_quantizable(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Return whether a module is a linear layer, none of whose NF4 blocks would cross a row."""
    return type(module) is nn.Linear and module.in_features % NF4_BLOCK == 0


def needed_bytes(network: nn.Module, method: Quantization) -> int:
    """Return how many bytes a network will hold once it is quantised, to a percent or so."""
    bits = BITS_PER_WEIGHT.get(method)
    fewer = {id(module.weight) for module in network.modules() if is_quantizable(module)}
    tensors = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
    return sum(
        tensor.nbytes if bits is None or key not in fewer else int(tensor.numel() * bits / 8)
        for key, tensor in tensors.items()
    )


def _quantize_nf4(network: nn.Module, device: torch.device, compute_dtype: torch.dtype) -> None:
    from vortex.models.nf4 import Nf4Linear  # bitsandbytes takes seconds to import

    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if is_quantizable(child):
                layer = Nf4Linear(child, NF4_BLOCK, device=device, compute_dtype=compute_dtype)
                setattr(parent, name, layer)
    network.to(device)


def _quantize_int8(network: nn.Module, device: torch.device) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    config = Int8WeightOnlyConfig(set_inductor_config=False)
    quantize_(network, config, lambda module, _: is_quantizable(module), device=device)
    network.to(device)
