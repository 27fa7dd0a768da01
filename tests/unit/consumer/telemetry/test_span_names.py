"""The documentation lists the spans that the code starts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "reference" / "spans.md"
# The last one passes on the name that it is given.
STARTS = {"start_span", "start_as_current_span", "_span"}


def started() -> Iterator[str]:
    """Yield the names that spans are started with; what is put in is `{}`."""
    for room in ("consumer", "vortex"):
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text("utf-8")
            for node in ast.walk(ast.parse(text if "get_tracer(" in text else "")):
                if isinstance(node, ast.Call) and _called(node) in STARTS:
                    yield from _name(node.args[0])


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _name(argument: ast.expr) -> Iterator[str]:
    if isinstance(argument, ast.Constant):
        yield str(argument.value)
    elif isinstance(argument, ast.JoinedStr):
        parts = argument.values
        yield "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)
    else:
        assert ast.unparse(argument) == "name", "a name that this test cannot follow"


def test_page_of_spans_lists_all_of_them_and_no_others() -> None:
    listed = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text("utf-8"), re.M)
    assert {re.sub(r"{\w+}", "{}", name) for name in listed} == set(started())
