"""Version 1 of the contract is frozen in `tests/data/contract-v1`; nobody may have to upgrade.

Ticks: what producers of version 1 write is read by every later worker, and means the same.
Outcomes: what later workers write is read by readers of version 1.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jsoncompat
import pytest
from jsonschema import Draft202012Validator

from schemas import SlotTick, outcome_json, parse_outcome
from schemas.examples import example_events
from schemas.generate import json_schema

FROZEN = Path(__file__).parents[2] / "data" / "contract-v1"
TICK = "slot-tick"
OUTCOMES = ("slot-complete", "deadline-missed")
READ_BY_WORKERS = (TICK, "slot-cancel")
WRITTEN_BY_WORKERS = (*OUTCOMES, "slot-progress")

Schema = dict[str, Any]
Change = Callable[[Schema], object]


def frozen_schema(name: str) -> Schema:
    schema: Schema = json.loads((FROZEN / f"json/{name}.v1.schema.json").read_text("utf-8"))
    return schema


def frozen_examples(prefix: str) -> dict[str, Any]:
    return {
        path.stem: json.loads(path.read_text("utf-8"))
        for path in FROZEN.glob(f"examples/{prefix}*.json")
    }


# What breaks


def breaks(name: str, new: Schema) -> list[str]:
    """Return why a schema cannot follow that of version 1; nothing if it can.

    jsoncompat decides whether all documents of one schema are also documents of another. It is
    told what writers really write, since schemas say less: they leave objects open, as readers
    ignore unknown fields, and they leave fields with a default optional, which outcomes always
    have. It compares neither patterns nor formats nor defaults; these have to stay word for word.
    """
    old = frozen_schema(name)
    if name in READ_BY_WORKERS:
        compatible = _check(_closed(old), _closed(new), "deserializer")
    else:
        compatible = _check(_complete(old), _closed(_complete(new)), "serializer")
    reasons = [] if compatible else ["documents of one side are refused by the other"]
    return reasons + list(_rewordings(old, new, "#"))


def _check(old: Schema, new: Schema, role: Literal["serializer", "deserializer"]) -> bool:
    # The $id is left out: jsoncompat takes it for a reference to another document.
    old, new = ({k: v for k, v in schema.items() if k != "$id"} for schema in (old, new))
    return jsoncompat.check_compat(json.dumps(old), json.dumps(new), role)


def _closed(schema: Schema) -> Schema:
    """Return a copy whose objects hold no fields but those it names."""
    schema = copy.deepcopy(schema)
    for node in _objects(schema):
        node["additionalProperties"] = False
    return schema


def _complete(schema: Schema) -> Schema:
    """Return a copy whose objects hold every field it names."""
    schema = copy.deepcopy(schema)
    for node in _objects(schema):
        node["required"] = sorted(node["properties"])
    return schema


def _objects(node: Any) -> Iterator[Schema]:
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield node
        for inner in node.values():
            yield from _objects(inner)


def _rewordings(old: Any, new: Any, path: str) -> Iterator[str]:
    """Yield where a pattern, a format or a plain default differs, in what both schemas have."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in ("pattern", "format", "default"):
            if old.get(key) != new.get(key) and not isinstance(old.get(key), dict):
                yield f"{path}/{key} was {old.get(key)!r}"
        for key in old.keys() & new.keys():
            yield from _rewordings(old[key], new[key], f"{path}/{key}")
    elif isinstance(old, list) and isinstance(new, list):
        for place, pair in enumerate(zip(old, new, strict=False)):
            yield from _rewordings(*pair, f"{path}/{place}")


@pytest.mark.parametrize("name", [*READ_BY_WORKERS, *WRITTEN_BY_WORKERS])
def test_schema_is_compatible_with_version_1(name: str) -> None:
    assert breaks(name, json_schema(name)) == []


# The check itself


def at(schema: Schema, path: str) -> Any:
    """Return the part of a schema at a path such as `AudioTrack.speed`; `.` is the event."""
    model, _, field = path.partition(".")
    node = schema["$defs"][model] if model else schema
    return node["properties"][field] if field else node


def put(path: str, **keywords: Any) -> Change:
    return lambda schema: at(schema, path).update(keywords)


def drop(path: str, keyword: str) -> Change:
    return lambda schema: at(schema, path).pop(keyword)


