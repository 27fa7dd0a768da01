from __future__ import annotations

import pytest

from vortex.errors import MESSAGE_MAX_CHARS, one_line


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("no such file", "no such file"),
        ("bad mapping\n  in 'a.yaml', line 3\n\n  hint", "bad mapping in 'a.yaml', line 3 hint"),
        ("", "ValueError"),
        (" \n ", "ValueError"),
        ("x" * 1000, "x" * MESSAGE_MAX_CHARS),
    ],
)
def test_error_of_a_library_is_told_in_one_short_line(message: str, said: str) -> None:
    assert one_line(ValueError(message)) == said
