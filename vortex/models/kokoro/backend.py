"""What runs Kokoro's network; which one a directory needs is seen from its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vortex.errors import VortexInitializationError
from vortex.utils.cancellation import CancellationToken

if TYPE_CHECKING:
    import torch

SAMPLES_PER_UNIT = 600
"""Samples of one unit of duration, at 24 kHz."""
MAX_TOKENS = 510
"""Of one run, the markers of begin and end left out."""
ONNX_FILE = "model.onnx"
CONFIG_FILE = "config.json"


class KokoroBackend(Protocol):
    """A loaded network with its voices. Blocking; one call at a time."""

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """The token of each symbol."""

    @property
    def voices(self) -> tuple[str, ...]:
        """The names of the voices, sorted."""

    def run(
        self, tokens: Sequence[int], voice: str, tempo: float, *, token: CancellationToken
    ) -> tuple[np.ndarray, np.ndarray]:
        """Speak tokens; same arguments, same samples.

        Args:
            tokens: one to 510, without the markers of begin and end.
            voice: one of `voices`.
            tempo: 1 is the voice's own, 2 twice as fast.
            token: stops the run between two operations of the network.

        Returns:
            The waveform, float32 `[samples]`, mono at 24 kHz; and how long each token sounds,
            int64 `[tokens + 2]`, with the two markers, in units of 600 samples, of which the
            waveform is the sum.

        Raises:
            StageCancelled: the token was cancelled; the next run is as any other.
        """


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
