"""How a written text is read aloud: "$1,250.50" as money, "3:05 pm" as a time, "Dr." as a doctor.

Word by word, so that a caption can show what is written at the time when it is spoken; a few words
depend on their neighbours, as in "March 3" and "$2 million". Left as they are, words are for the
phonemizer.
"""

# ruff: noqa: RUF001 - the quotes and dashes are meant that people write

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from vortex.models.kokoro.numbers import (
    cardinal,
    decimal,
    digit_by_digit,
    ordinal,
    plural,
    year,
)


class ReadWord(NamedTuple):
    """A word as it is written and as it is spoken, each with its punctuation."""

    written: str
    spoken: str


MONTHS = {
    name[:short]: name
    for name in (
        "January", "February", "March", "April", "May", "June", "July", "August", "September",
        "October", "November", "December",
    )
    for short in (3, 4, None)
}  # fmt: skip
_DAYS = {
    name[:short]: name
    for name in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    for short in (3, 4, 5, None)
}
_MONTH_NAMES = tuple(dict.fromkeys(MONTHS.values()))

TITLES = {
    "Mr.": "Mister", "Mrs.": "Missus", "Ms.": "Miz", "Dr.": "Doctor", "Prof.": "Professor",
    "St.": "Saint", "Gov.": "Governor", "Sen.": "Senator", "Gen.": "General", "Col.": "Colonel",
    "Rep.": "Representative", "Capt.": "Captain", "Lt.": "Lieutenant", "Sgt.": "Sergeant",
    "Rev.": "Reverend", "Hon.": "Honourable", "vs.": "versus", "No.": "number", "Nos.": "numbers",
    "approx.": "approximately", "e.g.": "for example", "i.e.": "that is", "cf.": "compare",
}  # fmt: skip
"""No sentence ends with these."""
_ABBREVIATIONS = TITLES | {
    "etc.": "et cetera", "Jr.": "Junior", "Sr.": "Senior", "Inc.": "Incorporated",
    "Corp.": "Corporation", "Ltd.": "Limited", "Co.": "Company", "Ave.": "Avenue",
    "Blvd.": "Boulevard", "Rd.": "Road", "Dept.": "Department", "a.m.": "AM", "p.m.": "PM",
    "A.M.": "AM", "P.M.": "PM",
}  # fmt: skip

_STARTERS = frozenset((
    "A", "After", "All", "An", "And", "As", "At", "But", "For", "He", "Her", "Here", "His", "How",
    "I", "If", "In", "It", "Its", "No", "Now", "On", "She", "So", "That", "The", "Their", "There",
    "These", "They", "This", "To", "Today", "Tomorrow", "We", "What", "When", "Where", "While",
    "Who", "Why", "With", "Yes", "You",
))  # fmt: skip

_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
}
_MAGNITUDES = {
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million",
    "b": "billion", "B": "billion", "bn": "billion", "tn": "trillion",
}  # fmt: skip
_MAGNITUDE_WORDS = frozenset(("hundred", "thousand", "million", "billion", "trillion"))
_UNITS = {
    "km": ("kilometre", "kilometres"), "m": ("metre", "metres"), "cm": ("centimetre",
    "centimetres"), "mm": ("millimetre", "millimetres"), "kg": ("kilogram", "kilograms"),
    "mg": ("milligram", "milligrams"), "km/h": ("kilometre an hour", "kilometres an hour"),
    "kph": ("kilometre an hour", "kilometres an hour"), "mph": ("mile an hour", "miles an hour"),
    "ft": ("foot", "feet"), "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"),
    "GB": ("gigabyte", "gigabytes"), "MB": ("megabyte", "megabytes"), "TB": ("terabyte",
    "terabytes"), "kW": ("kilowatt", "kilowatts"), "MW": ("megawatt", "megawatts"),
    "GW": ("gigawatt", "gigawatts"), "°": ("degree", "degrees"), "°C": ("degree Celsius",
    "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit"), "%": ("percent",
    "percent"),
}  # fmt: skip
_AMBIGUOUS_ALONE = frozenset(("m",))  # "5 m" may be a million as well
_SYMBOLS = {"&": "and", "+": "plus", "=": "equals", "@": "at", "%": "percent", "×": "times"}
_FRACTIONS = {
    "1/2": "one half", "1/3": "one third", "2/3": "two thirds", "1/4": "one quarter",
    "3/4": "three quarters", "½": "one half", "⅓": "one third", "⅔": "two thirds",
    "¼": "one quarter", "¾": "three quarters", "24/7": "twenty-four seven",
}  # fmt: skip

