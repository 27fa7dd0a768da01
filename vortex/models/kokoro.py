"""Speech by Kokoro-82M, as ONNX on the CPU."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from kokoro_onnx import Kokoro

from vortex.errors import InvalidRecipeError, VortexInitializationError
from vortex.utils.audio import fade_out, normalize_loudness, shift_pitch
from vortex.utils.cancellation import CancellationToken

SAMPLE_RATE_HZ = 24_000

_SPEECH_LEVEL_DBFS = -20.0
_SENTENCE_PAUSE_S = 0.25
_FADE_SAMPLES = SAMPLE_RATE_HZ // 50
_SHORTEST_SENTENCE_S = 0.4
_KOKORO_SPEEDS = (0.5, 2.0)
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+")
_CLAUSE_ENDS = ",;:—-"
# Sounds come this much before the sum of the durations before them. Measured on four sentences by
# each of the five packaged voices, November 2026: loudness follows the kind of sound at a
# correlation of 0.60 with it, of 0.20 without. From tempo 0.8 to 1.25 it falls from 70 to 55 ms.
_SOUNDS_EARLY_S = 0.06

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Emotion:
    """How an emotion sounds beside the voice's neutral reading."""

    tempo: float
    pitch: float
    gain_db: float


# Aroused speech is faster, higher and louder, sad speech the reverse, anger is louder and pressed
# down; the amounts are small enough that a voice stays itself (after Scherer 2003, table 2).
_EMOTIONS = {
    "neutral": _Emotion(1.0, 1.0, 0.0),
    "excited": _Emotion(1.06, 1.05, 2.0),
    "sad": _Emotion(0.9, 0.96, -3.0),
    "angry": _Emotion(1.04, 0.97, 3.0),
    "manic": _Emotion(1.15, 1.08, 3.0),
}


@dataclass(frozen=True)
class TimedPhoneme:
    """A phoneme and when it sounds, in seconds from the start of the speech."""

    symbol: str
    """One of Kokoro's symbols: IPA, marks of stress and length, spaces, punctuation."""
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Speech:
    """A spoken script."""

    waveform: np.ndarray
    """float32 `[samples]` in [-1, 1], mono, of its own memory."""
    phonemes: tuple[TimedPhoneme, ...]
    """In order, without overlap. Empty when the model file reports no durations.

    The last one before a pause also spans the pause's beginning.
    """
    voice_id: str
    """The voice that spoke."""
    truncated: bool
    """Whether the script was longer than there was time for."""
    sample_rate_hz: int = SAMPLE_RATE_HZ

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / self.sample_rate_hz


