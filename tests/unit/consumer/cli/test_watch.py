"""`vortex watch`: what it says of an outcome, whatever stands in it."""

from __future__ import annotations

import json

import pytest
from rich.text import Text

from consumer.cli.watch import _as_json, describe
from schemas import HandedOver
from tests.support.results import complete, dead_letter, missed

BRACKETS = "[/] lists [red] and [0] are text"


@pytest.mark.parametrize(
    "result",
    [missed(1, detail=BRACKETS), dead_letter(BRACKETS, b"")],
    ids=lambda result: type(result).__name__,
)
def test_brackets_in_a_reason_are_shown_as_they_are(result: object) -> None:
    assert BRACKETS in Text.from_markup(describe(result)).plain  # type: ignore[arg-type]


def test_brackets_in_an_address_are_shown_as_they_are() -> None:
    made = complete(1)
    artifact = made.artifact.model_copy(update={"uri": f"file:///{BRACKETS}"})
    shown = describe(made.model_copy(update={"artifact": artifact}))
    assert BRACKETS in Text.from_markup(shown).plain


def test_json_of_a_dead_letter_has_its_reason() -> None:
    letter = json.loads(_as_json(dead_letter('fps: must be at most 60, got "61"', b"")))
    assert letter["type"] == "dead-letter"
    assert letter["source"] == {"topic": "slot.ticks", "partition": 0, "offset": 7}
    assert letter["reason"] == 'fps: must be at most 60, got "61"'


def test_slot_that_was_handed_over_names_both_workers() -> None:
    hop = HandedOver(worker="donor[1]", at=complete(1).decided_at)
    shown = describe(complete(1).model_copy(update={"handed_over": hop}))
    assert f"(donor[1] → {complete(1).worker.id})" in Text.from_markup(shown).plain
