"""The voices of a directory: which there are, and which one speaks by default."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from vortex.errors import VortexInitializationError

AUTOMATIC = "auto"
"""The configured default voice that stands for the first one there of `PREFERRED`."""
PREFERRED = ("af_heart", "jm_kumo")
"""The best English voice of Kokoro, and the clearest of the Japanese ones."""
VOICE_SHAPE = (510, 1, 256)
"""A style for each number of tokens, 1 to 510."""
VOICES_FILE = "voices.npz"


def choose_default(configured: str, voices: Collection[str], directory: Path) -> str:
    """Return what the voice id "default" means.

    Args:
        configured: a voice, or "auto": the first of `PREFERRED` that there is, else of the
            alphabet.
        voices: what the directory has.
        directory: for the message.

    Raises:
        VortexInitializationError: the configured voice is not there, or there is none at all.
    """
    if not voices:
        raise VortexInitializationError(f"kokoro: {directory} holds no voices")
    if configured == AUTOMATIC:
        return next((voice for voice in PREFERRED if voice in voices), min(voices))
    if configured not in voices:
        raise VortexInitializationError(
            f"models.default_voice '{configured}' is not in {directory}; set it to auto, or one of "
            + ", ".join(sorted(voices))
        )
    return configured


def style_of(voice: np.ndarray, tokens: int) -> np.ndarray:
    """Return the style for a number of tokens, `[1, 256]`."""
    style: np.ndarray = voice[min(tokens, len(voice)) - 1]
    return style


def read_packed_voices(path: Path) -> dict[str, np.ndarray]:
    """Return all voices of an `.npz` file by name, float32 `[510, 1, 256]`.

    Raises:
        VortexInitializationError: it is missing or damaged, or holds something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as packed:
            voices = {name: np.asarray(packed[name]) for name in packed.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise VortexInitializationError(f"kokoro: {path} cannot be loaded: {error}") from error
    return checked(voices, path)


def write_packed_voices(path: Path, voices: Mapping[str, np.ndarray]) -> None:
    """Write voices as an `.npz` file, to the same bytes on every Python.

    What `numpy.savez` writes between the arrays changed within Python 3.11.
    """
    with zipfile.ZipFile(path, "w") as packed:
        for name, voice in voices.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, voice, allow_pickle=False)
            packed.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())


def checked(voices: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Return voices as float32, if each is of the right shape.

    Raises:
        VortexInitializationError: one is not; the message names it.
    """
    for name, voice in voices.items():
        if voice.shape != VOICE_SHAPE or voice.dtype.kind != "f":
            raise VortexInitializationError(
                f"kokoro: {path}: voice '{name}' is {voice.dtype} {list(voice.shape)}"
                f" instead of float32 {list(VOICE_SHAPE)}"
            )
    return {name: voice.astype(np.float32, copy=False) for name, voice in voices.items()}
