from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import (
    Artifact,
    Breakdown,
    DeadlineMissed,
    SlotComplete,
    SlotTick,
    Verification,
    outcome_json,
    parse_outcome,
)
from schemas.describe import MAX_CHARS, describe_validation_error
from schemas.examples import example_events

SCRIPT = "Tonight the harbour opens"
PROMPT = "A woman with a lantern"
TICK: dict[str, Any] = {
    "slot_id": 7,
    "deadline": "2026-11-23T20:15:45Z",
    "recipe": {"audio_track": {"script": SCRIPT}, "visual_track": {"prompt": PROMPT}},
}


def parse(**changes: Any) -> SlotTick:
    return SlotTick.model_validate_json(json.dumps({**TICK, **changes}))


def refusal(value: bytes | str) -> str:
    """Return the description of why a value is no tick."""
    with pytest.raises(ValidationError) as refused:
        SlotTick.model_validate_json(value)
    return describe_validation_error(refused.value)


# Ticks


def test_tick_without_optional_fields_gets_the_defaults() -> None:
    tick = parse()
    assert (tick.schema_version, tick.channel, tick.emitted_at) == (1, "main", None)


@pytest.mark.parametrize("missing", ["slot_id", "deadline", "recipe"])
def test_tick_without_a_required_field_is_refused(missing: str) -> None:
    rest = {name: value for name, value in TICK.items() if name != missing}
    assert refusal(json.dumps(rest)) == f"{missing}: Field required"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slot_id", 0),
        ("slot_id", 2**63 - 1),
        ("channel", "x"),
        ("channel", "Sport.2_east-" + "x" * 51),
    ],
)
def test_tick_at_its_bounds_is_accepted(field: str, value: Any) -> None:
    assert getattr(parse(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slot_id", -1),
        ("slot_id", 2**63),
        ("slot_id", 10**4000),
        ("slot_id", "7"),
        ("slot_id", 7.5),
        ("slot_id", True),
        ("channel", ""),
        ("channel", "x" * 65),
        ("channel", "two words"),
        ("channel", "../up"),
        ("channel", "main\n"),
        ("channel", None),
        ("recipe", None),
    ],
)
def test_tick_out_of_bounds_is_refused_by_field(field: str, value: Any) -> None:
    assert refusal(json.dumps({**TICK, field: value})).startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["deadline", "emitted_at"])
@pytest.mark.parametrize(
    "time",
    [
        "2026-11-23T20:15:45",  # naive
        "2026-11-23",
        "20:15:45Z",
        "tomorrow",
        "",
        "2026-11-23T25:15:45Z",
        1764000000,
        "1764000000",  # seconds since 1970 are no RFC 3339, as text neither
    ],
)
def test_time_without_an_offset_is_refused(field: str, time: Any) -> None:
    assert refusal(json.dumps({**TICK, field: time})).startswith(f"{field}: ")


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-23T20:15:45Z",
        "2026-11-23t20:15:45z",
        "2026-11-23T21:15:45.000+01:00",
        "2026-11-23T11:45:45-08:30",
    ],
)
def test_any_offset_names_the_same_moment(time: str) -> None:
    assert parse(deadline=time).deadline == datetime(2026, 11, 23, 20, 15, 45, tzinfo=UTC)


@pytest.mark.parametrize("version", [0, 2, "1", None, 10**6])
def test_other_schema_version_is_refused_before_all_else(version: Any) -> None:
    said = refusal(json.dumps({**TICK, "schema_version": version, "slot_id": -1}))
    assert said.startswith(f"schema_version {version!r} is not known")
    assert ";" not in said.removesuffix("; this worker reads 1")


def test_unknown_fields_of_a_tick_are_ignored() -> None:
    assert parse(priority="high", trace={"id": 1}) == parse()


def test_producer_cannot_build_a_tick_with_a_naive_deadline() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        SlotTick(slot_id=1, deadline=datetime(2026, 11, 23), recipe=parse().recipe)  # noqa: DTZ001


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def assert_parsed_or_refused(value: bytes) -> None:
    try:
        SlotTick.model_validate_json(value)
    except ValidationError as error:
        description = describe_validation_error(error)
        assert description.isprintable()
        assert 0 < len(description) <= MAX_CHARS


@given(st.binary())
@example(b"")
@example(b"\xff\xfe{\x00}\x00")
@example(b"[" * 10_000)
@example(b'{"slot_id": ' + b"9" * 10_000 + b"}")
@example(b'{"slot_id": NaN}')
@example(b'{"channel": "\\ud800"}')
def test_any_bytes_are_a_tick_or_a_validation_error(value: bytes) -> None:
    assert_parsed_or_refused(value)


@given(st.dictionaries(st.sampled_from([*TICK, "schema_version", "channel", "x"]), json_values))
def test_any_json_in_a_tick_is_a_tick_or_a_validation_error(changes: dict[str, Any]) -> None:
    assert_parsed_or_refused(json.dumps({**TICK, **changes}).encode())


@given(st.sampled_from(list(TICK)), st.integers(min_value=0, max_value=200))
def test_torn_tick_is_a_validation_error(field: str, length: int) -> None:
    whole = json.dumps({field: TICK[field], **TICK}).encode()
    refusal(whole[: min(length, len(whole) - 1)])


