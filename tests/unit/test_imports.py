"""Who may import whom: `consumer` and `training` stand on `vortex`, and `vortex` on `schemas`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "schemas": {"schemas"},
    "vortex": {"schemas", "vortex"},
    "consumer": {"schemas", "vortex", "consumer"},
    "training": {"schemas", "vortex", "training"},
}
# Names for applications, for whose own packages `consumer` is too common a name. What is behind
# them stands above `vortex`, so none of our modules may use them.
FACADES = {"vortex.testing"}


def modules() -> dict[str, Path]:
    """Return the files of all our modules by dotted name."""
    files = [path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported at run time, also inside functions; `a.b` for `from a import b`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node)


def graph() -> dict[str, set[str]]:
    """Return for each of our modules those of ours that it imports."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        imported = set(imports(ast.parse(path.read_text("utf-8"))))
        ours = {each if each in known else each.rpartition(".")[0] for each in imported}
        found[name] = {each for each in ours if each in known} - {name}
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_never_run_upwards(room: str) -> None:
    wrong = {
        f"{name} imports {each}"
        for name, imported in graph().items()
        if name.split(".")[0] == room and name not in FACADES
        for each in imported
        if each.split(".")[0] not in MAY_IMPORT[room]
    }
    assert not wrong


def test_names_for_applications_are_only_for_them() -> None:
    assert graph().keys() >= FACADES
    assert not {name for name, imported in graph().items() if imported & FACADES}


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_consumer_never_imports_torch_itself() -> None:
    assert not {
        name
        for name, path in modules().items()
        if name.split(".")[0] == "consumer"
        and "torch" in {each.split(".")[0] for each in imports(ast.parse(path.read_text("utf-8")))}
    }


def test_engine_process_starts_without_kafkas_client_and_exporters_of_spans() -> None:
    """They would take a sixth of the time; a process that is lost is started anew."""
    program = "import sys, consumer.engine.child; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert "consumer.engine.child" in loaded
    assert not loaded & {"aiokafka", "opentelemetry.exporter.otlp", "torch"}
