"""Ticks that are wrong, odd or malicious, from a seed: the same seed gives the same ones."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from schemas import MAX_TICK_BYTES
from tests.support.jobs import tick_json

Path = tuple[str, ...]


class HostileRecord(NamedTuple):
    """What a producer may write to the topic of ticks."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


# Written into the text as they are, so that they need not be what json.dumps would write.
RAW = (
    *("null", "true", "[]", "{}", "0", "-0", "-1", "1.0", "1e308", "-1e308", "1e400", "1e-400"),
    *("NaN", "Infinity", "-Infinity", "9223372036854775807", "9223372036854775808", "1" * 400),
    *('""', '" "', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u202e"'),
    *('"../../etc/passwd"', '".."', '"a/b"', '"%s%n"', '"${jndi:ldap://x}"', '"\\r\\nX: y"'),
    *('"9999-12-31T23:59:59-23:59"', '"0001-01-01T00:00:00+23:59"', '"2030-01-31t20:15:00z"'),
    *('"9999-12-31T23:59:59Z"', '"2030-01-31T20:15:00"', '"1970-01-01T00:00:00Z"', '"T"'),
    *('"2016-12-31T23:59:60Z"', '"2030-02-30T00:00:00Z"', '"2030-01-31T20:15:00.1234567890Z"'),
    *('"64x64"', '"1024x1024"', '"9999x9999"', '"16x16"', '"1e3x64"', '"64X64"', '"\\u0666x64"'),
    *("[" * 250 + "]" * 250, '{"a":' * 250 + "1" + "}" * 250, "[[],{},[[]]]", '{"":{"":""}}'),
    *('"neutral"', '"NEUTRAL"', '["neutral"]', '["calm","calm"]', '[1,"calm",null]'),
    *("'single'", "undefined", "0x10", "01", "+1", ".5", "5.", "/**/1", "[1,]", '{"a":1,}'),
)
ODD_BYTES = (b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00\x00\x00\x01\x02")
LENGTHS = (63, 64, 65, 200, 201, 2000, 2001, 5000, 5001)
HEADER_NAMES = ("traceparent", "tracestate", "ce_id", "content-type", "vortex-signature", "", "x")
HEADER_VALUES = (
    *(b"", b"\xff\xfe", b"00-" + b"f" * 32 + b"-" + b"f" * 16 + b"-01", b"a=b," * 40, b"x" * 300),
    *(b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00", b"ed25519 x y", b"\r\n\r\n", b"\x00"),
)


def hostile_records(seed: int, count: int) -> Iterator[HostileRecord]:
    """Yield records; most differ from a good tick in one to three places."""
    chance = random.Random(seed)
    fields = list(_fields(json.loads(tick_json())))
    for _ in range(count):
        yield HostileRecord(_key(chance), _value(chance, fields), _headers(chance))


def _fields(node: dict[str, Any], above: Path = ()) -> Iterator[Path]:
    for name, value in node.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from _fields(value, (*above, name))


def _value(chance: random.Random, fields: list[Path]) -> bytes | None:
    kind = chance.random()
    if kind < 0.01:
        return None
    if kind < 0.03:
        return chance.randbytes(chance.randrange(200))
    if kind < 0.0305:
        return b"[" * (MAX_TICK_BYTES + chance.choice((-1, 0, 1)))
    content = json.loads(tick_json())
    raw: dict[str, str] = {}
    for _ in range(chance.randrange(4)):
        _change(chance, content, chance.choice(fields), raw)
    text = json.dumps(content, ensure_ascii=chance.random() < 0.5)
    for mark, replacement in raw.items():
        text = text.replace(f'"{mark}"', replacement)
    if chance.random() < 0.05:  # of two members with one name the last counts
        text = "{" + f'"{chance.choice(fields)[-1]}":{chance.choice(RAW)},' + text[1:]
    return _damaged(chance, text.encode("utf-8", "surrogatepass"))


def _change(
    chance: random.Random, content: dict[str, Any], path: Path, raw: dict[str, str]
) -> None:
    holder: Any = content
    for part in path[:-1]:
        holder = holder.get(part) if isinstance(holder, dict) else None
    if not isinstance(holder, dict):
        return  # an earlier change has replaced it
    kind = chance.random()
    if kind < 0.1:
        holder.pop(path[-1], None)
    elif kind < 0.2:
        holder[path[-1]] = chance.choice("aé\u4e00\U0001f600") * chance.choice(LENGTHS)
    else:
        mark = f"@{len(raw)}@"
        raw[mark] = chance.choice(RAW)
        holder[path[-1] if kind < 0.95 else "unknown"] = mark


def _damaged(chance: random.Random, value: bytes) -> bytes:
    kind = chance.random()
    at = chance.randrange(len(value) + 1)
    if kind < 0.04:
        return value[:at]
    if kind < 0.08:
        return value[:at] + chance.choice(ODD_BYTES) + value[at:]
    if kind < 0.10:
        return chance.choice(ODD_BYTES) + value
    return value


def _key(chance: random.Random) -> bytes | None:
    return chance.choice((None, b"", b"1", b"\xff\xfe", b"k" * 300))


def _headers(chance: random.Random) -> list[tuple[str, bytes]]:
    return [
        (chance.choice(HEADER_NAMES), chance.choice(HEADER_VALUES))
        for _ in range(chance.choice((0, 0, 0, 1, 2, 8)))
    ]
