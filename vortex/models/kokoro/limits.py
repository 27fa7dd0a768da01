"""How much of a script a slot can hold, decided before the network is given any of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vortex.models.kokoro.backend import SAMPLES_PER_UNIT
from vortex.models.kokoro.speech import SAMPLE_RATE_HZ

# No token lasts less than one unit, whatever the tempo.
_MOST_TOKENS_PER_S = SAMPLE_RATE_HZ / SAMPLES_PER_UNIT
# At tempo 1. The 33 voices of the mini profile speak 12 to 20 on ordinary sentences, and no script
# that was tried more than 23 (November 2026).
_TOKENS_PER_S = 30.0
# Marks at either end of a sentence may sound as silence, which is trimmed.
_TRIMMED_TOKENS = 12
# English has one to two characters a token.
_CHARACTERS_PER_TOKEN = 4

Phonemes = Callable[[str], str]
"""Returns a text's phonemes, one character a token."""


class Fitting(NamedTuple):
    """What of a sentence could fit into some seconds."""

    text: str
    """Empty if nothing in the sentence can be spoken."""
    whole: bool
    """Whether nothing is left out that can be spoken."""


def most_tokens(seconds: float, tempo: float) -> int:
    """Return how many tokens could at most be spoken within some seconds of the network's time."""
    return _TRIMMED_TOKENS + int(seconds * min(_TOKENS_PER_S * tempo, _MOST_TOKENS_PER_S))


def can_be_spoken(phonemes: str) -> bool:
    """Return whether there is anything but marks and spaces."""
    return any(symbol.isalpha() for symbol in phonemes)


def fit(sentence: str, most: int, phonemes_of: Phonemes) -> Fitting:
    """Return the beginning of a sentence that takes at most `most` tokens, cut at a word.

    A sentence that fits is returned as it is. A word that alone is too long is cut at a character,
    of which the first is kept even if it takes more: some are spelled out in 45 tokens.

    The phonemizer is never given more characters at once than `most` tokens could stand for.
    """
    reach = most * _CHARACTERS_PER_TOKEN
    if len(sentence) <= reach:
        phonemes = phonemes_of(sentence)
        if not can_be_spoken(phonemes):
            return Fitting("", whole=True)
        if len(phonemes) <= most:
            return Fitting(sentence, whole=True)
    begin = 0
    while begin < len(sentence):
        window = sentence[begin : begin + reach]
        text = window[: _longest(window, most, phonemes_of)]
        if can_be_spoken(phonemes_of(text)):
            rest = sentence[begin + len(text) :]
            if _any_spoken(rest, reach, phonemes_of):
                return Fitting(_cut_at_word(text, rest, phonemes_of), whole=False)
            return Fitting(text, whole=True)
        begin += len(text)
    return Fitting("", whole=True)


def _longest(text: str, most: int, phonemes_of: Phonemes) -> int:
    """Return how many characters of a text take at most `most` tokens; at least one."""
    # From below: the phonemizer is not given a text that is many times too long.
    low, high = 1, 2
    while high < len(text) and len(phonemes_of(text[:high])) <= most:
        low, high = high, 2 * high
    high = min(high, len(text))
    if len(phonemes_of(text[:high])) <= most:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if len(phonemes_of(text[:middle])) <= most:
            low = middle
        else:
            high = middle
    return low


def _cut_at_word(text: str, rest: str, phonemes_of: Phonemes) -> str:
    """Leave out the last word if it goes on in the rest, unless nothing else can be spoken."""
    if rest[0].isspace():
        return text
    words = text[: text.rfind(" ") + 1].rstrip()
    return words if can_be_spoken(phonemes_of(words)) else text


def _any_spoken(text: str, reach: int, phonemes_of: Phonemes) -> bool:
    return any(
        can_be_spoken(phonemes_of(text[begin : begin + reach]))
        for begin in range(0, len(text), reach)
    )
