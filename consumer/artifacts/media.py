"""A finished video on the local disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EncodedMedia:
    """A finished file on the local disk."""

    path: Path
    bytes: int
    sha256: str
    duration_s: float
    width: int
    height: int
    fps: int


def sha256_of(path: Path) -> str:
    """Return the checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