# Descriptions


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"slot_id": -1},
            "slot_id: Input should be greater than or equal to 0, got -1",
        ),
        (
            {"recipe": {**TICK["recipe"], "slot_params": {"fps": 61}}},
            "recipe.slot_params.fps: Input should be less than or equal to 60, got 61",
        ),
        (
            {"recipe": {**TICK["recipe"], "slot_params": {"resolution": "512x500"}}},
            "recipe.slot_params.resolution: each side must be 64 to 1024 pixels and a multiple of"
            " 16, got '512x500'",
        ),
        (
            {"recipe": {**TICK["recipe"], "audio_track": {"script": "x" * 5001}}},
            "recipe.audio_track.script: String should have at most 5000 characters",
        ),
        (
            {"slot_id": "7", "channel": ""},
            "slot_id: Input should be a valid integer, got '7'; channel: String should match"
            " pattern '^[A-Za-z0-9._-]{1,64}$', got ''",
        ),
    ],
)
def test_description_names_field_limit_and_value(changes: dict[str, Any], said: str) -> None:
    assert refusal(json.dumps({**TICK, **changes})) == said


def test_description_of_many_problems_is_cut() -> None:
    wrong = {
        "slot_params": {"duration_sec": 46, "fps": 61, "resolution": "1x1"},
        "audio_track": {"speed": 9, "emotion": "x", "voice_id": ""},
        "visual_track": {"expression_sequence": ["x"] * 16},
        "seed": -1,
    }
    assert len(refusal(json.dumps({**TICK, "recipe": wrong}))) == MAX_CHARS


@pytest.mark.parametrize(
    "recipe",
    [
        {"audio_track": {"script": [SCRIPT]}, "visual_track": {"prompt": PROMPT, "negative": 1}},
        {"audio_track": {"script": SCRIPT * 300}, "visual_track": {"prompt": PROMPT * 300}},
        {"audio_track": {"script": {SCRIPT: 1}}, "visual_track": {"prompt": {"text": PROMPT}}},
        {"audio_track": {"speed": 9}, "visual_track": {"prompt": "", "negative_prompt": [PROMPT]}},
        {
            "audio_track": {"script": SCRIPT},
            "visual_track": {"prompt": PROMPT},
            "semantic_constraints": {"banned_concepts": PROMPT, "required_concepts": [[SCRIPT]]},
        },
        {"audio_track": SCRIPT, "visual_track": PROMPT},  # one level too high
        SCRIPT,
    ],
)
def test_description_shows_no_free_text(recipe: Any) -> None:
    said = refusal(json.dumps({**TICK, "recipe": recipe}))
    assert said.startswith("recipe")
    assert SCRIPT not in said
    assert PROMPT not in said


def test_error_itself_shows_no_free_text() -> None:
    with pytest.raises(ValidationError) as refused:
        parse(recipe={"audio_track": {"script": SCRIPT, "speed": 9}, "visual_track": PROMPT})
    assert SCRIPT not in str(refused.value)
    assert PROMPT not in str(refused.value)


# Outcomes

OUTCOMES = {
    name: event
    for name, event in example_events().items()
    if isinstance(event, SlotComplete | DeadlineMissed)
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcome_comes_back_as_it_was(name: str) -> None:
    assert parse_outcome(outcome_json(OUTCOMES[name])) == OUTCOMES[name]


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcome_is_written_with_every_field(name: str) -> None:
    # Also those that have a default: readers in other languages need none.
    written = json.loads(outcome_json(OUTCOMES[name]))
    assert set(written) == set(type(OUTCOMES[name]).model_fields)
    assert set(written["breakdown"]) == set(Breakdown.model_fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "slot-late"),
        ("schema_version", 2),
        ("reason", "tired"),
        ("stage", "lunch"),
        ("detail", "x" * 1001),
        ("decided_at", "2026-11-23T20:15:50"),
        ("slack_ms", "late"),
        ("slack_ms", float("nan")),
        ("source", {"topic": "slot.ticks", "partition": 0, "offset": -1}),
    ],
)
def test_reader_refuses_what_is_no_outcome_of_this_version(field: str, value: Any) -> None:
    written = json.loads(outcome_json(OUTCOMES["deadline-missed.expired"]))
    with pytest.raises(ValidationError):
        parse_outcome(json.dumps({**written, field: value}))


def test_reader_ignores_what_a_newer_worker_adds() -> None:
    written = json.loads(outcome_json(OUTCOMES["slot-complete"]))
    written["cost"] = 0.2
    written["artifact"]["codec"] = "av1"
    assert parse_outcome(json.dumps(written)) == OUTCOMES["slot-complete"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("sha256", "9F" * 32), ("sha256", "9f" * 31), ("bytes", 0), ("duration_s", 0.0)],
)
def test_artifact_cannot_claim_nonsense(field: str, value: Any) -> None:
    artifact = OUTCOMES["slot-complete"].model_dump()["artifact"]
    with pytest.raises(ValidationError, match=field):
        Artifact(**{**artifact, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("embedding", (1.0,) * 511), ("score_clip_b", 1.01), ("ensemble_score", float("nan"))],
)
def test_verification_cannot_claim_nonsense(field: str, value: Any) -> None:
    verification = OUTCOMES["slot-complete"].model_dump()["verification"]
    with pytest.raises(ValidationError, match=field):
        Verification(**{**verification, field: value})


def test_example_slack_is_deadline_minus_decision() -> None:
    for outcome in OUTCOMES.values():
        slack = timedelta(milliseconds=outcome.slack_ms)
        assert outcome.deadline - outcome.decided_at == slack
