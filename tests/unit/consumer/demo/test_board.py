from __future__ import annotations

import pytest

from consumer.demo.board import Board
from consumer.demo.tick import EXPIRED, MADE, UNREADABLE, DemoTick
from consumer.results import Result
from tests.support.results import complete, dead_letter, missed, recipe


def board() -> Board:
    return Board(
        [
            DemoTick(1, MADE, recipe(), 90.0),
            DemoTick(2, EXPIRED, recipe(), -5.0),
            DemoTick(None, UNREADABLE),
        ]
    )


RIGHT: list[Result] = [complete(1), missed(2, kind="expired"), dead_letter("no", b"{")]


def test_right_outcome_for_every_tick_is_as_it_should_be() -> None:
    all_right = board()
    for result in RIGHT:
        assert not all_right.answered
        all_right.add(result)
    assert all_right.answered
    assert all_right.as_it_should_be
    assert all_right.verdict(12.3).startswith("3 of 3 ticks have exactly the outcome")


@pytest.mark.parametrize(
    "results",
    [
        RIGHT[:2],
        [*RIGHT, RIGHT[0]],
        [*RIGHT, complete(9)],
        [complete(1), missed(2, kind="timeout"), RIGHT[2]],
    ],
    ids=["one missing", "one twice", "one nobody asked for", "another reason"],
)
def test_anything_else_is_not(results: list[Result]) -> None:
    wrong = board()
    for result in results:
        wrong.add(result)
    assert not wrong.as_it_should_be


def test_result_nobody_asked_for_is_told() -> None:
    own = Board([DemoTick(1, MADE, recipe(), 90.0)])
    own.add(dead_letter("no", b"{"))
    assert not own.answered
    assert "1 results nobody asked for" in own.verdict(1.0)
