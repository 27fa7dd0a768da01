"""Speech in pieces: the first sentence can be used while the later ones are made."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator

import numpy as np

from vortex.errors import InvalidRecipeError
from vortex.models.kokoro.limits import Fitting
from vortex.models.kokoro.speech import SAMPLE_RATE_HZ, SpeechPiece, TimedPhoneme, TimedWord
from vortex.utils.audio import SpeechLeveller, fade_out
from vortex.utils.cancellation import CancellationToken

_PAUSE_SAMPLES = SAMPLE_RATE_HZ // 4
_FADE_SAMPLES = SAMPLE_RATE_HZ // 50
_SHORTEST_SENTENCE_S = 0.4
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+")
_CLAUSE_ENDS = ",;:—-"
# To the phonemizer a null byte is the end of its text, and half a surrogate pair is not text.
_UNWRITABLE = dict.fromkeys((0, *range(0xD800, 0xE000)), " ")

Said = tuple[np.ndarray, list[TimedPhoneme]]
"""A waveform, float32 `[samples]`, and its phonemes in seconds from its start."""

logger = logging.getLogger(__name__)


class SpeechStream:
    """A script's sentences, in order, each made when it is asked for; can be read once.

    Nothing waits for a later sentence: a piece is final when it comes, its loudness included. Laid
    end to end, the pieces are the speech, never longer than there is time for; what does not fit
    is cut at a sentence, with a warning.

    Reading a piece blocks while it is made, and raises:

    * InvalidRecipeError: nothing in the script can be spoken; instead of a first piece.
    * StageCancelled: the token was cancelled, before a sentence or inside it.
    """

    def __init__(
        self,
        script: str,
        say: Callable[[str], Said | None],
        fit: Callable[[str, float], Fitting],
        words: Callable[[str, list[TimedPhoneme]], tuple[TimedWord, ...]] = lambda *_: (),
        *,
        voice_id: str,
        level_dbfs: float,
        max_duration_s: float,
        token: CancellationToken,
    ) -> None:
        """Nothing is spoken until the first piece is read.

        Args:
            script: all sentences.
            say: speaks one sentence, and returns None if nothing in it can be spoken.
            fit: returns what of a sentence could fit into some seconds, so that nothing else is
                given to `say`.
            words: returns the words of a sentence that its phonemes say, with their times.
            voice_id: the voice that speaks.
            level_dbfs: loudness of the speech, its pauses left out.
            max_duration_s: the speech is never longer.
            token: polled before each sentence.
        """
        self.voice_id = voice_id
        self.truncated = False
        """Whether the script was longer than there was time for; known after the last piece."""
        self._sentences = list(_sentences(script))
        self._say = say
        self._fit = fit
        self._words = words
        self._leveller = SpeechLeveller(level_dbfs)
        self._max_duration_s = max_duration_s
        self._token = token
        self._pieces = self._speak()

    def __iter__(self) -> Iterator[SpeechPiece]:
        """Return the pieces that were not read yet."""
        return self._pieces

    def _speak(self) -> Iterator[SpeechPiece]:
        room = int(self._max_duration_s * SAMPLE_RATE_HZ)
        used = 0  # samples, of the pieces so far
        done = 0  # sentences that are spoken, or cannot be
        for sentence in self._sentences:
            self._token.raise_if_cancelled()
            start = used + _PAUSE_SAMPLES if used else 0
            if used and room - start < _SHORTEST_SENTENCE_S * SAMPLE_RATE_HZ:
                break
            fitting = self._fit(sentence, (room - start) / SAMPLE_RATE_HZ)
            if used and not fitting.whole:
                break
            said = self._say(fitting.text)
            if said is not None and start + len(said[0]) > room:
                if used:
                    break
                said = self._cut(fitting.text, said, room)
                self.truncated = True
            self.truncated = self.truncated or not fitting.whole
            done += 1
            if said is not None:
                yield self._piece(fitting.text, said, used, start)
                used = start + len(said[0])
            if self.truncated:
                break
        if not used:
            raise InvalidRecipeError("audio_track.script: nothing in it can be spoken")
        self._end(done)

    def _piece(self, text: str, said: Said, used: int, start: int) -> SpeechPiece:
        """Return a sentence that begins at sample `start`, after what is used and a pause."""
        waveform, phonemes = said
        start_s = start / SAMPLE_RATE_HZ
        pause = np.zeros(start - used, dtype=np.float32)
        return SpeechPiece(
            waveform=np.concatenate([pause, self._leveller.level(waveform)]),
            start_s=used / SAMPLE_RATE_HZ,
            phonemes=tuple(phoneme.later(start_s) for phoneme in phonemes),
            words=tuple(word.later(start_s) for word in self._words(text, phonemes)),
        )

    def _cut(self, sentence: str, said: Said, room: int) -> Said:
        """Shorten a sentence that alone is longer than the slot: at a clause, else at a word."""
        words = sentence.split()
        fitting = max(1, int(len(words) * room / len(said[0])))
        clauses = [n for n in range(1, fitting + 1) if words[n - 1][-1] in _CLAUSE_ENDS]
        shorter = " ".join(words[: clauses[-1] if clauses else fitting])
        shorter = self._fit(shorter, room / SAMPLE_RATE_HZ).text
        if shorter != sentence:
            said = self._say(shorter) or said
        waveform, phonemes = said
        if len(waveform) > room:
            waveform = fade_out(waveform[:room], _FADE_SAMPLES)
        return waveform, within(phonemes, waveform)

    def _end(self, done: int) -> None:
        left = self._sentences[done:]
        self.truncated = self.truncated or any(self._fit(sentence, 0.0).text for sentence in left)
        if self.truncated:
            logger.warning(
                "Script cut at a sentence: it is longer than the slot",
                extra={
                    "sentences": len(self._sentences),
                    "sentences_spoken": done,
                    "max_duration_s": self._max_duration_s,
                },
            )


def within(phonemes: list[TimedPhoneme], waveform: np.ndarray) -> list[TimedPhoneme]:
    """Keep what lies in the waveform, cut at both its ends."""
    duration_s = len(waveform) / SAMPLE_RATE_HZ
    cut = (TimedPhoneme(p.symbol, max(p.start_s, 0.0), min(p.end_s, duration_s)) for p in phonemes)
    return [phoneme for phoneme in cut if phoneme.start_s < phoneme.end_s]


def _sentences(script: str) -> Iterator[str]:
    for sentence in _SENTENCE_END.split(" ".join(script.translate(_UNWRITABLE).split())):
        if sentence:
            yield sentence
