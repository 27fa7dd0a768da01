from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from schemas import (
    MAX_SEED,
    AudioTrack,
    Emotion,
    Expression,
    Recipe,
    SemanticConstraints,
    SlotParams,
    VisualTrack,
    recipe_sha256,
)

MINIMAL: dict[str, Any] = {
    "audio_track": {"script": "Good evening."},
    "visual_track": {"prompt": "A news presenter"},
}


def recipe(path: str = "", value: Any = None) -> Recipe:
    """Parse the minimal recipe, one field of it changed; the path is dotted."""
    content = json.loads(json.dumps(MINIMAL))
    if path:
        *parents, field = path.split(".")
        inner = content
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[field] = value
    return Recipe.model_validate_json(json.dumps(content))


def test_script_and_prompt_are_all_that_is_needed() -> None:
    assert recipe() == Recipe(
        recipe_id="",
        slot_params=SlotParams(duration_sec=45.0, fps=24, resolution="512x512"),
        audio_track=AudioTrack(
            script="Good evening.", voice_id="default", speed=1.0, emotion=Emotion.NEUTRAL
        ),
        visual_track=VisualTrack(
            prompt="A news presenter",
            negative_prompt="",
            expression_sequence=(Expression.NEUTRAL,),
        ),
        semantic_constraints=SemanticConstraints(
            min_clip_score=None, banned_concepts=(), required_concepts=()
        ),
        seed=None,
    )


@pytest.mark.parametrize("missing", ["audio_track", "visual_track"])
def test_recipe_without_speech_or_picture_is_refused(missing: str) -> None:
    rest = {name: track for name, track in MINIMAL.items() if name != missing}
    with pytest.raises(ValidationError, match=missing):
        Recipe.model_validate_json(json.dumps(rest))


BOUNDS: list[tuple[str, list[Any], list[Any]]] = [
    ("recipe_id", ["", "x" * 200], ["x" * 201]),
    ("slot_params.duration_sec", [0.001, 45, 45.0], [0, -1, 45.001]),
    ("slot_params.fps", [1, 60], [0, 61]),
    (
        "slot_params.resolution",
        ["64x64", "1024x1024", "1024x64", "512x288"],
        ["48x64", "64x1040", "512x500", "512", "512X512", "512x512x512", "0512x512", "512x512\n"],
    ),
    ("audio_track.script", ["x", "x" * 5000], ["", "x" * 5001]),
    ("audio_track.voice_id", ["x", "x" * 64], ["", "x" * 65]),
    ("audio_track.speed", [0.8, 1, 1.2], [0.79, 1.21]),
    ("audio_track.emotion", ["excited", "sad", "angry", "manic"], ["calm", "Sad", ""]),
    ("visual_track.prompt", ["x", "x" * 2000], ["", "x" * 2001]),
    ("visual_track.negative_prompt", ["", "x" * 2000], ["x" * 2001]),
    (
        "visual_track.expression_sequence",
        [["calm"], ["neutral", "excited", "manic", "calm"] * 4],
        [[], ["calm"] * 17, ["sad"]],
    ),
    ("semantic_constraints.min_clip_score", [None, 0, 1], [-0.01, 1.01]),
    (
        "semantic_constraints.banned_concepts",
        [[], ["x" * 200] * 16],
        [["x"] * 17, [""], ["x" * 201]],
    ),
    (
        "semantic_constraints.required_concepts",
        [[], ["x" * 200] * 16],
        [["x"] * 17, [""], ["x" * 201]],
    ),
    ("semantic_constraints.max_seeds", [1, 16], [0, 17]),
    ("seed", [None, 0, MAX_SEED], [-1, MAX_SEED + 1]),
]


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, inside, _ in BOUNDS for value in inside]
)
def test_value_at_its_bounds_is_accepted(path: str, value: Any) -> None:
    parsed = recipe(path, value).model_dump(mode="json")
    for name in path.split("."):
        parsed = parsed[name]
    assert parsed == value


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, _, outside in BOUNDS for value in outside]
)
def test_value_out_of_bounds_is_refused(path: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        recipe(path, value)
    for error in refused.value.errors():
        assert ".".join(map(str, error["loc"])).startswith(path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("recipe_id", 7),
        ("slot_params.duration_sec", "45"),
        ("slot_params.duration_sec", float("nan")),
        ("slot_params.duration_sec", float("inf")),
        ("slot_params.fps", "24"),
        ("slot_params.fps", 24.5),
        ("slot_params.fps", True),
        ("audio_track.script", ["Good evening."]),
        ("audio_track.speed", "1.0"),
        ("audio_track.speed", None),
        ("visual_track.expression_sequence", "calm"),
        ("semantic_constraints.required_concepts", "a face"),
        ("semantic_constraints.max_seeds", 2.5),
        ("seed", "42"),
        ("seed", 4.2),
        ("visual_track", None),
    ],
)
def test_value_of_another_type_is_not_converted(path: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=path.rpartition(".")[2]):
        recipe(path, value)


@pytest.mark.parametrize("path", ["new", "audio_track.new", "slot_params.new"])
def test_unknown_fields_are_ignored(path: str) -> None:
    assert recipe(path, {"from": "a newer producer"}) == recipe()


def test_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        recipe().slot_params.fps = 30  # type: ignore[misc]  # the claim of this line


@pytest.mark.parametrize(
    ("duration_sec", "fps", "frames"), [(45.0, 24, 1080), (0.5, 24, 12), (0.01, 1, 1), (1.7, 1, 2)]
)
def test_frame_count_is_duration_times_rate_and_at_least_one(
    duration_sec: float, fps: int, frames: int
) -> None:
    assert SlotParams(duration_sec=duration_sec, fps=fps).frame_count == frames


def test_resolution_is_width_before_height() -> None:
    params = SlotParams(resolution="640x368")
    assert (params.width, params.height) == (640, 368)


def test_checksum_of_a_recipe_is_what_it_was_before_max_seeds() -> None:
    old = Recipe(
        audio_track=AudioTrack(script="Good evening."),
        visual_track=VisualTrack(prompt="A presenter in a blue coat"),
        seed=7,
    )
    assert recipe_sha256(old) == "9375411118dbf6c7e9037cfa05855846a0ee86d4c6e64ccf676b0e294740e034"


def test_number_of_seeds_is_part_of_the_checksum() -> None:
    checksums = {
        recipe_sha256(recipe("semantic_constraints.max_seeds", most)) for most in (None, 1, 2)
    }
    assert len(checksums) == 3
