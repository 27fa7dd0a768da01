"""Where the models run."""

from __future__ import annotations

import torch

from vortex.errors import VortexInitializationError


def device_of(name: str) -> torch.device:
    """Return the device that a configured name stands for.

    Raises:
        VortexInitializationError: this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise VortexInitializationError(
            f"device.name {name}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def half_precision(device: torch.device) -> torch.dtype:
    """Return the type of two bytes that a device multiplies fastest, or float32 if it has none."""
    if device.type != "cpu":
        return torch.float16
    able = torch.cpu.get_capabilities()
    has_bfloat16 = able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    return torch.bfloat16 if has_bfloat16 else torch.float32


def device_title(device: torch.device) -> str:
    """Return what sort of device it is, such as "NVIDIA H100" or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