_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"{_NUMBER}(?:\.[0-9]+)?"
_OPENING = "\"'“‘(["
_CLOSING = "\"'”’)].,;:!?…"
_LONGEST_CHARS = 40  # no word that is read otherwise than it is written is longer
_DAY = re.compile(r"(?:0?[1-9]|[12][0-9]|3[01])")
_ORDINAL = re.compile(rf"({_NUMBER})(?:st|nd|rd|th)", re.IGNORECASE)
_INITIALS = re.compile(r"(?:[A-Z]\.)+[A-Z]?")
_LAST_DAY = 31


class _Place(NamedTuple):
    """A word among its neighbours, all without the punctuation around them."""

    before: str
    word: str
    after: str
    british: bool


def read_aloud(text: str, *, british: bool = False) -> list[ReadWord]:
    """Return the words of a text, split at spaces, each with what is said for it.

    Args:
        text: a sentence or less; its words may be of any length.
        british: whether 3/4/2026 is a day in April.
    """
    words = text.split()
    split = [_split(word) for word in words]
    nothing = ("", "", "")
    read = []
    for word, before, (opening, core, closing), after in zip(
        words, [nothing, *split], split, [*split[1:], nothing], strict=False
    ):
        # Across a comma, words have nothing to do with each other.
        place = _Place("" if before[2] else before[1], core, "" if closing else after[1], british)
        spoken = _say(place)
        if core.endswith(".") and after is nothing:  # the abbreviation ends the sentence, too
            closing = closing or "."
        read.append(ReadWord(word, word if spoken is None else opening + spoken + closing))
    return read


def ends_sentence(before: str, after: str) -> bool:
    """Return whether a sentence ends between two texts, of which the first ends with a mark."""
    word = before.rsplit(maxsplit=1)[-1].lstrip("\"'“‘([") if before.split() else ""
    following = after.split(maxsplit=1)[0].rstrip(",;:.!?") if after.split() else ""
    if word in TITLES:
        return word in ("No.", "Nos.") and not following[:1].isdigit()
    if re.fullmatch(r"[A-Z]\.", word) and word != "I.":
        return False
    if _INITIALS.fullmatch(word):  # "the U.S. Navy", but "in the U.S. They"
        return not following or following in _STARTERS
    if word in _ABBREVIATIONS:
        return not (following[:1].islower() or following in MONTHS or following in _DAYS)
    return True


def _split(word: str) -> tuple[str, str, str]:
    """Part a word from the punctuation around it; a full stop that belongs to it stays."""
    inner = word.lstrip(_OPENING)
    core = inner.rstrip(_CLOSING)
    opening, closing = word[: len(word) - len(inner)], inner[len(core) :]
    dotted = f"{core}."
    if closing.startswith(".") and _is_abbreviation(dotted):
        return opening, dotted, closing[1:]
    return opening, core, closing


def _is_abbreviation(word: str) -> bool:
    is_month = word[:-1] in MONTHS and word[:-1] not in _MONTH_NAMES
    return word in _ABBREVIATIONS or is_month or _INITIALS.fullmatch(word) is not None


def _say(place: _Place) -> str | None:
    """Return what is said for a word; None if that is the word."""
    word = place.word
    if not word or len(word) > _LONGEST_CHARS:
        return None
    for rule in _RULES:
        spoken = rule(place)
        if spoken is not None:
            return spoken
    return None


def _abbreviation(place: _Place) -> str | None:
    word = place.word
    if word == "St." and not place.after[:1].isupper():
        return "Street"
    if word == "No." and not place.after[:1].isdigit():
        return None
    if word in _ABBREVIATIONS:
        return _ABBREVIATIONS[word]
    if word.endswith(".") and word[:-1] in MONTHS:
        return MONTHS[word[:-1]]
    if _INITIALS.fullmatch(word):
        return " ".join(word.replace(".", ""))
    return None


