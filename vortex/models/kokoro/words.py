"""When each word of a sentence is heard, from the times of its phonemes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import islice

from vortex.models.kokoro.limits import can_be_spoken
from vortex.models.kokoro.reading import ReadWord
from vortex.models.kokoro.speech import TimedPhoneme, TimedWord

PhonemesOf = Callable[[str], str]


def timed_words(
    words: Sequence[ReadWord], phonemes: Sequence[TimedPhoneme], phonemes_of: PhonemesOf
) -> tuple[TimedWord, ...]:
    """Return the words of a sentence that are heard; those without a sound are left out.

    Args:
        words: of the sentence, as they are written and as they are spoken.
        phonemes: what was really said of it.
        phonemes_of: the phonemizer that made them, for one word at a time.
    """
    whole = _whole(words)
    heard = [phoneme for phoneme in phonemes if can_be_spoken(phoneme.symbol)]
    groups = _groups(phonemes)
    counts = [sum(map(_is_word, word.spoken.split())) for word in whole]
    if len(groups) == sum(counts):
        rest = iter(groups)
        spans = [[p for group in islice(rest, count) for p in group] for count in counts]
    else:  # "of the" can be a single one
        spans = _aligned([phonemes_of(word.spoken) for word in whole], heard)
    return tuple(
        TimedWord(word.written, span[0].start_s, span[-1].end_s)
        for word, span in zip(whole, spans, strict=True)
        if span
    )


def _whole(words: Sequence[ReadWord]) -> list[ReadWord]:
    """Put what is no word by itself, such as a dash, to the one before."""
    whole: list[ReadWord] = []
    for word in words:
        if _is_word(word.written) or not whole:
            whole.append(word)
        else:
            before = whole[-1]
            whole[-1] = ReadWord(
                f"{before.written} {word.written}", f"{before.spoken} {word.spoken}"
            )
    return whole


def _is_word(text: str) -> bool:
    return any(letter.isalnum() for letter in text)


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
