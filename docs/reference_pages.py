"""What the site says of configuration, commands and contract, generated from what they are."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

from consumer.cli.app import app
from consumer.config import WorkerConfig
from consumer.telemetry import semconv
from schemas.examples import example_events
from schemas.generate import json_schema

ROOT = Path(__file__).parents[1]
FIRST = ("slot-tick", "slot-complete", "deadline-missed")
"""The events that the page of the contract begins with."""
_SCHEMA_WORDS = {"string": "text", "integer": "whole number", "array": "list", "object": "mapping"}
_MAX_PATTERN_CHARS = 60
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "{} characters at least",
    "maxLength": "{} characters at most",
    "minItems": "{} items at least",
    "maxItems": "{} items at most",
    "multipleOf": "a multiple of {}",
}


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


# --- configuration --------------------------------------------------------------------------


def configuration() -> str:
    """Return every key of `config.yaml`, with its default, what is allowed, and its comment."""
    text = (ROOT / "config.yaml").read_text("utf-8")
    schema = WorkerConfig.model_json_schema()
    lines = text.splitlines()
    parts = []
    for path, key, value in _keys(yaml.compose(text)):
        comment = _comment(lines, key.start_mark.line, value)
        if len(path) == 1:
            parts.append(f"## {path[0]}\n\n{comment}")
        elif isinstance(value, yaml.MappingNode) and _properties(schema, path):
            if comment:
                parts.append(f"**`{'.'.join(path)}`**: {comment}")
        else:
            default = text[value.start_mark.index : value.end_mark.index].strip()
            allowed = _allowed(_schema_at(schema, path), schema)
            parts.append(
                f"### `{'.'.join(path)}`\n\nDefault `{default}`; {allowed}.\n\n{comment}".rstrip()
            )
    return "\n\n".join(parts)


def _keys(
    node: yaml.MappingNode, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], yaml.Node, yaml.Node]]:
    for key, value in node.value:
        path = (*above, key.value)
        yield path, key, value
        # Mappings in braces are values: one for each profile.
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _keys(value, path)


def _comment(lines: list[str], number: int, value: yaml.Node) -> str:
    """Return the comment above a key and that behind it, as one paragraph."""
    above = []
    for line in reversed(lines[:number]):
        if not line.lstrip().startswith("#"):
            break
        above.append(line.strip().removeprefix("#").strip())
    if number and len(above) == number:
        above = []  # the file's own heading
    single = value.start_mark.line == number and not (
        isinstance(value, yaml.MappingNode) and not value.flow_style
    )
    rest = lines[number][value.end_mark.column :] if single else lines[number]
    _, _, behind = rest.partition("#")
    return " ".join([*reversed(above), behind.strip()]).strip()


def _properties(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = _resolve(_schema_at(schema, path), schema).get("properties", {})
    return found


def _schema_at(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    at = schema
    for name in path:
        at = _resolve(at, schema)["properties"][name]
    return at


def _resolve(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if reference := part.get("$ref"):
        found: dict[str, Any] = schema["$defs"][reference.rsplit("/", 1)[1]]
        return found
    return part


def _allowed(part: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return in words which values a JSON Schema allows."""
    part = _resolve(part, schema)
    if "anyOf" in part:
        return " or ".join(_allowed(each, schema) for each in part["anyOf"])
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return " or ".join(f"`{each}`" for each in part["enum"])
    if part.get("format") == "date-time":
        return "time"
    kind = part.get("type", "any")
    words = _SCHEMA_WORDS.get(kind, kind)
    if kind == "array" and isinstance(part.get("items"), dict):
        words = f"list of {_allowed(part['items'], schema)}"
    return words + _bounds(part)


def _bounds(part: dict[str, Any]) -> str:
    words = []
    if "minimum" in part and "maximum" in part:
        words.append(f"{part['minimum']} to {part['maximum']}")
        part = {name: bound for name, bound in part.items() if name not in ("minimum", "maximum")}
    words += [form.format(part[name]) for name, form in _BOUNDS.items() if name in part]
    pattern = part.get("pattern", "")
    if 0 < len(pattern) <= _MAX_PATTERN_CHARS:
        words.append(f"as `{pattern}`")
    return f" ({', '.join(words)})" if words else ""


# --- commands -------------------------------------------------------------------------------


def commands() -> str:
    """Return every command with its help, arguments and options."""
    return "\n\n".join(_commands(typer.main.get_command(app), "vortex"))


