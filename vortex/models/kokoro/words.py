"""When each word of a sentence is heard, from the times of its phonemes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

from vortex.models.kokoro.limits import can_be_spoken
from vortex.models.kokoro.speech import TimedPhoneme, TimedWord

PhonemesOf = Callable[[str], str]


def timed_words(
    text: str, phonemes: Sequence[TimedPhoneme], phonemes_of: PhonemesOf
) -> tuple[TimedWord, ...]:
    """Return the words of a sentence that are heard; those without a sound are left out.

    Args:
        text: the sentence.
        phonemes: what was really said of it.
        phonemes_of: the phonemizer that made them, for one word at a time.
    """
    words = _words(text)
    heard = [phoneme for phoneme in phonemes if can_be_spoken(phoneme.symbol)]
    spans = _groups(phonemes)
    if len(spans) != len(words):  # a number is several groups, "of the" can be a single one
        spans = _aligned([phonemes_of(word) for word in words], heard)
    return tuple(
        TimedWord(word, span[0].start_s, span[-1].end_s)
        for word, span in zip(words, spans, strict=True)
        if span
    )


def _words(text: str) -> list[str]:
    """Split at spaces; what is no word by itself, such as a dash, stays with the one before."""
    words: list[str] = []
    for word in text.split():
        if any(letter.isalnum() for letter in word) or not words:
            words.append(word)
        else:
            words[-1] += f" {word}"
    return words


def _groups(phonemes: Sequence[TimedPhoneme]) -> list[list[TimedPhoneme]]:
    """Split what was said at its spaces; punctuation, which lasts as long as its pause, goes."""
    groups: list[list[TimedPhoneme]] = [[]]
    for phoneme in phonemes:
        if phoneme.symbol == " ":
            groups.append([])
        elif can_be_spoken(phoneme.symbol):
            groups[-1].append(phoneme)
    return [group for group in groups if group]


def _aligned(expected: list[str], heard: list[TimedPhoneme]) -> list[list[TimedPhoneme]]:
    """Give each phoneme that was heard to the word that it fits best, in order."""
    symbols = [(s, word) for word, said in enumerate(expected) for s in said if can_be_spoken(s)]
    matcher = SequenceMatcher(
        None, [symbol for symbol, _ in symbols], [p.symbol for p in heard], autojunk=False
    )
    owner: dict[int, int] = {}
    for at, there, size in matcher.get_matching_blocks():
        owner |= {there + n: symbols[at + n][1] for n in range(size)}
    spans: list[list[TimedPhoneme]] = [[] for _ in expected]
    for number, phoneme in enumerate(heard):
        if number in owner:
            spans[owner[number]].append(phoneme)
    return spans
