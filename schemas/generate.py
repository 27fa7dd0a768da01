"""Writes the contract as files: `python -m schemas.generate` regenerates those in this package.

`json/` holds a JSON Schema for each event, `asyncapi.yaml` topics, messages and headers,
`examples/` one event of each kind. A test fails when they differ from the models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from schemas.events import (
    DeadlineMissed,
    SlotCancel,
    SlotComplete,
    SlotProgress,
    SlotTick,
    WorkerAnnouncement,
)
from schemas.examples import example_events
from schemas.recipe import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# What is read is described as readers accept it, what is written as writers produce it.
_Mode = Literal["validation", "serialization"]
_MODELS: dict[str, tuple[type[BaseModel], _Mode]] = {
    "slot-tick": (SlotTick, "validation"),
    "recipe": (Recipe, "validation"),
    "slot-complete": (SlotComplete, "serialization"),
    "deadline-missed": (DeadlineMissed, "serialization"),
    "slot-progress": (SlotProgress, "serialization"),
    "worker-announcement": (WorkerAnnouncement, "serialization"),
    "slot-cancel": (SlotCancel, "validation"),
}

_CLOUD_EVENT_HEADERS = {
    "ce_specversion": "CloudEvents version, 1.0",
    "ce_id": "Topic, partition and offset of the tick; with ce_source permanently unique",
    "ce_source": "The group of workers, /vortex/{group}",
    "ce_type": "vortex.slot-complete.v1 or vortex.deadline-missed.v1",
    "ce_time": "When the outcome was decided, RFC 3339",
    "ce_subject": "Channel and slot id",
    "ce_dataschema": "The $id of the value's JSON Schema",
    "content-type": "application/json",
}
_TRACE_HEADERS = {"traceparent": "W3C trace context; the last value counts"}
_TICK_HEADERS = {
    **_TRACE_HEADERS,
    "vortex-signature": "Ed25519 over the value's bytes, where workers ask for it; see SECURITY.md",
    "vortex-replay-of": "The dead letter that an operator replayed, topic/partition@offset; workers"
    " ignore it",
}
_HANDOVER_HEADERS = {
    **_TICK_HEADERS,
    "vortex-handover-topic": "Topic of the tick, where it was read first",
    "vortex-handover-partition": "Partition of the tick",
    "vortex-handover-offset": "Offset of the tick",
    "vortex-handover-arrived": "When it was read there, RFC 3339",
    "vortex-handover-written": "Its timestamp there, milliseconds since 1970; absent without one",
    "vortex-handover-worker": "The worker that handed it over",
    "vortex-handover-at": "When, RFC 3339",
    "vortex-handover-why": "What that worker's plan said",
}
_JSON_HEADERS = {"content-type": "application/json"}
_PROGRESS_HEADERS = {**_TRACE_HEADERS, **_JSON_HEADERS}
_DEAD_LETTER_HEADERS = {
    "__dlq.errors.topic": "Topic of the tick",
    "__dlq.errors.partition": "Partition of the tick",
    "__dlq.errors.offset": "Offset of the tick",
    "__dlq.errors.group": "The group of workers that could not read it",
    "__dlq.errors.message": "What was wrong, in one line",
    "__dlq.errors.duplicate_of": "Of a duplicate: the offset of the tick that it repeats",
}


def generate(target: Path) -> list[Path]:
    """Write all files below a directory, and return their paths."""
    written = []
    for name, content in _contents().items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        written.append(path)
    return written


def check(target: Path) -> list[str]:
    """Return the files below a directory that are missing or differ from the models."""
    drifted = []
    for name, content in _contents().items():
        path = target / name
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            drifted.append(name)
    return drifted


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of an event: `slot-tick`, `slot-complete`, … or of its `recipe`."""
    model, mode = _MODELS[name]
    schema = model.model_json_schema(mode=mode)
    return {"$schema": DIALECT, "$id": f"urn:vortex:schema:{name}:v1", **schema}


def _contents() -> dict[str, str]:
    files = {f"json/{name}.v1.schema.json": _json(json_schema(name)) for name in _MODELS}
    files["asyncapi.yaml"] = yaml.safe_dump(_asyncapi(), sort_keys=False, width=100)
    for name, event in example_events().items():
        files[f"examples/{name}.json"] = _json(event.model_dump(mode="json"))
    return files