def _symbol(place: _Place) -> str | None:
    word = place.word
    if re.fullmatch(rf"#{_NUMBER}", word):
        return f"number {cardinal(word[1:])}"
    if word in _FRACTIONS:
        return _FRACTIONS[word]
    mixed = re.fullmatch(r"([0-9]+)([½⅓⅔¼¾])", word)
    if mixed:
        return f"{cardinal(mixed[1])} and {_FRACTIONS[mixed[2]]}"
    return _SYMBOLS.get(word)


def _money(place: _Place) -> str | None:
    match = re.fullmatch(
        rf"(-|−)?(?:US|A|C)?([$£€¥])({_NUMBER})(?:\.([0-9]+))?(k|K|m|M|mn|bn|b|B|tn)?(?:-|$)",
        place.word,
    )
    if not match:
        return None
    minus = "minus " if match[1] else ""
    one, many, cent, cents = _CURRENCIES[match[2]]
    whole, part, magnitude = match[3], match[4] or "", match[5]
    amount = f"{whole}.{part}" if part else whole
    if magnitude:
        return f"{minus}{decimal(amount)} {_MAGNITUDES[magnitude]} {many}"
    if place.after in _MAGNITUDE_WORDS:  # which says the currency
        return minus + decimal(amount)
    if len(part) > 2:
        return f"{minus}{decimal(amount)} {many}"
    amounts = []
    if int(whole.replace(",", "")) or not int(part or 0):
        amounts.append(f"{cardinal(whole)} {one if whole == '1' else many}")
    if int(part or 0):
        hundredths = int(part.ljust(2, "0"))
        amounts.append(f"{cardinal(str(hundredths))} {cent if hundredths == 1 else cents}")
    return minus + " and ".join(amounts)


def _magnitude_of_money(place: _Place) -> str | None:
    if place.word in _MAGNITUDE_WORDS:
        match = re.fullmatch(rf"[-−]?(?:US|A|C)?([$£€¥]){_DECIMAL}", place.before)
        if match:
            return f"{place.word} {_CURRENCIES[match[1]][1]}"
    return None


def _time(place: _Place) -> str | None:
    match = re.fullmatch(r"([01]?[0-9]|2[0-4])(?:[:.]([0-5][0-9]))?([ap])\.?m\.?", place.word, re.I)
    if match:
        return f"{_clock(match[1], match[2] or '00', bare=True)} {match[3].upper()}M"
    match = re.fullmatch(r"([01]?[0-9]|2[0-4]):([0-5][0-9])(?::([0-5][0-9]))?", place.word)
    if not match:
        if place.word in ("am", "pm") and re.search(r"[0-9]$", place.before):
            return place.word.upper()
        return None
    named = place.after.lower().replace(".", "") in ("am", "pm")
    return _clock(match[1], match[2], bare=named)


def _clock(hour: str, minute: str, *, bare: bool) -> str:
    """Return "ten", "ten o'clock", "ten oh five" or "ten thirty"; bare is without "o'clock"."""
    hours = cardinal(str(int(hour)))
    if minute == "00":
        on_the_dial = 0 < int(hour) <= 12
        return hours if bare else f"{hours} o'clock" if on_the_dial else f"{hours} hundred"
    oh = "oh " if minute[0] == "0" else ""
    return f"{hours} {oh}{cardinal(str(int(minute)))}"


def _date(place: _Place) -> str | None:
    word = place.word
    match = re.fullmatch(r"([12][0-9]{3})-([01]?[0-9])-([0-3]?[0-9])", word)
    if match:
        return _spoken_date(match[1], int(match[2]), int(match[3]))
    match = re.fullmatch(r"([0-3]?[0-9])([/.])([0-3]?[0-9])\2([12][0-9]{3})", word)
    if match:
        first, second = int(match[1]), int(match[3])
        day_first = place.british or match[2] == "." or first > len(_MONTH_NAMES)
        month, day = (second, first) if day_first else (first, second)
        return _spoken_date(match[4], month, day)
    if not _DAY.fullmatch(word):
        return None
    before, after = place.before.rstrip("."), place.after.rstrip(".")
    if before in MONTHS:
        return ordinal(word)
    if after in MONTHS and after != "May":
        return f"{'' if before == 'the' else 'the '}{ordinal(word)} of"
    return None


