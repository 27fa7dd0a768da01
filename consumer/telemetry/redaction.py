"""What may be written down: no scripts, no prompts, no secrets, nothing endless."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Set
from datetime import datetime
from typing import Any

from pydantic import BaseModel

MESSAGE_MAX_CHARS = 300
_MAX_DEPTH = 8

# Whole words only: `script_chars` is a count. `input` is where a pydantic error keeps bad content.
_CONTENT_KEY = re.compile(r"(?:^|[._-])(?:script|prompt)s?$|^input$", re.IGNORECASE)
# A tokenizer is not a token.
_SECRET_KEY = re.compile(
    r"passw(?:or)?d|secret|token(?!i[sz])|sasl|credential|api[._-]?key|authorization", re.IGNORECASE
)
# A library's error may quote the text that it stumbled over.
_MESSAGE_KEYS = frozenset({"exc_value", "exc_notes"})


def shorten(text: str, max_chars: int = MESSAGE_MAX_CHARS) -> str:
    """Cut `text` to at most `max_chars` characters, marking the cut with an ellipsis."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def redact(value: Any, *, depth: int = 0) -> Any:  # Any: whatever callers log
    """Copy `value` into plain JSON types, without content and secrets.

    - Under a key such as `script`, `prompt` or `negative_prompt`: `"<214 chars>"`, `"<3 items>"`.
    - Under a key such as `password`, `sasl_plain_username` or `token`: `"***"`. Numbers stay, for
      `max_tokens` is a limit.
    - Bytes become `"<12 bytes>"`, NaN and infinity strings; pydantic models and dataclasses are
      opened like mappings, so that no repr gives their fields away; other objects are shortened.

    Applies at every depth; what lies deeper than 8 containers is left out.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case datetime():
            return value.isoformat()
    if depth == _MAX_DEPTH:
        return "<nested too deep>"
    match value:
        case BaseModel():
            return redact(dict(value), depth=depth)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return redact(fields, depth=depth)
        case Mapping():
            return {str(key): _redact_field(str(key), item, depth) for key, item in value.items()}
        case list() | tuple() | Set():
            return [redact(item, depth=depth + 1) for item in value]
        case _:
            return shorten(str(value))


def _redact_field(key: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return redact(value)
    if _SECRET_KEY.search(key):
        return "***"
    if _CONTENT_KEY.search(key):
        return _size(value)
    plain = redact(value, depth=depth + 1)
    if key in _MESSAGE_KEYS:
        return [shorten(note) for note in plain] if isinstance(plain, list) else shorten(plain)
    return plain


def _size(value: Any) -> str:
    match value:
        case str():
            return f"<{len(value)} chars>"
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case Mapping() | list() | tuple() | Set():
            return f"<{len(value)} items>"
        case _:
            return f"<{type(value).__name__}>"
