"""The demo's page: every tick with its video, what it asked for, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from consumer.config import WorkerConfig
from consumer.demo.board import Board
from consumer.demo.card import Card, Video
from consumer.demo.chart import LABELS, chart_of_run
from consumer.demo.film import evenly_spaced_frames
from consumer.demo.output import PAGE_NAME, SHEET_NAME
from consumer.demo.sheet import FRAMES, SheetRow, draw_sheet
from consumer.demo.timeline import Timeline, read_timelines
from consumer.telemetry.trace_file import SpanRecord

_TEMPLATE_NAME = "page.html.jinja"


def write_page(
    output: Path,
    board: Board,
    videos: Mapping[int, Path],
    spans: Sequence[SpanRecord],
    *,
    settings: WorkerConfig,
    notes: Sequence[str],
    seconds: float,
) -> None:
    """Write `index.html`, and `sheet.png` if there is a video.

    Args:
        output: the directory that holds the videos, and gets page and sheet.
        board: the ticks and their results.
        videos: slot id to file; whole ones only.
        spans: of all traces.
        settings: those of the worker.
        notes: what a reader should know, one line each.
        seconds: that the demo took.

    Raises:
        OSError: a file cannot be read or written.
    """
    frames = {slot_id: evenly_spaced_frames(path, FRAMES) for slot_id, path in videos.items()}
    rows = [
        SheetRow(tick.name, tick.recipe.visual_track.prompt, frames[made.slot_id])
        for tick, made in board.made()
        if tick.recipe is not None and made.slot_id in frames
    ]
    if rows:
        (output / SHEET_NAME).write_bytes(draw_sheet(rows))
    page = render_page(
        board,
        {
            slot_id: Video.of(path, frames[slot_id][0], page_directory=output)
            for slot_id, path in videos.items()
        },
        read_timelines(spans, settings.kafka.topics.ticks),
        default_voice=settings.models.default_voice,
        notes=notes,
        seconds=seconds,
    )
    (output / PAGE_NAME).write_text(page, encoding="utf-8")


def render_page(
    board: Board,
    videos: Mapping[int, Video],
    timelines: Mapping[int, Timeline],
    *,
    default_voice: str,
    notes: Sequence[str],
    seconds: float,
) -> str:
    """Return the page as HTML; whatever stands in ticks and results is escaped."""
    cards = [
        Card.of(
            tick,
            result,
            video=None if tick.slot_id is None else videos.get(tick.slot_id),
            timeline=None if tick.slot_id is None else timelines.get(tick.slot_id),
            default_voice=default_voice,
        )
        for tick in board.ticks
        for result in tick.results or (None,)
    ]
    of_ticks = {
        tick.name: timelines[tick.slot_id]
        for tick in board.ticks
        if tick.slot_id is not None and tick.slot_id in timelines
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE_NAME).render(
        board=board,
        cards=cards,
        run=chart_of_run(of_ticks),
        labels=LABELS,
        sheet=SHEET_NAME if videos else None,
        notes=notes,
        verdict=board.verdict(seconds),
    )
