"""What runs Kokoro's network: in ONNX or in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vortex.utils.cancellation import CancellationToken

if TYPE_CHECKING:
    pass

SAMPLES_PER_UNIT = 600
"""Samples of one unit of duration, at 24 kHz."""
MAX_TOKENS = 510
"""Of one run, the markers of begin and end left out."""
ONNX_FILE = "model.onnx"
VNNI_FILE = "model-vnni.onnx"
"""The same network for processors with VNNI; none where there is no such file beside the other."""
CONFIG_FILE = "config.json"


class KokoroBackend(Protocol):
    """A loaded network with its voices. Blocking; one call at a time."""

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """The token of each symbol."""

    @property
    def voices(self) -> tuple[str, ...]:
        """The names of the voices, sorted."""

    @property
    def sounds_early_s(self) -> float:
        """By how much a sound is heard before the sum of the durations before it."""

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
