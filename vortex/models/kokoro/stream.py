"""Speech in pieces: the first sentence can be used while the later ones are made."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator

import numpy as np

from vortex.errors import InvalidRecipeError
from vortex.models.kokoro.limits import Fitting
from vortex.models.kokoro.reading import ends_sentence
from vortex.models.kokoro.speech import SAMPLE_RATE_HZ, SpeechPiece, TimedPhoneme, TimedWord
from vortex.utils.audio import SpeechLeveller, fade_out
from vortex.utils.cancellation import CancellationToken

_PAUSE_SAMPLES = SAMPLE_RATE_HZ // 4
_FADE_SAMPLES = SAMPLE_RATE_HZ // 50
_SHORTEST_SENTENCE_S = 0.4
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+")
_NEIGHBOUR_CHARS = 40  # that tell whether a full stop ends a sentence
_CLAUSE_ENDS = ",;:—\u2013-"
_MOST_CUTS = 2  # each is spoken to know how long it is
_FEWEST_WORDS = 3
# Nothing ends with these.
_WEAK = frozenset((
    "a", "an", "and", "are", "as", "at", "but", "by", "for", "from", "had", "has", "have", "her",
    "his", "if", "in", "into", "is", "its", "my", "no", "of", "on", "or", "our", "so", "than",
    "that", "the", "their", "to", "was", "were", "which", "who", "will", "with", "your",
))  # fmt: skip
# To the phonemizer a null byte is the end of its text, and half a surrogate pair is not text.
_UNWRITABLE = dict.fromkeys((0, *range(0xD800, 0xE000)), " ")

Said = tuple[np.ndarray, list[TimedPhoneme]]
"""A waveform, float32 `[samples]`, and its phonemes in seconds from its start."""

logger = logging.getLogger(__name__)


class SpeechStream:
    """A script's sentences, in order, each made when it is asked for; can be read once.

    Nothing waits for a later sentence: a piece is final when it comes, its loudness included. Laid
    end to end, the pieces are the speech, never longer than there is time for; what does not fit
    is cut, if need be at a clause or a word, with a warning.

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
            text, said = fitting.text, self._say(fitting.text)
            self.truncated = not fitting.whole
            if said is not None and start + len(said[0]) > room:
                text, said = self._cut(text, said, room - start, first=not used)
                self.truncated = True
            if said is None and self.truncated:
                break
            done += 1
            if said is not None:
                yield self._piece(text, said, used, start)
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
            text=text,
            waveform=np.concatenate([pause, self._leveller.level(waveform)]),
            start_s=used / SAMPLE_RATE_HZ,
            phonemes=tuple(phoneme.later(start_s) for phoneme in phonemes),
            words=tuple(word.later(start_s) for word in self._words(text, phonemes)),
        )

    def _cut(self, text: str, said: Said, room: int, *, first: bool) -> tuple[str, Said | None]:
        """Shorten what takes more than `room` samples: at a clause, else at a word.

        Of the first sentence at least a sound is left. Of a later one nothing is, rather than a
        word or two.
        """
        shorter_text, shorter = text, said
        for _ in range(_MOST_CUTS):
            words = shorter_text.split()
            heard = self._heard(shorter_text, shorter, room)
            count = _place_to_cut(words, min(heard, len(words) - 1))
            if count < (1 if first else _FEWEST_WORDS):
                break
            shorter_text = " ".join(words[:count])
            again = self._say(shorter_text)
            if again is None:
                break
            if len(again[0]) <= room:
                return shorter_text, again
            shorter = again
        if not first:
            return "", None
        waveform = fade_out(said[0][:room], _FADE_SAMPLES)
        heard = max(1, self._heard(text, said, room))
        return " ".join(text.split()[:heard]), (waveform, within(said[1], waveform))

    def _heard(self, text: str, said: Said, room: int) -> int:
        """Return how many words have been said after so many samples."""
        waveform, phonemes = said
        timed = self._words(text, phonemes)
        if not timed:
            return int(len(text.split()) * room / len(waveform))
        return sum(len(word.text.split()) for word in timed if word.end_s * SAMPLE_RATE_HZ <= room)

    def _end(self, done: int) -> None:
        left = self._sentences[done:]
        self.truncated = self.truncated or any(self._fit(sentence, 0.0).text for sentence in left)
        if self.truncated:
            logger.warning(
                "Script cut: it is longer than the slot",
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


def _place_to_cut(words: list[str], most: int) -> int:
    """Return how many words to keep: to the end of a clause, if that is half of what there may be.

    Else to a word with which a phrase can end.
    """
    clauses = [n for n in range(1, most + 1) if words[n - 1][-1] in _CLAUSE_ENDS]
    if clauses and 2 * clauses[-1] >= most:
        return clauses[-1]
    count = most
    while count > 1 and words[count - 1].lower() in _WEAK:
        count -= 1
    return count


def _sentences(script: str) -> Iterator[str]:
    text = " ".join(script.translate(_UNWRITABLE).split())
    start = 0
    for gap in _SENTENCE_END.finditer(text):
        before = text[max(start, gap.start() - _NEIGHBOUR_CHARS) : gap.start()]
        if ends_sentence(before, text[gap.end() : gap.end() + _NEIGHBOUR_CHARS]):
            yield text[start : gap.start()]
            start = gap.end()
    if start < len(text):
        yield text[start:]
