"""SECURITY.md names every field of a tick, and there is none without a bound."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas import SlotTick

DOCUMENT = Path(__file__).parents[2] / "SECURITY.md"
UPPER = {
    "string": ("maxLength", "pattern", "format", "enum", "const"),
    "array": ("maxItems",),
    "integer": ("maximum", "exclusiveMaximum", "const"),
    "number": ("maximum", "exclusiveMaximum"),
}


def leaves(node: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield each value of a schema that is no object, and the items of lists."""
    if "$ref" in node:
        node = root["$defs"][node["$ref"].rsplit("/", 1)[1]]
    for choice in node.get("anyOf", ()):
        yield from leaves(choice, root, path)
    if node.get("type") == "object":
        for name, inner in node["properties"].items():
            yield from leaves(inner, root, f"{path}.{name}")
    elif "type" in node and node["type"] != "null":
        yield path, node
        if node["type"] == "array":
            yield from leaves(node["items"], root, f"{path}[]")


def all_leaves() -> list[tuple[str, Any]]:
    schema = SlotTick.model_json_schema()
    return list(leaves(schema, schema, "tick"))


def test_every_field_of_a_tick_has_an_upper_bound() -> None:
    found = all_leaves()
    assert len(found) > 20
    unbounded = [
        path
        for path, node in found
        if node["type"] != "boolean" and not set(UPPER[node["type"]]) & node.keys()
    ]
    assert unbounded == []


def test_every_field_of_a_tick_stands_in_the_table_of_bounds() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").split("## What a tick can ask for")[1]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| ([^|]+)\|", table, re.M))))
    fields = {path.rpartition(".")[2].removesuffix("[]") for path, _ in all_leaves()}
    assert fields <= named, fields - named
