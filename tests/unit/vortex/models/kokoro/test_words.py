"""Captions show what is written, at the time when it is spoken."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kokoro_onnx.tokenizer import Tokenizer

from consumer.artifacts.captions import cues_of
from vortex.models.kokoro.phonemes import phonemes_of
from vortex.models.kokoro.reading import read_aloud
from vortex.models.kokoro.speech import TimedPhoneme, TimedWord
from vortex.models.kokoro.words import timed_words

ALPHABET = Tokenizer().vocab
EACH_S = 0.05


def sounds_of(spoken: str) -> str:
    return phonemes_of(spoken, ALPHABET, british=False)


def said(text: str) -> tuple[TimedWord, ...]:
    """Return the words of a text of which every phoneme takes 50 ms."""
    read = read_aloud(text)
    symbols = sounds_of(" ".join(word.spoken for word in read))
    timed = [TimedPhoneme(s, n * EACH_S, (n + 1) * EACH_S) for n, s in enumerate(symbols)]
    return timed_words(read, timed, sounds_of)


@pytest.mark.parametrize(
    ("text", "number", "before", "spoken"),
    [
        ("He paid $1,250.50 in cash.", 2, "he paid ", "$1,250.50"),
        ("It opens at 10:30 every day.", 3, "it opens at ", "10:30"),
        ("Since 1984 prices rose.", 1, "since ", "1984"),
        ("Dr. Smith is here.", 0, "", "Dr."),
        ("About 62% of them voted.", 1, "about ", "62%"),
    ],
)
def test_figure_is_shown_as_written_from_its_first_sound_to_its_last(
    text: str, number: int, before: str, spoken: str
) -> None:
    words = said(text)
    assert [word.text for word in words] == text.split()
    (read,) = read_aloud(spoken)
    word = words[number]
    length = len(sounds_of(read.spoken))
    assert word.start_s == pytest.approx(
        EACH_S * len(sounds_of(before + "x")) - EACH_S * len(sounds_of("x")), abs=0.2
    )
    assert word.end_s - word.start_s == pytest.approx(EACH_S * length, abs=0.16)


@pytest.mark.parametrize(
    "text",
    [
        "The fine of $1,250.50 was paid on March 3, 2026 at 10:30 a.m. by Mr. Brown.",
        "Of the 2,500 people, 62% (1,550) came by 5 pm — in the rain.",
        "R&D cost $3.5 million in 2024-2026, i.e. 10-15% of it.",
        "The end of the day is for all of us.",
    ],
)
def test_all_words_are_shown_in_order_and_without_overlap(text: str) -> None:
    words = said(text)
    assert " ".join(word.text for word in words) == text
    for before, after in pairwise(words):
        assert before.start_s < before.end_s <= after.start_s + 1e-9
    shown = " ".join(line for cue in cues_of(words, 25, 2000) for line in cue.lines)
    assert shown == text


@given(st.text(st.characters(codec="ascii"), max_size=40))
def test_words_of_any_text_are_in_order(text: str) -> None:
    words = said(text)
    starts_s = [word.start_s for word in words]
    assert starts_s == sorted(starts_s)
    shown = " ".join(word.text for word in words).split()
    rest = iter(text.split())
    assert all(word in rest for word in shown)
