"""From text to Kokoro's phonemes: espeak's, in the alphabet that the network was trained on.

Kokoro's training texts are in the alphabet of misaki, which has one letter for each diphthong and
affricate, and marks length in British English alone. Of espeak's symbols, others would be dropped,
or were never heard in such a place. The library misaki has this mapping, too, but no
release for Python 3.13, and makes the vowel of British "hair" that of "hay"; see the tests for
where the two differ.
"""

# ruff: noqa: RUF001 - phonetic symbols are meant, not the letters that look like them

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Container, Mapping
from functools import cache

from phonemizer.backend import EspeakBackend

# Between words. After a space, espeak may make one word of two, such as "in the" and "have been",
# which the texts of the training never do; after this one it does not.
_APART = "\u00a0"
_TIE = "^"  # what espeak is asked to put between two symbols that are one sound
_SYLLABIC = "\u0329"
_NASAL = "\u0303"

_COMMON = {
    "a^ɪ": "I",  # my
    "a^ʊ": "W",  # how
    "e^ɪ": "A",  # day
    "ɔ^ɪ": "Y",  # boy
    "d^ʒ": "ʤ",
    "t^ʃ": "ʧ",
    "ə^l": "ᵊl",  # little
    "ʔn" + _SYLLABIC: "tn",  # button
    "ɚɹ": "əɹ",
    "ɚ": "əɹ",
    "ɐ": "ə",
    "e": "A",
    "o": "ɔ",
    "r": "ɹ",
    "x": "k",  # loch
    "ç": "k",
    "ɬ": "l",
    "ʔ": "t",
    "ɾ": "T",  # butter
    "ɾ ": "t ",  # it is: espeak runs them together, the texts of the training do not
    "ʲ": "",
    _TIE: "",
    _NASAL: "",
}
_AMERICAN = _COMMON | {
    "o^ʊ": "O",  # go
    "ɜːɹ": "ɜɹ",
    "ɜː": "ɜɹ",
    "ɪ^ə": "iə",
    "ɪə": "iə",
    "ː": "",
}
_BRITISH = _COMMON | {
    "ə^ʊ": "Q",  # go
    "e^ə": "ɛː",  # hair
    "i^ə": "ɪə",  # near
}

# espeak keeps its state in the process.
_lock = threading.Lock()


def phonemes_of(text: str, alphabet: Container[str], *, british: bool) -> str:
    """Return a text's phonemes, one character a token; punctuation stays.

    `kokoro_onnx.tokenizer.Tokenizer` must have been made before: it finds espeak's library.

    Args:
        text: English; numbers and symbols as words, see `read_aloud`.
        alphabet: what the network knows; other symbols are dropped.
        british: whether to speak British English, else American.
    """
    with _lock:
        said = _espeak(british).phonemize([_APART.join(text.split())])
    symbols = said[0].replace(_APART, " ") if said else ""
    mapped = _in_alphabet(symbols, british=british)
    return " ".join("".join(symbol for symbol in mapped if symbol in alphabet).split())


@cache
def _espeak(british: bool) -> EspeakBackend:
    quiet = logging.getLogger(f"{__name__}.espeak")
    quiet.setLevel(logging.ERROR)  # it warns of every foreign word
    return EspeakBackend(
        "en-gb" if british else "en-us",
        preserve_punctuation=True,
        with_stress=True,
        tie=_TIE,
        language_switch="remove-flags",
        logger=quiet,
    )


def _in_alphabet(symbols: str, *, british: bool) -> str:
    letters = _BRITISH if british else _AMERICAN
    mapped = _pattern(british).sub(lambda match: letters[match[0]], symbols)
    return re.sub(rf"(\S){_SYLLABIC}", r"ᵊ\1", mapped).replace(_SYLLABIC, "")


@cache
def _pattern(british: bool) -> re.Pattern[str]:
    letters: Mapping[str, str] = _BRITISH if british else _AMERICAN
    longest_first = sorted(letters, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))
