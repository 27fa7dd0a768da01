# ruff: noqa: RUF001, RUF003 - phonetic symbols are meant, not the letters that look like them
from __future__ import annotations

import logging
import sys

import pytest
from kokoro_onnx.config import DEFAULT_VOCAB
from kokoro_onnx.tokenizer import Tokenizer

from vortex.models.kokoro.phonemes import phonemes_of
from vortex.models.liveportrait.lipsync import _PAIRS, _UNKNOWN, _VISEMES

TEXTS = (
    "The judge said: I know, it's a nice boy's house; how far away?",
    "button, written, mountain, little bottle of people",
    "church loch rendezvous croissant café naïve déjà vu",
    "bird nurse better butter go home boat rhythm, prism! (and so) — on…",
    "one thousand two hundred and fifty dollars and fifty cents on the thirty-first of March",
    "Zhang Wei, Nguyen, Lopez, Schmidt, O'Connor, Llanelli and Bach",
    "Good evening. The weather today is cold and dark, with rain in the north.",
)


class Word:
    """What misaki's fallback takes."""

    def __init__(self, text: str) -> None:
        self.text = text


@pytest.fixture(scope="module")
def alphabet() -> dict[str, int]:
    return dict(Tokenizer().vocab)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="misaki has no release for Python 3.13")
@pytest.mark.parametrize("british", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_alphabet_is_that_of_misaki(text: str, british: bool, alphabet: dict[str, int]) -> None:
    from misaki.espeak import EspeakFallback

    # It is given word by word there, so none becomes one with the next.
    theirs, _ = EspeakFallback(british=british)(Word("\u00a0".join(text.split())))
    assert phonemes_of(text, alphabet, british=british) == " ".join(theirs.split())


@pytest.mark.parametrize(
    ("word", "british", "phonemes"),
    [
        ("hair", True, "hˈɛː"),  # misaki: hˈAə
        ("near", True, "nˈɪə"),  # misaki: nˈiə
        ("Maria", False, "məɹˈiə"),  # misaki: məɹɹˈiə
        ("day", False, "dˈA"),
        ("boat", False, "bˈOt"),
        ("boat", True, "bˈQt"),
        ("judge", False, "ʤˈʌʤ"),
        ("better", False, "bˈɛTəɹ"),
        ("it is at", False, "ɪt ɪz æt"),
        ("bird", False, "bˈɜɹd"),
        ("bird", True, "bˈɜːd"),
    ],
)
def test_words_sound_as_in_the_texts_of_the_training(
    word: str, british: bool, phonemes: str, alphabet: dict[str, int]
) -> None:
    assert phonemes_of(word, alphabet, british=british) == phonemes


@pytest.mark.parametrize("british", [False, True])
def test_words_stay_apart_and_still_depend_on_the_next(
    british: bool, alphabet: dict[str, int]
) -> None:
    text = "It would have been one of the best in the end, at the top of a hill."
    phonemes = phonemes_of(text, alphabet, british=british)
    assert len(phonemes.split()) == len(text.split())
    assert "ðə bˈɛst ɪn ðɪ ˈɛnd, " in phonemes


@pytest.mark.parametrize("british", [False, True])
def test_network_knows_every_symbol_and_the_mouth_every_sound(british: bool) -> None:
    class Everything:
        def __contains__(self, _: object) -> bool:
            return True

    heard = set("".join(phonemes_of(text, Everything(), british=british) for text in TEXTS))
    assert heard <= DEFAULT_VOCAB.keys()
    sounds = {symbol for symbol in heard if symbol.isalpha() and symbol not in "ˈˌː"}
    assert sounds <= _VISEMES.keys() | _PAIRS.keys()
    assert _UNKNOWN not in {_VISEMES.get(symbol) for symbol in sounds} - {_VISEMES["k"]}


def test_foreign_words_leave_no_marks_of_their_language(
    alphabet: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        phonemes = phonemes_of(
            "the rendez-vous of Pierre Dupont, né à Paris", alphabet, british=False
        )
    assert "(" not in phonemes
    assert caplog.records == []
