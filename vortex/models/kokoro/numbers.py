"""Numbers in English words, as a person reads them aloud."""

from __future__ import annotations

from num2words import num2words

MOST_DIGITS = 15
"""Longer numbers are read digit by digit."""


def cardinal(digits: str) -> str:
    """Return "one thousand two hundred and fifty" for "1,250"; "007" is read digit by digit."""
    digits = digits.replace(",", "")
    if len(digits) > MOST_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        return digit_by_digit(digits)
    return _words(digits, "cardinal")


def ordinal(digits: str) -> str:
    """Return "twenty-first" for "21"."""
    digits = digits.replace(",", "")
    return digit_by_digit(digits) if len(digits) > MOST_DIGITS else _words(digits, "ordinal")


def decimal(digits: str) -> str:
    """Return "three point one four" for "3.14"; without a point, a cardinal."""
    whole, _, part = digits.partition(".")
    return f"{cardinal(whole)} point {digit_by_digit(part)}" if part else cardinal(whole)


def year(digits: str) -> str:
    """Return "nineteen eighty-four" for "1984", "two thousand and five" for "2005"."""
    return _words(digits, "year").replace("oh-", "oh ")


def digit_by_digit(digits: str) -> str:
    """Return "one two zero" for "120"."""
    return " ".join(_words(digit, "cardinal") for digit in digits)


def plural(words: str) -> str:
    """Return "nineteen nineties" for "nineteen ninety"."""
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"


def _words(digits: str, kind: str) -> str:
    words: str = num2words(int(digits), lang="en", to=kind)
    return words.replace(",", "")  # which would be a pause
