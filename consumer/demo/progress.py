"""The table that a user watches while the ticks are served."""

from __future__ import annotations

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from consumer.demo.board import Board
from consumer.demo.tick import outcome_name
from consumer.job import Job, Step
from consumer.results import DeadLetter
from consumer.worker import OnProgress
from schemas import Stage

_REFRESH_PER_S = 8

_STATES = {
    None: "waiting",
    Stage.AUDIO: "speech and portrait",
    Stage.IMAGE: "speech and portrait",
    Stage.VIDEO: "video",
    Stage.CLIP: "self-check",
    Stage.ENCODE: "storing",
    Stage.STORE: "storing",
}


def follow(board: Board) -> OnProgress:
    """Return what notes a worker's progress on the board."""

    def note(job: Job, step: Step) -> None:
        tick = board.find(job.tick.slot_id)
        if tick is not None and step.ended_s is None:
            tick.state = _STATES[step.stage]

    return note


def live_table(board: Board, console: Console) -> Live:
    """Return a context in which the terminal shows the ticks' states as they change."""
    return Live(
        get_renderable=lambda: _table(board),
        refresh_per_second=_REFRESH_PER_S,
        console=console,
        transient=True,
    )


def _table(board: Board) -> Table:
    table = Table(box=None)
    table.add_column("tick", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("seconds", justify="right")
    table.add_column("prompt", style="dim", no_wrap=True, overflow="ellipsis")
    for tick in board.ticks:
        result = tick.results[0] if tick.results else None
        colour = "green" if tick.as_it_should_be else "red"
        state = Text(tick.state, "cyan") if result is None else Text(outcome_name(result), colour)
        seconds = (
            ""
            if result is None or isinstance(result, DeadLetter)
            else f"{result.breakdown.total_ms / 1000:.1f}"
        )
        prompt = Text(tick.recipe.visual_track.prompt if tick.recipe else "")
        table.add_row(tick.name, state, seconds, prompt)
    return table