def _spoken_date(years: str, month: int, day: int) -> str | None:
    if not (1 <= month <= len(_MONTH_NAMES) and 1 <= day <= _LAST_DAY):
        return None
    return f"{_MONTH_NAMES[month - 1]} {ordinal(str(day))} {year(years)}"


def _day_and_month(place: _Place) -> str | None:
    match = _ORDINAL.fullmatch(place.word)
    if not match:
        return None
    if place.after in MONTHS and _DAY.fullmatch(match[1]):
        return f"{'' if place.before == 'the' else 'the '}{ordinal(match[1])} of"
    return ordinal(match[1])


def _years(place: _Place) -> str | None:
    word = place.word
    match = re.fullmatch(r"((?:1[1-9]|20)[0-9]0)'?s", word)
    if match:
        return plural(year(match[1]))
    match = re.fullmatch(r"['’]?([2-9]0)'?s", word)
    if match:
        return plural(cardinal(match[1]))
    match = re.fullmatch(r"((?:1[1-9]|20)[0-9]{2})['’]s", word)
    if match:
        return f"{year(match[1])}'s"
    match = re.fullmatch(r"((?:1[1-9]|20)[0-9]{2})(?:[-–/]((?:1[1-9]|20)[0-9]{2}))?", word)
    if not match or place.after in _UNITS or place.after in _MAGNITUDE_WORDS:
        return None
    return f"{year(match[1])} to {year(match[2])}" if match[2] else year(match[1])


def _unit(place: _Place) -> str | None:
    match = re.fullmatch(rf"([-−+])?({_DECIMAL})[- ]?([a-zA-Z°%/]+)", place.word)
    if match and match[3] in _UNITS:
        one, many = _UNITS[match[3]]
        return f"{_sign(match[1])}{decimal(match[2])} {one if match[2] == '1' else many}"
    if match and match[3] in _MAGNITUDES:
        return f"{_sign(match[1])}{decimal(match[2])} {_MAGNITUDES[match[3]]}"
    measured = re.fullmatch(rf"[-−+]?{_DECIMAL}", place.before)
    if measured and place.word in _UNITS and place.word not in _AMBIGUOUS_ALONE:
        return _UNITS[place.word][place.before != "1"]
    return None


def _range(place: _Place) -> str | None:
    if re.fullmatch(r"(?:1-)?(?:[0-9]{3}-){1,2}[0-9]{4}", place.word):
        return ", ".join(digit_by_digit(part) for part in place.word.split("-"))
    match = re.fullmatch(rf"({_DECIMAL})[-–]({_DECIMAL})(%)?", place.word)
    if not match:
        return None
    percent = " percent" if match[3] else ""
    return f"{decimal(match[1])} to {decimal(match[2])}{percent}"


def _number(place: _Place) -> str | None:
    match = re.fullmatch(rf"([-−+])?({_DECIMAL})", place.word)
    if not match:
        return None
    return f"{_sign(match[1])}{decimal(match[2])}"


def _compound(place: _Place) -> str | None:
    """Read what begins with a number and goes on after a hyphen, such as "20-year-old"."""
    match = re.fullmatch(rf"({_NUMBER})-([A-Za-z][A-Za-z-]*)", place.word)
    return f"{cardinal(match[1])} {match[2].replace('-', ' ')}" if match else None


def _sign(mark: str | None) -> str:
    return {"-": "minus ", "−": "minus ", "+": "plus "}.get(mark or "", "")


_RULES: tuple[Callable[[_Place], str | None], ...] = (
    _abbreviation,
    _symbol,
    _money,
    _magnitude_of_money,
    _time,
    _date,
    _day_and_month,
    _years,
    _unit,
    _range,
    _number,
    _compound,
)