def _asyncapi() -> dict[str, Any]:
    events = {name: of for name, of in _MODELS.items() if name != "recipe"}
    _, definitions = models_json_schema(
        list(events.values()), ref_template="#/components/schemas/{model}"
    )
    outcome_headers = {**_CLOUD_EVENT_HEADERS, **_TRACE_HEADERS}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Vortex",
            "version": "1.0.0",
            "description": "Slot ticks in, exactly one outcome for each out. Read results and dead"
            " letters with isolation level read_committed.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "ticks": _channel("slot.ticks", "Requests for slots; names are configurable", ["tick"]),
            "results": _channel(
                "slot.results",
                "Outcomes, keyed by slot id, written together with the tick's offset",
                ["slotComplete", "deadlineMissed"],
            ),
            "progress": _channel(
                "slot.progress",
                "How slots come along, keyed by slot id; best effort, and only where configured",
                ["slotProgress"],
            ),
            "handover": _channel(
                "slot.handover",
                "Ticks that one worker leaves to another: key, value and headers as they came, and"
                " only where configured. Nobody else needs to read it",
                ["handedOver"],
            ),
            "workers": _channel(
                "slot.workers",
                "What workers say of themselves, keyed by their names, compacted; best effort",
                ["workerAnnouncement"],
            ),
            "control": _channel(
                "slot.control",
                "Orders of operators to all workers, keyed by slot id; only where configured",
                ["slotCancel"],
            ),
            "deadLetter": _channel(
                "slot.dead-letter",
                "Ticks that cannot be read: key, value and headers as they came",
                ["deadLetter"],
            ),
        },
        "operations": {
            "receiveTick": _operation("receive", "ticks"),
            "receiveOrder": _operation("receive", "control"),
            "sendOutcome": _operation("send", "results"),
            "sendProgress": _operation("send", "progress"),
            "sendDeadLetter": _operation("send", "deadLetter"),
            "sendHandover": _operation("send", "handover"),
            "receiveHandover": _operation("receive", "handover"),
            "sendAnnouncement": _operation("send", "workers"),
            "receiveAnnouncement": _operation("receive", "workers"),
        },
        "components": {
            "messages": {
                "tick": _message(
                    "SlotTick", _TICK_HEADERS, ["slot-tick.minimal", "slot-tick.full"]
                ),
                "slotComplete": _message("SlotComplete", outcome_headers, ["slot-complete"]),
                "deadlineMissed": _message(
                    "DeadlineMissed",
                    outcome_headers,
                    ["deadline-missed.expired", "deadline-missed.timeout"],
                ),
                "slotProgress": _message(
                    "SlotProgress", _PROGRESS_HEADERS, ["slot-progress", "slot-progress.ended"]
                ),
                "slotCancel": _message("SlotCancel", _JSON_HEADERS, ["slot-cancel"]),
                "handedOver": _message(
                    "SlotTick", _HANDOVER_HEADERS, ["slot-tick.minimal", "slot-tick.full"]
                ),
                "workerAnnouncement": _message(
                    "WorkerAnnouncement", {}, ["worker-announcement"], key="The worker's name"
                ),
                "deadLetter": {
                    "title": "DeadLetter",
                    "contentType": "application/octet-stream",
                    "headers": _headers(_DEAD_LETTER_HEADERS),
                    "payload": {"description": "The tick's value, byte for byte"},
                },
            },
            "schemas": definitions["$defs"],
        },
    }


def _channel(address: str, description: str, messages: list[str]) -> dict[str, Any]:
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"kafka": {"bindingVersion": "0.5.0"}},
    }


def _operation(action: str, channel: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}


def _message(
    model: str,
    headers: dict[str, str],
    examples: list[str],
    key: str = "The slot id, in decimal",
) -> dict[str, Any]:
    events = example_events()
    return {
        "title": model,
        "headers": _headers(headers),
        "payload": {"$ref": f"#/components/schemas/{model}"},
        "bindings": {
            "kafka": {"key": {"type": "string", "description": key}, "bindingVersion": "0.5.0"}
        },
        "examples": [
            {"name": name, "payload": events[name].model_dump(mode="json")} for name in examples
        ],
    }


def _headers(described: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            name: {"type": "string", "description": text} for name, text in described.items()
        },
    }


def _json(content: Any) -> str:  # Any: whatever JSON holds
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path in generate(Path(__file__).parent):
        sys.stdout.write(f"{path}\n")
