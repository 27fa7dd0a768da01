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
    "content",
    [
        "{",
        "{}[]",
        '[{"said": "("}]',
        '[{"said": "(", "phrase": "", "choices": []}]',
        "[1]",
        "\udc80",
    ],
)
def test_damaged_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(
        VortexInitializationError, match=r"unsaid\.json: must hold a list"
    ) as caught:
        Unsaid.read(tmp_path)
    assert "\n" not in str(caught.value)