class KokoroSpeech:
    """Speaks scripts, a sentence at a time.

    Same arguments, same samples. Blocking; one call at a time.
    """

    def __init__(self, directory: Path, *, default_voice: str, threads: int | None = None) -> None:
        """Load `model.onnx` and `voices.npz`.

        Args:
            directory: holds both files.
            default_voice: what the voice id "default" means.
            threads: for one operation; None leaves it to the library.

        Raises:
            VortexInitializationError: a file cannot be loaded, or lacks the default voice.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(
                str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
            self._kokoro = Kokoro.from_session(session, str(directory / "voices.npz"))
            self.voices = tuple(sorted(self._kokoro.voices.keys()))
        except Exception as error:
            raise VortexInitializationError(
                f"kokoro: {directory} cannot be loaded: {error}"
            ) from error
        if default_voice not in self.voices:
            raise VortexInitializationError(
                f"models.default_voice '{default_voice}' is not in {directory}; it has "
                + ", ".join(self.voices)
            )
        self._default_voice = default_voice

    def synthesize(
        self,
        script: str,
        *,
        voice_id: str = "default",
        speed: float = 1.0,
        emotion: str = "neutral",
        max_duration_s: float,
        token: CancellationToken,
    ) -> Speech:
        """Speak a script; what does not fit is cut at a sentence, with a warning.

        Args:
            script: English text. Characters that cannot be spoken are left out.
            voice_id: one of `voices`, or "default".
            speed: tempo, 1 is the voice's own.
            emotion: neutral, excited, sad, angry or manic.
            max_duration_s: the speech is never longer.
            token: polled before each sentence.

        Raises:
            InvalidRecipeError: the voice is not known, or nothing in the script can be spoken.
            StageCancelled: the token was cancelled.
        """
        voice_id = self._default_voice if voice_id == "default" else voice_id
        if voice_id not in self.voices:
            known = ", ".join(self.voices)
            raise InvalidRecipeError(f"voice_id '{voice_id}' is not known; this worker has {known}")
        style = _EMOTIONS[emotion]
        parts: list[np.ndarray] = []
        phonemes: list[TimedPhoneme] = []
        room = int(max_duration_s * SAMPLE_RATE_HZ)
        pause = int(_SENTENCE_PAUSE_S * SAMPLE_RATE_HZ)
        used = 0
        sentences = list(_sentences(script))
        spoken = 0
        truncated = False
        for sentence in sentences:
            token.raise_if_cancelled()
            start = used + pause if parts else 0
            if room - start < _SHORTEST_SENTENCE_S * SAMPLE_RATE_HZ and parts:
                break
            said = self._say(sentence, voice_id, speed, style)
            if said is None:
                spoken += 1
                continue
            waveform, timed = said
            if start + len(waveform) > room:
                if parts:
                    break
                waveform, timed = self._cut(sentence, said, room, voice_id, speed, style)
                truncated = True
            if parts:
                parts.append(np.zeros(pause, dtype=np.float32))
            parts.append(waveform)
            phonemes += _shifted(timed, start / SAMPLE_RATE_HZ)
            used = start + len(waveform)
            spoken += 1
            if truncated:
                break
        if not parts:
            raise InvalidRecipeError("audio_track.script: nothing in it can be spoken")
        truncated = truncated or spoken < len(sentences)
        if truncated:
            logger.warning(
                "Script cut at a sentence: it is longer than the slot",
                extra={
                    "sentences": len(sentences),
                    "sentences_spoken": spoken,
                    "max_duration_s": max_duration_s,
                },
            )
        whole = normalize_loudness(np.concatenate(parts), _SPEECH_LEVEL_DBFS + style.gain_db)
        return Speech(whole, tuple(phonemes), voice_id, truncated)

    def _say(
        self, text: str, voice_id: str, speed: float, style: _Emotion
    ) -> tuple[np.ndarray, list[TimedPhoneme]] | None:
        """Speak one sentence; None if nothing in it can be spoken."""
        language = "en-gb" if voice_id.startswith("b") else "en-us"
        phonemes = self._kokoro.tokenizer.phonemize(text, language)
        if not any(symbol.isalpha() for symbol in phonemes):
            return None
        slowest, fastest = _KOKORO_SPEEDS
        tempo = float(np.clip(speed * style.tempo / style.pitch, slowest, fastest))
        # The voice makes its own pauses in a sentence, and those between sentences are ours.
        waveform, _, timings = self._kokoro.create_timed(
            phonemes, voice_id, tempo, is_phonemes=True, sentence_pause=0.0, clause_pause=0.0
        )
        waveform = shift_pitch(waveform, style.pitch, SAMPLE_RATE_HZ)
        timed = [
            TimedPhoneme(
                timing.phoneme,
                (timing.start - _SOUNDS_EARLY_S) / style.pitch,
                (timing.end - _SOUNDS_EARLY_S) / style.pitch,
            )
            for timing in timings
        ]
        return waveform.astype(np.float32, copy=False), _within(timed, waveform)

    def _cut(
        self,
        sentence: str,
        said: tuple[np.ndarray, list[TimedPhoneme]],
        room: int,
        voice_id: str,
        speed: float,
        style: _Emotion,
    ) -> tuple[np.ndarray, list[TimedPhoneme]]:
        """Shorten a sentence that alone is longer than the slot: at a clause, else at a word."""
        words = sentence.split()
        fitting = max(1, int(len(words) * room / len(said[0])))
        clauses = [n for n in range(1, fitting + 1) if words[n - 1][-1] in _CLAUSE_ENDS]
        shorter = " ".join(words[: clauses[-1] if clauses else fitting])
        waveform, timed = self._say(shorter, voice_id, speed, style) or said
        if len(waveform) > room:
            waveform = fade_out(waveform[:room], _FADE_SAMPLES)
        return waveform, _within(timed, waveform)


def _sentences(script: str) -> Iterator[str]:
    for sentence in _SENTENCE_END.split(" ".join(script.split())):
        if sentence:
            yield sentence


def _shifted(phonemes: list[TimedPhoneme], by_s: float) -> list[TimedPhoneme]:
    return [TimedPhoneme(p.symbol, p.start_s + by_s, p.end_s + by_s) for p in phonemes]


def _within(phonemes: list[TimedPhoneme], waveform: np.ndarray) -> list[TimedPhoneme]:
    """Keep what lies in the waveform, cut at both its ends."""
    duration_s = len(waveform) / SAMPLE_RATE_HZ
    cut = (TimedPhoneme(p.symbol, max(p.start_s, 0.0), min(p.end_s, duration_s)) for p in phonemes)
    return [phoneme for phoneme in cut if phoneme.start_s < phoneme.end_s]
