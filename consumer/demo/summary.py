"""What stands on the terminal at the end of the demo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consumer.demo.board import Board
from consumer.demo.tick import DemoTick
from consumer.results import DeadLetter, Result
from consumer.telemetry.trace_file import SpanRecord
from consumer.telemetry.trace_tree import render_tree
from schemas import SlotComplete, Stage


def print_summary(
    console: Console,
    board: Board,
    videos: Mapping[int, Path],
    spans: Sequence[SpanRecord],
    *,
    relative_to: Path,
) -> None:
    """Print the table of outcomes, the reasons, and the trace of one slot.

    Args:
        console: where to.
        board: the ticks and their results.
        videos: slot id to file.
        spans: of all traces.
        relative_to: the directory whose files are told by their path in it.
    """
    what = "the tick" if len(board.ticks) == 1 else f"the {len(board.ticks)} ticks"
    table = Table(title=f"What became of {what} (times in ms)", box=None, padding=(0, 1, 0, 0))
    for heading in ("slot", "outcome, file", "reason"):
        table.add_column(heading, no_wrap=True)
    for heading in (*Stage, "total", "slack"):
        table.add_column(str(heading), justify="right")
    for tick in board.ticks:
        results: list[Result | None] = [*tick.results] or [None]
        for result in results:
            table.add_row(*_cells(tick, result, videos, relative_to))
    console.print(table)
    for line in _reasons(board.ticks):
        console.print(f"\n{line}", highlight=False, markup=False, soft_wrap=True)
    console.print()
    made = next((span for span in spans if span.name == "slot.make"), None)
    if made is not None:
        console.print(render_tree([span for span in spans if span.trace_id == made.trace_id]))


def _cells(
    tick: DemoTick, result: Result | None, videos: Mapping[int, Path], relative_to: Path
) -> list[str]:
    colour = "green" if tick.as_it_should_be else "red"
    if result is None:
        return [tick.name, f"[{colour}]none[/]"]
    if isinstance(result, DeadLetter):
        return ["-", f"[{colour}]dead letter[/]"]
    outcome, reason = f"[{colour}]{result.type}[/]", ""
    if isinstance(result, SlotComplete):
        video = videos.get(result.slot_id)
        file = "the file is damaged" if video is None else str(video.relative_to(relative_to))
        outcome += f"\n[dim]{escape(file)}[/]"
    else:
        reason = result.reason.value
    times = result.breakdown.model_dump()
    stages = [times[f"{stage}_ms"] for stage in (*Stage, "total")]
    shown = ["-" if ms is None else f"{ms:.0f}" for ms in stages]
    return [str(result.slot_id), outcome, reason, *shown, f"{result.slack_ms:.0f}"]


def _reasons(ticks: Iterable[DemoTick]) -> Iterable[str]:
    """Yield why there is no video, where the table does not say it all."""
    for tick in ticks:
        for result in tick.results:
            if isinstance(result, DeadLetter):
                yield f"dead letter: {result.reason}"
            elif not isinstance(result, SlotComplete) and not tick.as_it_should_be:
                yield f"{tick.name}: {result.detail}"
