# ruff: noqa: RUF001 - the quotes and dashes are meant that people write
from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vortex.models.kokoro.numbers import cardinal, decimal, ordinal, year
from vortex.models.kokoro.reading import ends_sentence, read_aloud


def read(text: str, *, british: bool = False) -> str:
    return " ".join(word.spoken for word in read_aloud(text, british=british))


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("$1,250.50", "one thousand two hundred and fifty dollars and fifty cents"),
        ("$1", "one dollar"),
        ("$0.99", "ninety-nine cents"),
        ("$0.01", "one cent"),
        ("$5.00", "five dollars"),
        ("$5.5", "five dollars and fifty cents"),
        ("-$20", "minus twenty dollars"),
        ("US$40", "forty dollars"),
        ("£2.50", "two pounds and fifty pence"),
        ("€100,", "one hundred euros,"),
        ("¥500", "five hundred yen"),
        ("$3 million.", "three million dollars."),
        ("£1.5 billion", "one point five billion pounds"),
        ("$3.5bn", "three point five billion dollars"),
        ("$40k", "forty thousand dollars"),
        ("$0.125", "zero point one two five dollars"),
    ],
)
def test_money_is_read_as_money(written: str, spoken: str) -> None:
    assert read(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("in 1984", "in nineteen eighty-four"),
        ("since 2005", "since two thousand and five"),
        ("2026", "twenty twenty-six"),
        ("1905", "nineteen oh five"),
        ("1900", "nineteen hundred"),
        ("2000", "two thousand"),
        ("the 1990s", "the nineteen nineties"),
        ("the ’80s", "the eighties"),
        ("2024–2026", "twenty twenty-four to twenty twenty-six"),
        ("1939-1945", "nineteen thirty-nine to nineteen forty-five"),
        ("1066", "one thousand and sixty-six"),
        ("1,984 people", "one thousand nine hundred and eighty-four people"),
    ],
)
def test_years_are_read_as_years(written: str, spoken: str) -> None:
    assert read(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("March 3, 2026", "March third, twenty twenty-six"),
        ("on Mar. 3", "on March third"),
        ("3 March 2026", "the third of March twenty twenty-six"),
        ("the 3rd of May", "the third of May"),
        ("4th July", "the fourth of July"),
        ("the 4th July", "the fourth of July"),
        ("2026-11-29", "November twenty-ninth twenty twenty-six"),
        ("29.11.2026", "November twenty-ninth twenty twenty-six"),
        ("In May, 3 March days", "In May, the third of March days"),
    ],
)
def test_dates_are_read_as_dates(written: str, spoken: str) -> None:
    assert read(written) == spoken


def test_order_of_a_date_in_figures_is_that_of_the_voices_country() -> None:
    assert read("3/4/2026") == "March fourth twenty twenty-six"
    assert read("3/4/2026", british=True) == "April third twenty twenty-six"
    assert read("25/12/2026") == "December twenty-fifth twenty twenty-six"


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("10:30", "ten thirty"),
        ("at 9:05 a.m.", "at nine oh five AM."),
        ("at 9:05 a.m. sharp", "at nine oh five AM sharp"),
        ("5 pm", "five PM"),
        ("7:00pm,", "seven PM,"),
        ("12:00", "twelve o'clock"),
        ("14:30", "fourteen thirty"),
        ("18:00", "eighteen hundred"),
    ],
)
def test_times_are_read_as_times(written: str, spoken: str) -> None:
    assert read(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("5%", "five percent"),
        ("3.5 %", "three point five percent"),
        ("10-15%", "ten to fifteen percent"),
        ("21st", "twenty-first"),
        ("the 102nd", "the one hundred and second"),
        ("2,500,000", "two million five hundred thousand"),
        ("3.14", "three point one four"),
        ("0.5", "zero point five"),
        ("-5°C", "minus five degrees Celsius"),
        ("20 km", "twenty kilometres"),
        ("1 km", "one kilometre"),
        ("60mph", "sixty miles an hour"),
        ("room 007", "room zero zero seven"),
        ("555-1234", "five five five, one two three four"),
        ("1/2", "one half"),
        ("2½", "two and one half"),
        ("#6", "number six"),
        ("20-year-old", "twenty year old"),
        ("R&D & more", "R&D and more"),
        ("9876543210" * 2, " ".join(2 * ["nine eight seven six five four three two one zero"])),
    ],
)  # fmt: skip
def test_numbers_and_units_are_read_as_words(written: str, spoken: str) -> None:
    assert read(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Dr. Smith", "Doctor Smith"),
        ("St. Paul on Main St.", "Saint Paul on Main Street."),
        ("No. 5", "number five"),
        ("No.", "No."),
        ("the U.S. and", "the U S and"),
        ("J. K. Smith", "J K Smith"),
        ("cats, e.g. Tom", "cats, for example Tom"),
        ('He said "$5."', 'He said "five dollars."'),
        ("(in 1999)", "(in nineteen ninety-nine)"),
        ("nothing to change, here!", "nothing to change, here!"),
    ],
)
def test_abbreviations_are_read_out_and_punctuation_stays(written: str, spoken: str) -> None:
    assert read(written) == spoken


def test_every_written_word_comes_with_what_is_said_for_it() -> None:
    words = read_aloud("It rose 5% to $1,250.50, by March 3.")
    assert [word.written for word in words] == [
        "It", "rose", "5%", "to", "$1,250.50,", "by", "March", "3.",
    ]  # fmt: skip
    assert words[4].spoken == "one thousand two hundred and fifty dollars and fifty cents,"
    assert words[7].spoken == "third."


@given(st.text(max_size=60))
def test_any_text_keeps_its_words(text: str) -> None:
    assert [word.written for word in read_aloud(text)] == text.split()


@given(st.from_regex(r"[-$£#]?[0-9,.:/%-]{1,20}[a-z°%]{0,3}", fullmatch=True))
def test_no_figure_is_left_to_the_phonemizer_half_read(text: str) -> None:
    for word in read_aloud(text):
        assert word.spoken == word.written or not any(c.isdigit() for c in word.spoken)


@pytest.mark.parametrize(
    "text", ["7" * 50_000, "." * 50_000, "$" * 50_000, "7-" * 25_000, "A." * 25_000]
)
def test_longest_words_take_no_time(text: str) -> None:
    started_s = time.process_time()
    read_aloud(text)
    assert time.process_time() - started_s < 1.0


@pytest.mark.parametrize(
    ("before", "after", "ends"),
    [
        ("It is over.", "Now go", True),
        ("Why?", "because", True),
        ("and Dr.", "Smith", False),
        ("J.", "Smith", False),
        ("So do I.", "He left", True),
        ("at 5 p.m.", "today", False),
        ("at 5 p.m.", "Monday", False),
        ("at 5 p.m.", "She left", True),
        ("the U.S.", "Navy", False),
        ("the U.S.", "They left", True),
        ("No.", "It is not", True),
        ("No.", "5 is", False),
        ("", "", True),
    ],
)
def test_end_of_a_sentence_is_told_from_the_dot_of_an_abbreviation(
    before: str, after: str, ends: bool
) -> None:
    assert ends_sentence(before, after) is ends


def test_numbers_have_no_commas_which_would_be_pauses() -> None:
    assert cardinal("1,234,567") == (
        "one million two hundred and thirty-four thousand five hundred and sixty-seven"
    )
    assert ordinal("1,001") == "one thousand and first"
    assert decimal("1,000.25") == "one thousand point two five"
    assert year("1999") == "nineteen ninety-nine"
