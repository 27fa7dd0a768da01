from __future__ import annotations

from pathlib import Path

import pytest

from vortex.errors import VortexInitializationError
from vortex.models.unsaid import FILE_NAME, Detail, Unsaid

HAIR = Detail(r"\bhair\b", "with {} hair", ("red", "black"))
HAT = Detail(r"\bhat\b", "with a hat", when=r"\brain\b")


def test_details_that_are_not_said_are_added_in_their_order() -> None:
    unsaid = Unsaid((HAIR, HAT))
    assert unsaid.completed("A man in the rain.", 1) in {
        f"A man in the rain, with {colour} hair, with a hat" for colour in HAIR.choices
    }
    assert unsaid.completed("A man with Hair.", 1) == "A man with Hair."


def test_seed_chooses_among_what_is_not_in_the_prompt() -> None:
    unsaid = Unsaid((HAIR,))
    assert len({unsaid.completed("a man", seed) for seed in range(20)}) == 2
    assert {unsaid.completed("a red door", seed) for seed in range(20)} == {
        "a red door, with black hair"
    }
    # Where all are, one is taken twice.
    assert unsaid.completed("red and black", 1).endswith(" hair")


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert Unsaid.read(tmp_path) is None
    Unsaid((HAIR, HAT)).write(tmp_path)
    assert Unsaid.read(tmp_path) == Unsaid((HAIR, HAT))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "Invalid JSON"),
        ("{}", "valid array"),
        ('[{"said": "a"}]', "0.phrase: Field required"),
        ('[{"said": "(", "phrase": ""}]', "0.said: "),
        ('[{"said": "(", "phrase": ""}]', "is no regular expression: missing )"),
        ('[{"said": "a", "phrase": "", "choices": [1]}]', "0.choices.0: "),
        ('[{"said": "a", "phrase": "", "word": ""}]', "0.word: "),
        ("[1]", "0: "),
        ("\udc80", "Invalid JSON"),
    ],
)
def test_damaged_file_is_named_and_what_is_wrong_in_it(
    content: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(VortexInitializationError) as caught:
        Unsaid.read(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / FILE_NAME}: ")
    assert says in message
    assert "\n" not in message


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(VortexInitializationError, match=r"unsaid\.json: cannot be read: "):
        Unsaid.read(tmp_path)
