"""The voices that the built models have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

DEFAULT = "default"

_ENGLISH = ("a", "b")  # Kokoro's voices begin with their language: a American, b British


def installed_voices(profile_directory: Path) -> tuple[str, ...]:
    """Return the names in Kokoro's voice file, sorted; none if there is no such file."""
    try:
        with ZipFile(profile_directory / "kokoro" / "voices.npz") as arrays:
            return tuple(sorted(name.removesuffix(".npy") for name in arrays.namelist()))
    except (FileNotFoundError, BadZipFile):
        return ()  # whether the models are whole is the worker's to check, not ours


def choose_voice(wanted: Sequence[str], installed: Sequence[str]) -> str:
    """Return the first wanted voice that is installed, else the worker's own choice."""
    return next((voice for voice in wanted if voice in installed), DEFAULT)


def speak_english(installed: Sequence[str]) -> bool:
    """Tell whether any of the voices is an English speaker's."""
    return any(voice.startswith(_ENGLISH) for voice in installed)
