"""A trace drawn as a tree for the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.text import Text
from rich.tree import Tree

from consumer.telemetry.semconv import ERROR_TYPE, OFFSET, PARTITION_ID
from consumer.telemetry.trace_file import SpanRecord

_SHOWN_ATTRIBUTES = {PARTITION_ID: "partition", OFFSET: "offset", ERROR_TYPE: "error"}
_SHOWN_PREFIX = "slot."


def render_tree(spans: Sequence[SpanRecord]) -> Tree:
    """Draw one branch a trace, children under their parents in order of their start.

    A span whose parent is not among `spans` stands at the top of its trace.
    """
    known = {(span.trace_id, span.span_id) for span in spans}
    children: dict[tuple[str, str | None], list[SpanRecord]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start_ns):
        parent = (span.trace_id, span.parent_span_id)
        children[parent if parent in known else (span.trace_id, None)].append(span)

    def grow(branch: Tree, parent: tuple[str, str | None]) -> None:
        for span in children[parent]:
            grow(branch.add(_label(span)), (span.trace_id, span.span_id))

    forest = Tree("traces", hide_root=True)
    for trace_id in dict.fromkeys(span.trace_id for span in spans):
        grow(forest.add(Text(f"trace {trace_id}", style="dim")), (trace_id, None))
    return forest


def _label(span: SpanRecord) -> Text:
    failed = span.status == "ERROR"
    label = Text.assemble(
        (span.name, "bold red" if failed else "bold"), (f"  {span.duration_ms:,.1f} ms", "cyan")
    )
    if failed:
        label.append(f"  ✗ {span.status_message}".rstrip(), "red")
    for name, value in span.attributes.items():
        if name in _SHOWN_ATTRIBUTES or name.startswith(_SHOWN_PREFIX):
            shown = _SHOWN_ATTRIBUTES.get(name, name.removeprefix(_SHOWN_PREFIX))
            label.append(f"  {shown}={value}", "dim")
    return label
