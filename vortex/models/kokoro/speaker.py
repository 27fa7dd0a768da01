"""Speaks scripts with Kokoro-82M, whichever way its network runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from kokoro_onnx.chunker import split_phonemes
from kokoro_onnx.sliding import token_edges
from kokoro_onnx.tokenizer import Tokenizer
from kokoro_onnx.trim import trim

from vortex.errors import InvalidRecipeError
from vortex.models.footprint import HasParts
from vortex.models.kokoro.backend import MAX_TOKENS
from vortex.models.kokoro.limits import Fitting, can_be_spoken, fit, most_tokens
from vortex.models.kokoro.load_backend import load_backend
from vortex.models.kokoro.phonemes import phonemes_of
from vortex.models.kokoro.reading import read_aloud
from vortex.models.kokoro.speech import SAMPLE_RATE_HZ, Speech, TimedPhoneme, TimedWord
from vortex.models.kokoro.stream import Said, SpeechStream, within
from vortex.models.kokoro.voices import choose_default
from vortex.models.kokoro.words import timed_words
from vortex.utils.audio import shift_pitch
from vortex.utils.cancellation import CancellationToken

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

_SPEECH_LEVEL_DBFS = -20.0
_KOKORO_SPEEDS = (0.5, 2.0)


@dataclass(frozen=True)
class _Emotion:
    """How an emotion sounds compared with the voice's neutral reading."""

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


