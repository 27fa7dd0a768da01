"""One clear line about what is wrong with an event."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

MAX_CHARS = 500
MAX_VALUE_CHARS = 60

# Free text of the producer's: it belongs in no log, and in no header.
_FREE_TEXT = frozenset(
    {"script", "prompt", "negative_prompt", "banned_concepts", "required_concepts"}
)
# Where an object or a list belongs, a string may be anything that the producer wrote.
_CONTAINER_EXPECTED = frozenset({"model_type", "model_attributes_type", "tuple_type", "list_type"})


def describe_validation_error(error: ValidationError) -> str:
    """Return field, limit and value of every problem, at most 500 characters in all.

    A list is refused at its first wrong item; that it holds too few right ones is not a problem of
    its own. Values are quoted only where they are short and no free text. An unknown version comes
    alone, since the other problems follow from it.
    """
    # `hide_input_in_errors` hides inputs in the error's own text; here they are chosen one by one.
    problems = error.errors(include_url=False, include_context=False)
    for problem in problems:
        if problem["loc"] == ("schema_version",) and problem["type"] == "literal_error":
            version = _quotable(problem["loc"], problem["input"]) or "of the tick"
            return f"schema_version {version} is not known; this worker reads 1"
    lists_with_a_wrong_item = {problem["loc"][:-1] for problem in problems}
    return "; ".join(
        _describe(dict(problem))
        for problem in problems
        if problem["type"] != "too_short" or problem["loc"] not in lists_with_a_wrong_item
    )[:MAX_CHARS]


def _describe(problem: dict[str, Any]) -> str:
    field = ".".join(map(str, problem["loc"])) or "the value"
    message = problem["msg"].removeprefix("Value error, ")
    unquotable = problem["type"] == "missing" or problem["type"] in _CONTAINER_EXPECTED
    value = None if unquotable else _quotable(problem["loc"], problem["input"])
    got = f", got {value}" if value is not None else ""
    return f"{field}: {message}{got}"


def _quotable(location: tuple[int | str, ...], value: Any) -> str | None:
    if not location or _FREE_TEXT.intersection(location):
        return None
    if not isinstance(value, str | int | float | bool | None):
        return None
    if isinstance(value, str) and len(value) > MAX_VALUE_CHARS:
        return None
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else None
