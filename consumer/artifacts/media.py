"""A finished video on the local disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """Loudness after EBU R 128; None where there is nothing to measure."""

    integrated_lufs: float | None
    true_peak_dbtp: float | None


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
    loudness: Measured | None = None
    """Of the finished file; None if its loudness was left alone."""
    captions: str | None = None
    """WebVTT of what is said; None if captions are not made."""
    watermark_id: str | None = None
    """What the picture was marked with; None if it was left alone."""
