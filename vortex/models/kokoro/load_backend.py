"""Which backend a directory needs is seen from its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vortex.errors import VortexInitializationError
from vortex.models.kokoro.backend import CONFIG_FILE, ONNX_FILE, KokoroBackend

if TYPE_CHECKING:
    import torch


def load_backend(
    directory: Path, *, device: torch.device | None = None, threads: int | None = None
) -> KokoroBackend:
    """Load the network of a directory: `model.onnx`, or `config.json` with PyTorch's weights.

    Args:
        directory: as `install_packaged_kokoro` writes it, or as hexgrad/Kokoro-82M is published.
        device: for PyTorch; None is the CPU. ONNX runs on the CPU.
        threads: for one operation of ONNX; None leaves it to the library.

    Raises:
        VortexInitializationError: a file or a package is missing, or a file does not fit.
    """
    is_onnx, is_torch = ((directory / name).is_file() for name in (ONNX_FILE, CONFIG_FILE))
    if is_onnx == is_torch:
        found = "both" if is_onnx else "neither"
        raise VortexInitializationError(
            f"kokoro: {directory} must hold either {ONNX_FILE} or {CONFIG_FILE}, it holds {found}"
        )
    # Each needs packages that the other does without.
    if is_onnx:
        from vortex.models.kokoro.onnx_backend import OnnxBackend

        return OnnxBackend(directory, threads=threads)
    from vortex.models.kokoro.torch_backend import TorchBackend

    return TorchBackend(directory, device=device)