def _commands(command: Any, name: str) -> Iterator[str]:  # Any: typer does not export its classes
    children = getattr(command, "commands", {})
    if name != "vortex":
        yield f"{'###' if name.count(' ') > 1 else '##'} {name}"
        yield _unescape(command.help or "")
    rows = [row for parameter in command.params if (row := _parameter(parameter))]
    if rows and name != "vortex":
        yield _table(("argument or option", "default", "meaning"), rows)
    for child, found in children.items():
        yield from _commands(found, f"{name} {child}")


def _parameter(parameter: Any) -> tuple[str, str, str] | None:
    if parameter.hidden or parameter.name in ("help", "install_completion", "show_completion"):
        return None
    if parameter.param_type_name == "argument":
        names = f"`{parameter.name.upper()}`"
    else:
        names = ", ".join(f"`{each}`" for each in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default
    if parameter.required:
        shown = "required"
    elif default in (None, False) or callable(default):
        shown = ""
    else:
        shown = f"`{default}`"
    return names, shown, parameter.help or ""


def _unescape(text: str) -> str:
    return text.replace("\b", "").strip()


# --- the contract ---------------------------------------------------------------------------


def contract() -> str:
    """Return topics, headers, and each event with all its fields and an example."""
    document = yaml.safe_load((ROOT / "schemas" / "asyncapi.yaml").read_text("utf-8"))
    parts = ["## Topics", _topics(document)]
    known: set[str] = set()
    for event in _events():
        schema = json_schema(event)
        parts += [f"## {schema['title']}", schema["description"], _fields(schema, schema)]
        for name, part in schema.get("$defs", {}).items():
            if "properties" in part and name not in known:
                known.add(name)
                parts += [f"### {name}", part.get("description", ""), _fields(part, schema)]
    parts.append("## Examples")
    for name, example in example_events().items():
        value = example.model_dump(mode="json", exclude_none=True)
        if "verification" in value:
            value["verification"]["embedding"] = ["512 numbers"]
        parts += [f"### {name}", f"```json\n{json.dumps(value, indent=2)}\n```"]
    return "\n\n".join(parts)


def _events() -> list[str]:
    files = (ROOT / "schemas" / "json").glob("*.v1.schema.json")
    others = {file.name.removesuffix(".v1.schema.json") for file in files} - {*FIRST, "recipe"}
    return [*FIRST, *sorted(others)]


def _topics(document: dict[str, Any]) -> str:
    parts = []
    for channel in document["channels"].values():
        parts.append(f"### {channel['address']}\n\n{channel['description']}.")
        headers: dict[str, str] = {}
        titles = []
        for reference in channel["messages"].values():
            message = document["components"]["messages"][reference["$ref"].rsplit("/", 1)[1]]
            titles.append(message["title"])
            headers |= {
                name: header["description"]
                for name, header in message["headers"]["properties"].items()
            }
        parts.append(f"Values: {', '.join(titles)}.")
        rows = [(f"`{name}`", text) for name, text in headers.items()]
        parts.append(_table(("header", "meaning"), rows))
    return "\n\n".join(parts)


def _fields(part: dict[str, Any], schema: dict[str, Any]) -> str:
    required = part.get("required", [])
    rows = []
    for name, field in part["properties"].items():
        resolved = _resolve(field, schema)
        default = "required" if name in required else f"`{json.dumps(field.get('default'))}`"
        if isinstance(field.get("default"), dict):
            default = "its own defaults"
        meaning = field.get("description") or resolved.get("description", "")
        rows.append((f"`{name}`", _type(field, schema), default, meaning))
    return _table(("field", "type", "default", "meaning"), rows)


def _type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return a field's type; an object of its own is a link to its table."""
    if "anyOf" in field:
        return " or ".join(_type(each, schema) for each in field["anyOf"])
    if (reference := field.get("$ref")) and "properties" in _resolve(field, schema):
        name = reference.rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    return _allowed(field, schema)


# --- spans ----------------------------------------------------------------------------------


def span_attributes() -> str:
    """Return our own attributes of spans, with what they hold."""
    tree = ast.parse(Path(semconv.__file__).read_text("utf-8"))
    rows = []
    for line, following in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            value = getattr(semconv, line.target.id)
            text = following.value if isinstance(following, ast.Expr) else None
            if isinstance(text, ast.Constant) and re.match(r"(slot|dead_letter)\.", str(value)):
                rows.append((f"`{value}`", str(text.value)))
    return _table(("attribute", "meaning"), rows)


PAGES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "configuration": configuration,
    "contract": contract,
    "span-attributes": span_attributes,
}
"""What a page may ask for, by name."""
