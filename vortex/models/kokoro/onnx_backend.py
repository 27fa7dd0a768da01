"""Kokoro's network as ONNX, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from kokoro_onnx.config import DEFAULT_VOCAB

from vortex.errors import VortexInitializationError, one_line
from vortex.models.kokoro.backend import ONNX_FILE, VNNI_FILE
from vortex.models.kokoro.voices import VOICES_FILE, read_packed_voices, style_of
from vortex.utils.cancellation import CancellationToken, StageCancelled

_INPUTS = {"tokens", "style", "speed"}
_OUTPUTS = ["audio", "duration"]
SOUNDS_EARLY_S = 0.06  # 62 ms in the median of ten voices (November 2026)


class OnnxBackend:
    """Runs `model.onnx`, or `model-vnni.onnx`, with the voices of `voices.npz`."""

    def __init__(self, directory: Path, *, threads: int | None = None) -> None:
        """Load both files.

        Raises:
            VortexInitializationError: one cannot be loaded, or is not what we install.
        """
        path = _network_for_this_processor(directory)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Threads that wait by spinning took half as much processor time again, on two cores from
        # the picture that is drawn beside (November 2026).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # To look for shortcuts in the graph takes as long again as to load it, and those found save
        # nothing: neither time nor memory, and the samples are the same (onnxruntime 1.32.0).
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library's errors have no common class
            raise VortexInitializationError(
                f"kokoro: {path} cannot be loaded: {one_line(error)}"
            ) from error
        inputs = {given.name for given in self._session.get_inputs()}
        outputs = {made.name for made in self._session.get_outputs()}
        if inputs != _INPUTS or not outputs.issuperset(_OUTPUTS):
            raise VortexInitializationError(
                f"kokoro: {path} goes from {', '.join(sorted(inputs))} to"
                f" {', '.join(sorted(outputs))} instead of from {', '.join(sorted(_INPUTS))} to"
                f" {', '.join(_OUTPUTS)}; run `vortex models build`"
            )
        self._voices = read_packed_voices(directory / VOICES_FILE)
        self.vocabulary: Mapping[str, int] = DEFAULT_VOCAB
        self.voices = tuple(sorted(self._voices))

    @property
    def sounds_early_s(self) -> float:
        """By how much sounds come early, as the protocol says."""
        return SOUNDS_EARLY_S

    def run(
        self, tokens: Sequence[int], voice: str, tempo: float, *, token: CancellationToken
    ) -> tuple[np.ndarray, np.ndarray]:
        """Speak tokens, as the protocol says."""
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": style_of(self._voices[voice], len(tokens)),
            "speed": np.array([tempo], dtype=np.float32),
        }
        options = onnxruntime.RunOptions()
        # The library looks at the flag between two operators: within 0.1 s for 510 tokens on two
        # busy cores (November 2026).
        with token.calling(partial(setattr, options, "terminate", True)):
            try:
                waveform, durations = self._session.run(_OUTPUTS, inputs, options)
            except Exception as error:  # the library's errors have no common class
                if token.cancelled:
                    raise StageCancelled from error
                raise
        return np.ravel(waveform), np.ravel(durations)


def _network_for_this_processor(directory: Path) -> Path:
    fast = directory / VNNI_FILE
    able = torch.cpu.get_capabilities()
    has_vnni = able.get("avx512_vnni", False) or able.get("avx_vnni", False)
    return fast if has_vnni and fast.is_file() else directory / ONNX_FILE
