"""What is said, and when each of its sounds is heard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE_HZ = 24_000


@dataclass(frozen=True)
class TimedPhoneme:
    """A phoneme and when it sounds, in seconds from the start of the speech."""

    symbol: str
    """One of Kokoro's symbols: IPA, marks of stress and length, spaces, punctuation."""
    start_s: float
    end_s: float

    def later(self, by_s: float) -> TimedPhoneme:
        """Return it moved in time."""
        return TimedPhoneme(self.symbol, self.start_s + by_s, self.end_s + by_s)


@dataclass(frozen=True)
class TimedWord:
    """A word as it is written and when it is heard, in seconds from the start of the speech."""

    text: str
    """With the punctuation around it."""
    start_s: float
    end_s: float

    def later(self, by_s: float) -> TimedWord:
        """Return it moved in time."""
        return TimedWord(self.text, self.start_s + by_s, self.end_s + by_s)


@dataclass(frozen=True)
class SpeechPiece:
    """One spoken sentence, with the pause before it; pieces end to end are the speech."""

    waveform: np.ndarray
    """float32 `[samples]` in [-1, 1], mono, of its own memory."""
    start_s: float
    """When it begins, in seconds from the start of the speech."""
    phonemes: tuple[TimedPhoneme, ...]
    """In order, without overlap; times count from the start of the speech, not of the piece.

    The last one before a pause also spans the pause's beginning.
    """
    words: tuple[TimedWord, ...] = ()
    """What was said, in order; times as those of the phonemes."""
    text: str = ""
    """What of the script it says, as it is written."""

    @property
    def end_s(self) -> float:
        """When it ends, in seconds from the start of the speech."""
        return self.start_s + len(self.waveform) / SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Speech:
    """A spoken script."""

    waveform: np.ndarray
    """float32 `[samples]` in [-1, 1], mono, of its own memory."""
    phonemes: tuple[TimedPhoneme, ...]
    """In order, without overlap; empty where only the waveform is known.

    The last one before a pause also spans the pause's beginning.
    """
    voice_id: str
    """The voice that spoke."""
    truncated: bool
    """Whether the script was longer than there was time for."""
    sample_rate_hz: int = SAMPLE_RATE_HZ
    words: tuple[TimedWord, ...] = ()
    """What was said, in order; empty where only the waveform is known."""
    text: str = ""
    """What of the script was said, as it is written, with single spaces; empty if not known."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / self.sample_rate_hz
