"""The published schema of a tick and the worker agree on what a readable tick is."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from pydantic import ValidationError

from schemas import SlotTick
from schemas.generate import json_schema

RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
formats = FormatChecker(formats=())


@formats.checks("date-time")
def _is_date_time(value: object) -> bool:
    if not isinstance(value, str):
        return True
    if RFC_3339.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:
        return False
    return True


SCHEMA = Draft202012Validator(json_schema("slot-tick"), format_checker=formats)
WITHOUT_FORMATS = Draft202012Validator(json_schema("slot-tick"))


def tick(**changes: Any) -> dict[str, Any]:
    recipe = {
        "slot_params": {
            name: changes.pop(name) for name in ("fps", "resolution") if name in changes
        },
        "audio_track": {"script": "Good evening."},
        "visual_track": {"prompt": "a newsreader"},
    }
    return {"slot_id": 1, "deadline": "2030-01-31T20:15:00Z", "recipe": recipe, **changes}


def is_read(document: dict[str, Any]) -> bool:
    try:
        SlotTick.model_validate_json(json.dumps(document))
    except ValidationError:
        return False
    return True


def two_digits(most: int) -> st.SearchStrategy[str]:
    return st.integers(0, most).map("{:02}".format)


def mostly(usual: st.SearchStrategy[Any], *others: Any) -> st.SearchStrategy[Any]:
    return usual | usual | st.sampled_from(others)


MOMENTS = st.builds(
    "{}-{}-{}{}{}:{}:{}{}{}".format,
    mostly(st.integers(1900, 2100), "0000", "0001", "9999", "30", "02030"),
    two_digits(13),
    two_digits(32),
    mostly(st.just("T"), "t", " ", "_", "", "T "),
    two_digits(25),
    two_digits(61),
    two_digits(61),
    mostly(st.just(""), ".5", ".123456789012", ".", ".x"),
    mostly(st.just("Z"), "z", "", "+01:00", "-00:00", "+23:59", "+24:00", "+01", " Z", "UTC"),
)
SIDES = st.integers(0, 80).map(lambda sixteenths: 16 * sixteenths) | st.integers(0, 1100)
RESOLUTIONS = mostly(
    st.builds("{}x{}".format, SIDES, SIDES), "", "512", "512X512", "064x064", "+64x64", " 64x64"
)
OTHERS = st.sampled_from([None, True, "1", [], {}, 0.5])
WHOLE = st.integers(-1, 2**33) | st.sampled_from([2**63 - 1, 2**63, 10**30])
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "schema_version": st.sampled_from([1, 2, "1", None]),
        "slot_id": WHOLE | OTHERS,
        "channel": st.text("aZ0._- /", max_size=66) | OTHERS,
        "deadline": MOMENTS | OTHERS,
        "emitted_at": MOMENTS | OTHERS,
        "fps": st.integers(-1, 70) | OTHERS,
        "resolution": RESOLUTIONS | OTHERS,
        "unknown": OTHERS,
    },
).map(lambda changes: tick(**changes))


@given(DOCUMENTS)
@example(tick())
@example(tick(resolution="100x100"))
@example(tick(deadline="2030-01-31 20:15:00Z"))
def test_schema_with_formats_accepts_exactly_what_the_worker_reads(
    document: dict[str, Any],
) -> None:
    assert SCHEMA.is_valid(document) == is_read(document)


@given(MOMENTS | st.sampled_from(["2030-01-31T20:15Z", "2030-01-31T20:15:00,5+0100"]))
def test_schema_without_formats_refuses_no_time_that_the_worker_reads(moment: str) -> None:
    document = tick(deadline=moment)
    assert WITHOUT_FORMATS.is_valid(document) or not is_read(document)


@given(st.integers(0, 1100), st.integers(0, 1100))
def test_every_resolution_is_judged_as_the_worker_does(width: int, height: int) -> None:
    document = tick(resolution=f"{width}x{height}")
    assert WITHOUT_FORMATS.is_valid(document) == is_read(document)


@pytest.mark.parametrize(
    "refused",
    [
        tick(resolution="100x100"),
        tick(resolution="48x64"),
        tick(resolution="1040x64"),
        tick(deadline="2030-01-31 20:15:00Z"),
        tick(deadline="2030-01-31T20:15:60Z"),
        tick(emitted_at="2030-13-31T20:15:00Z"),
    ],
)
def test_schema_refuses_what_the_worker_refuses_where_formats_are_not_asserted(
    refused: dict[str, Any],
) -> None:
    assert not is_read(refused)
    assert not WITHOUT_FORMATS.is_valid(refused)


def test_whole_number_with_a_point_is_the_difference_that_the_schema_describes() -> None:
    document = tick(slot_id=77.0)
    assert SCHEMA.is_valid(document)  # to JSON Schema it is the integer 77
    assert not is_read(document)
    assert "77.0" in json_schema("slot-tick")["properties"]["slot_id"]["description"]