def add_field(model: str, field: str, content: Schema, *, required: bool = False) -> Change:
    def change(schema: Schema) -> None:
        node = at(schema, f"{model}.")
        node["properties"][field] = content
        if required:
            node.setdefault("required", []).append(field)

    return change


def remove_field(model: str, field: str) -> Change:
    def change(schema: Schema) -> None:
        node = at(schema, f"{model}.")
        del node["properties"][field]
        node["required"] = [name for name in node.get("required", []) if name != field]

    return change


def rename_field(model: str, field: str, to: str) -> Change:
    def change(schema: Schema) -> None:
        node = at(schema, f"{model}.")
        node["properties"][to] = node["properties"].pop(field)
        node["required"] = [to if name == field else name for name in node.get("required", [])]

    return change


def require(model: str, field: str) -> Change:
    return lambda schema: at(schema, f"{model}.").setdefault("required", []).append(field)


def changed(name: str, change: Change) -> Schema:
    schema = frozen_schema(name)
    change(schema)
    assert schema != frozen_schema(name)
    return schema


TEXT: Schema = {"type": "string", "default": ""}

BREAKING_TICK: dict[str, Change] = {
    "optional field becomes required": require("", "channel"),
    "nullable field becomes required": require("", "emitted_at"),
    "nested optional field becomes required": require("AudioTrack", "voice_id"),
    "required field is added": add_field("", "studio", TEXT, required=True),
    "nested required field is added": add_field("SlotParams", "codec", TEXT, required=True),
    "required field is renamed": rename_field("", "deadline", "due"),
    "optional field is renamed": rename_field("Recipe", "seed", "noise"),
    "optional field is removed": remove_field("", "channel"),
    "enum is narrowed": put("Emotion", enum=["neutral", "excited", "sad", "angry"]),
    "maximum is narrowed": put("SlotParams.fps", maximum=30),
    "minimum is narrowed": put("AudioTrack.speed", minimum=0.9),
    "length is narrowed": put("AudioTrack.script", maxLength=4999),
    "count is narrowed": put("VisualTrack.expression_sequence", maxItems=15),
    "null is refused": put(".emitted_at", anyOf=[{"type": "string", "format": "date-time"}]),
    "type is changed": put(".channel", type="integer"),
    "pattern is narrowed": put(".channel", pattern="^[a-z]{1,64}$"),
    "pattern is added": put("Recipe.recipe_id", pattern="^[a-z]*$"),
    "default is changed": put("SlotParams.fps", default=30),
    "version is raised": put(".schema_version", const=2),
}
HARMLESS_TICK: dict[str, Change] = {
    "optional field is added": add_field("", "priority", {"type": "integer", "default": 0}),
    "nested optional field is added": add_field("VisualTrack", "style", TEXT),
    "enum is widened": put("Emotion", enum=["neutral", "excited", "sad", "angry", "manic", "shy"]),
    "maximum is widened": put("SlotParams.fps", maximum=120),
    "length is widened": put("AudioTrack.script", maxLength=10_000),
    "required field becomes optional": put("VisualTrack.", required=[]),
    "text is changed": put(".slot_id", description="The slot's number."),
}

BREAKING_OUTCOME: dict[str, Change] = {
    "field is removed": remove_field("", "slack_ms"),
    "field with a default is removed": remove_field("", "type"),
    "nested field is removed": remove_field("WorkerInfo", "id"),
    "nested nullable field is removed": remove_field("Breakdown", "audio_ms"),
    "field is renamed": rename_field("", "decided_at", "at"),
    "nested field is renamed": rename_field("Breakdown", "total_ms", "sum_ms"),
    "type is changed": put(".slack_ms", type="string"),
    "null becomes possible": put(".channel", type=["string", "null"]),
    "bound is widened": put(".slot_id", minimum=-1),
    "nested bound is widened": put("Breakdown.total_ms", minimum=-1),
    "pattern is dropped": drop(".channel", "pattern"),
    "format is changed": put(".deadline", format="date"),
    "version is raised": put(".schema_version", const=2),
    "type's name is changed": put(".type", const="slot-done"),
}
BREAKING_COMPLETE: dict[str, Change] = {
    "checksum is removed": remove_field("Artifact", "sha256"),
    "media type is widened": put("Artifact.media_type", const="video/webm"),
    "embedding grows": put("Verification.embedding", minItems=768, maxItems=768),
    "score is no longer at most 1": drop("Verification.score_clip_b", "maximum"),
}
BREAKING_MISSED: dict[str, Change] = {
    "reason is added": lambda schema: at(schema, "MissReason")["enum"].append("tired"),
    "stage is added": lambda schema: at(schema, "Stage")["enum"].append("upload"),
    "detail grows": put(".detail", maxLength=1001),
}
HARMLESS_OUTCOME: dict[str, Change] = {
    "field is added": add_field("", "cost", {"type": "number"}, required=True),
    "nested field is added": add_field("Breakdown", "upload_ms", {"type": "number"}),
    "bound is narrowed": put("Breakdown.total_ms", minimum=1),
    "text is changed": put(".slot_id", description="The slot's number."),
}

