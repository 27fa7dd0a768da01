from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

import schemas
from schemas import (
    DeadlineMissed,
    SlotCancel,
    SlotComplete,
    SlotProgress,
    SlotTick,
    WorkerAnnouncement,
)
from schemas.generate import check, generate

COMMITTED = Path(schemas.__file__).parent
MODELS: dict[str, type[BaseModel]] = {
    "slot-tick": SlotTick,
    "slot-complete": SlotComplete,
    "deadline-missed": DeadlineMissed,
    "slot-progress": SlotProgress,
    "worker-announcement": WorkerAnnouncement,
    "slot-cancel": SlotCancel,
}
_SHARED = ("handover", "workers")  # between workers
SCHEMAS = sorted(COMMITTED.glob("json/*.json"))
EXAMPLES = sorted(COMMITTED.glob("examples/*.json"))


def stem(path: Path) -> str:
    """Return the event's name, the first part of the file's."""
    return path.name.split(".", maxsplit=1)[0]


def asyncapi() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((COMMITTED / "asyncapi.yaml").read_text("utf-8"))
    return content


# Drift


def test_committed_files_are_those_of_the_models() -> None:
    assert check(COMMITTED) == []


def test_no_committed_file_is_left_over(tmp_path: Path) -> None:
    generated = {path.relative_to(tmp_path) for path in generate(tmp_path)}
    found = {path.relative_to(COMMITTED) for path in (*SCHEMAS, *EXAMPLES)}
    assert found | {Path("asyncapi.yaml")} == generated


def test_changed_and_missing_files_are_found(tmp_path: Path) -> None:
    generate(tmp_path)
    assert check(tmp_path) == []
    changed = tmp_path / "json" / "recipe.v1.schema.json"
    changed.write_text(changed.read_text("utf-8").replace('"maximum": 60', '"maximum": 61'))
    (tmp_path / "examples" / "slot-complete.json").unlink()
    assert check(tmp_path) == ["json/recipe.v1.schema.json", "examples/slot-complete.json"]


# JSON Schema and examples


@pytest.mark.parametrize("path", SCHEMAS, ids=stem)
def test_schema_is_valid_and_names_itself(path: Path) -> None:
    schema = json.loads(path.read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema["$id"] == f"urn:vortex:schema:{stem(path)}:v1"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_satisfies_schema_and_model(path: Path) -> None:
    text = path.read_text("utf-8")
    schema = json.loads((COMMITTED / "json" / f"{stem(path)}.v1.schema.json").read_text("utf-8"))
    Draft202012Validator(schema).validate(json.loads(text))
    event = MODELS[stem(path)].model_validate_json(text)
    assert event.model_dump(mode="json") == json.loads(text)


def test_every_event_has_an_example() -> None:
    assert {stem(path) for path in EXAMPLES} == set(MODELS)


# AsyncAPI


def references(node: Any) -> Iterator[str]:
    """Yield the targets of all references in a document."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def resolve(document: Any, reference: str) -> Any:
    """Return what a local reference points to; raises KeyError if there is nothing."""
    assert reference.startswith("#/")
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


def test_every_reference_of_the_asyncapi_document_resolves() -> None:
    document = asyncapi()
    targets = set(references(document))
    assert targets
    for target in targets:
        assert resolve(document, target)


def test_asyncapi_document_describes_all_topics() -> None:
    document = asyncapi()
    assert document["asyncapi"] == "3.0.0"
    assert {name: channel["address"] for name, channel in document["channels"].items()} == {
        "ticks": "slot.ticks",
        "results": "slot.results",
        "progress": "slot.progress",
        "control": "slot.control",
        "handover": "slot.handover",
        "workers": "slot.workers",
        "deadLetter": "slot.dead-letter",
    }
    assert {
        (operation["action"], operation["channel"]["$ref"])
        for operation in document["operations"].values()
    } == {
        ("receive", "#/channels/ticks"),
        ("receive", "#/channels/control"),
        ("send", "#/channels/results"),
        ("send", "#/channels/progress"),
        ("send", "#/channels/deadLetter"),
        *((action, f"#/channels/{topic}") for action in ("send", "receive") for topic in _SHARED),
    }
    assert set(document["channels"]["results"]["messages"]) == {"slotComplete", "deadlineMissed"}


def test_examples_in_the_asyncapi_document_satisfy_its_payloads() -> None:
    document = asyncapi()
    messages = document["components"]["messages"]
    with_examples = {name: message for name, message in messages.items() if "examples" in message}
    assert set(with_examples) == set(messages) - {"deadLetter"}
    for message in with_examples.values():
        validator = Draft202012Validator({**document, **message["payload"]})
        for example in message["examples"]:
            validator.validate(example["payload"])