class KokoroSpeech:
    """Speaks scripts, a sentence at a time.

    Same arguments, same samples. Blocking; one call at a time.
    """

    def __init__(
        self,
        directory: Path,
        *,
        default_voice: str,
        device: torch.device | None = None,
        threads: int | None = None,
    ) -> None:
        """Load the network and its voices.

        Args:
            directory: holds `model.onnx` and `voices.npz`, or what hexgrad/Kokoro-82M publishes:
                `config.json`, `kokoro-v1_0.pth` and `voices/NAME.pt`.
            default_voice: what the voice id "default" means; "auto" takes the best one there.
            device: where PyTorch's network runs; None is the CPU. ONNX runs on the CPU.
            threads: for one operation of ONNX; None leaves it to the library.

        Raises:
            VortexInitializationError: a file cannot be loaded, or the default voice is not there.
        """
        self._backend = load_backend(directory, device=device, threads=threads)
        self.voices = self._backend.voices
        self.default_voice = choose_default(default_voice, self.voices, directory)
        self._tokenizer = Tokenizer(vocab=dict(self._backend.vocabulary))

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The network where torch runs it, on the GPU if there is one; none of onnxruntime's."""
        return self._backend.parts if isinstance(self._backend, HasParts) else {}

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
        """Speak a script; what does not fit is cut, at a clause or a word, with a warning.

        Args:
            script: English text. Characters that cannot be spoken are left out.
            voice_id: one of `voices`, or "default".
            speed: tempo, 1 is the voice's own.
            emotion: neutral, excited, sad, angry or manic.
            max_duration_s: the speech is never longer.
            token: stops the speech, inside a sentence too.

        Raises:
            InvalidRecipeError: the voice is not known, or nothing in the script can be spoken.
            StageCancelled: the token was cancelled.
        """
        stream = self.stream(
            script,
            voice_id=voice_id,
            speed=speed,
            emotion=emotion,
            max_duration_s=max_duration_s,
            token=token,
        )
        pieces = list(stream)
        return Speech(
            waveform=np.concatenate([piece.waveform for piece in pieces]),
            phonemes=tuple(phoneme for piece in pieces for phoneme in piece.phonemes),
            voice_id=stream.voice_id,
            truncated=stream.truncated,
            words=tuple(word for piece in pieces for word in piece.words),
            text=" ".join(piece.text for piece in pieces),
        )

    def stream(
        self,
        script: str,
        *,
        voice_id: str = "default",
        speed: float = 1.0,
        emotion: str = "neutral",
        max_duration_s: float,
        token: CancellationToken,
    ) -> SpeechStream:
        """Return the same speech in pieces, a sentence each, made while they are read.

        The arguments are those of `synthesize`; reading the pieces blocks and raises.

        Raises:
            InvalidRecipeError: the voice is not known.
        """
        voice_id = self.default_voice if voice_id == "default" else voice_id
        if voice_id not in self.voices:
            known = ", ".join(self.voices)
            raise InvalidRecipeError(f"voice_id '{voice_id}' is not known; this worker has {known}")
        style = _EMOTIONS[emotion]
        slowest, fastest = _KOKORO_SPEEDS
        # A raised pitch makes the sound shorter by its ratio, which the tempo makes up for.
        tempo = float(np.clip(speed * style.tempo / style.pitch, slowest, fastest))

        british = voice_id.startswith("b")

        def sounds_of(spoken: str) -> str:
            return phonemes_of(spoken, self._tokenizer.vocab, british=british)

        def read(text: str) -> str:
            return sounds_of(" ".join(w.spoken for w in read_aloud(text, british=british)))

        def say(sentence: str) -> Said | None:
            said = self._say(read(sentence), voice_id, tempo, token)
            return said and _pitched(said, style.pitch, self._backend.sounds_early_s)

        def words(sentence: str, phonemes: list[TimedPhoneme]) -> tuple[TimedWord, ...]:
            return timed_words(read_aloud(sentence, british=british), phonemes, sounds_of)

        def fitting(sentence: str, seconds: float) -> Fitting:
            return fit(sentence, most_tokens(seconds * style.pitch, tempo), read)

        return SpeechStream(
            script,
            say,
            fitting,
            words,
            voice_id=voice_id,
            level_dbfs=_SPEECH_LEVEL_DBFS + style.gain_db,
            max_duration_s=max_duration_s,
            token=token,
        )

    def _say(
        self, phonemes: str, voice_id: str, tempo: float, token: CancellationToken
    ) -> Said | None:
        """Speak one sentence; None if nothing in it can be spoken."""
        if not can_be_spoken(phonemes):
            return None
        parts: list[np.ndarray] = []
        timed: list[TimedPhoneme] = []
        start_s = 0.0
        # A sentence is spoken in one run, unless it is longer than the network can take.
        for symbols in split_phonemes(phonemes, MAX_TOKENS):
            waveform, times = self._run(symbols, voice_id, tempo, token)
            parts.append(waveform)
            timed += [phoneme.later(start_s) for phoneme in times]
            start_s += len(waveform) / SAMPLE_RATE_HZ
        whole = np.concatenate(parts)
        return (whole, timed) if whole.size else None

    def _run(self, symbols: str, voice_id: str, tempo: float, token: CancellationToken) -> Said:
        """Speak up to 510 phonemes; silence at both ends is cut off."""
        tokens = self._tokenizer.tokenize(symbols)
        waveform, durations = self._backend.run(tokens, voice_id, tempo, token=token)
        if not np.isfinite(waveform).all():
            raise ValueError("kokoro: the speech has NaN or infinite values")
        edges = token_edges(durations, len(waveform))[1:]  # the marker of the beginning left out
        waveform, (first, _) = trim(waveform)
        edges_s = np.clip(edges - first, 0, len(waveform)) / SAMPLE_RATE_HZ
        return waveform, [
            TimedPhoneme(symbol, float(start_s), float(end_s))
            for symbol, start_s, end_s in zip(
                self._tokenizer.known(symbols), edges_s[:-2], edges_s[1:-1], strict=True
            )
        ]


def _pitched(said: Said, ratio: float, early_s: float) -> Said:
    """Raise the pitch, and put the phonemes where they sound."""
    waveform = shift_pitch(said[0], ratio, SAMPLE_RATE_HZ).astype(np.float32, copy=False)
    timed = [
        TimedPhoneme(p.symbol, (p.start_s - early_s) / ratio, (p.end_s - early_s) / ratio)
        for p in said[1]
    ]
    return waveform, within(timed, waveform)