BREAKING = [
    *((TICK, what, change) for what, change in BREAKING_TICK.items()),
    *((name, what, change) for name in OUTCOMES for what, change in BREAKING_OUTCOME.items()),
    *(("slot-complete", what, change) for what, change in BREAKING_COMPLETE.items()),
    *(("deadline-missed", what, change) for what, change in BREAKING_MISSED.items()),
]
HARMLESS = [
    *((TICK, what, change) for what, change in HARMLESS_TICK.items()),
    *((name, what, change) for name in OUTCOMES for what, change in HARMLESS_OUTCOME.items()),
]


@pytest.mark.parametrize(
    ("name", "change"),
    [pytest.param(name, change, id=f"{name}: {what}") for name, what, change in BREAKING],
)
def test_breaking_change_is_reported(name: str, change: Change) -> None:
    assert breaks(name, changed(name, change))


@pytest.mark.parametrize(
    ("name", "change"),
    [pytest.param(name, change, id=f"{name}: {what}") for name, what, change in HARMLESS],
)
def test_harmless_change_is_not_reported(name: str, change: Change) -> None:
    assert breaks(name, changed(name, change)) == []


# Golden events: what schemas cannot say


def assert_holds(new: Any, old: Any) -> None:
    """Assert that a value still has everything that it had; objects may have more."""
    if isinstance(old, dict):
        assert old.keys() <= new.keys()
        for key in old:
            assert_holds(new[key], old[key])
    else:
        assert new == old


@pytest.mark.parametrize("name", frozen_examples(TICK))
def test_tick_of_version_1_means_what_it_meant(name: str) -> None:
    tick = frozen_examples(TICK)[name]
    parsed = SlotTick.model_validate_json(json.dumps(tick))
    assert_holds(parsed.model_dump(mode="json"), tick)


def test_what_a_tick_of_version_1_leaves_out_means_what_it_meant() -> None:
    # The frozen example spells out the defaults of the shortest tick that there is.
    spelt_out = frozen_examples(TICK)["slot-tick.minimal"]
    recipe = spelt_out["recipe"]
    shortest = {
        "slot_id": spelt_out["slot_id"],
        "deadline": spelt_out["deadline"],
        "recipe": {
            "audio_track": {"script": recipe["audio_track"]["script"]},
            "visual_track": {"prompt": recipe["visual_track"]["prompt"]},
        },
    }
    parsed = SlotTick.model_validate_json(json.dumps(shortest))
    assert_holds(parsed.model_dump(mode="json"), spelt_out)


@pytest.mark.parametrize("resolution", ["64x64", "1024x1024", "1024x64", "528x512"])
def test_resolution_of_version_1_is_accepted(resolution: str) -> None:
    tick = frozen_examples(TICK)["slot-tick.minimal"]
    tick["recipe"]["slot_params"]["resolution"] = resolution
    SlotTick.model_validate_json(json.dumps(tick))


@pytest.mark.parametrize("name", [name for kind in OUTCOMES for name in frozen_examples(kind)])
def test_outcome_of_version_1_is_read(name: str) -> None:
    # Results stay in the topic for long; a reader of today meets those of then.
    outcome = frozen_examples(name)[name]
    assert_holds(json.loads(outcome_json(parse_outcome(json.dumps(outcome)))), outcome)


@pytest.mark.parametrize("name", [name for name in example_events() if not name.startswith(TICK)])
def test_outcome_of_today_is_read_by_version_1(name: str) -> None:
    validator = Draft202012Validator(frozen_schema(name.split(".", maxsplit=1)[0]))
    validator.validate(example_events()[name].model_dump(mode="json"))
