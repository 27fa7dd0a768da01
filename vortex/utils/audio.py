"""Small signal helpers. Waveforms are float32 `[samples]` in [-1, 1], mono."""

from __future__ import annotations

import numpy as np
import soxr

PEAK_LIMIT = 10 ** (-1 / 20)  # -1 dBFS: room for the overshoot of lossy codecs
_SPEECH_FLOOR = 0.01  # -40 dBFS: what is quieter is a pause, and does not count as loudness


def shift_pitch(waveform: np.ndarray, ratio: float, sample_rate_hz: int) -> np.ndarray:
    """Raise the pitch by `ratio`, which also makes the sound shorter by it, as faster tape does.

    Speech synthesised slower by the same ratio comes out at its right tempo, at no loss.
    """
    if ratio == 1.0:
        return waveform
    resampled: np.ndarray = soxr.resample(waveform, sample_rate_hz * ratio, sample_rate_hz)
    return resampled


class SpeechLeveller:
    """Brings sentences to one level as they come, each without knowing the later ones.

    The level is the root mean square, without pauses.

    A sentence's gain follows from all speech so far, its own included. Measured on six of Kokoro's
    voices, November 2026: sentences of less than a second are up to 2.4 dB louder than the whole,
    so that a gain kept from the first would leave the speech that much too quiet, and a gain for
    each sentence alone would take away what the voice stresses. The level of all speech so far is
    within 0.4 dB of the whole's from the second sentence on.
    """

    def __init__(self, level_dbfs: float) -> None:
        self._level = 10 ** (level_dbfs / 20)
        self._energy = 0.0
        self._samples = 0

    def level(self, waveform: np.ndarray) -> np.ndarray:
        """Return the next sentence at its level, float32 `[samples]`, below a soft peak limit."""
        speech = waveform[np.abs(waveform) > _SPEECH_FLOOR]
        self._energy += float(np.sum(np.square(speech, dtype=np.float64)))
        self._samples += speech.size
        if self._samples == 0:
            return waveform
        gained = waveform * (self._level / (self._energy / self._samples) ** 0.5)
        # tanh bends peaks instead of clipping them; quiet parts pass unchanged.
        limited: np.ndarray = (PEAK_LIMIT * np.tanh(gained / PEAK_LIMIT)).astype(np.float32)
        return limited


def fade_out(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Let the end of a waveform fall to silence, so that a cut makes no click."""
    samples = min(samples, len(waveform))
    faded = waveform.copy()
    faded[len(faded) - samples :] *= np.linspace(1.0, 0.0, samples, dtype=np.float32)
    return faded


def fit_length(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Cut a waveform, or pad it with silence, to a number of samples."""
    fitted = np.zeros(samples, dtype=np.float32)
    used = min(samples, len(waveform))
    fitted[:used] = waveform[:used]
    return fitted


def envelope(waveform: np.ndarray, sample_rate_hz: int, fps: float, frames: int) -> np.ndarray:
    """Return the root mean square of each video frame's own interval, float32 `[frames]`."""
    edges = np.round(np.arange(frames + 1) * sample_rate_hz / fps).astype(int)
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
    edges = np.minimum(edges, len(waveform))
    lengths = np.maximum(np.diff(edges), 1)
    rms: np.ndarray = np.sqrt(np.diff(energy[edges]) / lengths).astype(np.float32)
    return rms
