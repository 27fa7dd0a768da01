"""`vortex demo`: the whole way of six ticks, with everything embedded."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.live import Live
from rich.table import Table

from consumer.artifacts.store import ArtifactStore
from consumer.cli.common import EXIT_NOT_AS_IT_SHOULD, ConfigOption, console, load_config
from consumer.config import WorkerConfig
from consumer.emitter import TickEmitter
from consumer.kafka.clients import make_admin
from consumer.kafka.embedded import EmbeddedKafka
from consumer.kafka.topics import create_topics
from consumer.results import DeadLetter, Result, read_results
from consumer.telemetry.logs import configure_logging
from consumer.telemetry.trace_file import read_trace_file
from consumer.telemetry.trace_tree import render_tree
from consumer.telemetry.tracing import configure_tracing
from consumer.worker import Worker
from schemas import Recipe, SlotComplete, SlotTick

READY_TIMEOUT_S = 120.0
RESULTS_TIMEOUT_S = 120.0
DEADLINE_S = 90.0
SETTLE_S = 1.0
REFRESH_PER_S = 8

_RECIPES: Mapping[int, dict[str, Any]] = {
    1: {
        "audio_track": {
            "script": "Good evening. The weather today is cold and dark, with rain in the north."
        },
        "visual_track": {"prompt": "A news presenter in a blue coat in front of a grey wall"},
    },
    2: {
        "audio_track": {
            "script": "What a day! The home team has won the game, and people are dancing.",
            "emotion": "excited",
        },
        "visual_track": {
            "prompt": "A sports reporter with curly hair in a yellow jacket",
            "expression_sequence": ["excited", "manic"],
        },
    },
    3: {
        "audio_track": {
            "script": "The old bridge is closed. Please take the ferry across the river.",
            "voice_id": "jf_gongitsune",
            "emotion": "sad",
        },
        "visual_track": {
            "prompt": "A woman with long dark hair in the evening light",
            "expression_sequence": ["calm"],
        },
    },
    4: {
        "audio_track": {
            "script": "This is the last programme of the day. Thank you for watching. Good night.",
            "speed": 1.1,
        },
        "visual_track": {"prompt": "A man with a white beard and round glasses"},
    },
}
_PARAMS = {"duration_sec": 6.0, "fps": 12, "resolution": "128x128"}
_EXPIRED_SLOT = 5
_STAGES = ("audio", "image", "video", "clip", "encode", "store")
_UNREADABLE = b'{"schema_version": 1, "slot_id": -6, "deadline": "tomorrow"}'

# What the worker logs of a slot, as a state that a person reads.
_STATES = {
    "Tick received": "waiting",
    "Starting slot generation": "speech and portrait",
    "Parallel phase complete": "video",
    "Video generation complete": "self-check",
    "CLIP verification complete": "storing",
    "Slot generation complete": "storing",
}


@dataclass
class _Row:
    """One tick of the demo: what should become of it, and what has."""

    name: str
    expected: str
    state: str = "emitted"
    results: list[Result] = field(default_factory=list)

    @property
    def as_it_should_be(self) -> bool:
        return len(self.results) == 1 and outcome_name(self.results[0]) == self.expected


class _Progress(logging.Handler):
    """Turns the worker's log messages into the rows' states."""

    def __init__(self, rows: Mapping[int | None, _Row]) -> None:
        super().__init__(logging.INFO)
        self._rows = rows

    def emit(self, record: logging.LogRecord) -> None:
        row = self._rows.get(getattr(record, "slot_id", None))
        if row is not None and row.state != "done":
            row.state = _STATES.get(record.getMessage(), row.state)


def demo(
    config: ConfigOption = None,
    output: Annotated[
        Path, typer.Option(help="Directory for videos, trace and log; emptied first.")
    ] = Path("demo-output"),
) -> None:
    """Start Kafka and a worker, emit six ticks, and show what becomes of each.

    Four can be made, one is already past its deadline, one cannot be read. Exit code 0 only if
    each has exactly the outcome that it should have.
    """
    started = time.monotonic()
    rows = _rows()
    output = output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    os.environ["VORTEX__ARTIFACTS__URL"] = str(output / "slots")
    os.environ["VORTEX__TELEMETRY__EXPORTER"] = "file"
    os.environ["VORTEX__TELEMETRY__FILE"] = str(output / "trace.jsonl")
    os.environ.pop("OTEL_TRACES_EXPORTER", None)  # this command's trace goes to the file
    with (output / "worker.log").open("w") as log, console.status("loading") as status:
        settings = load_config(config)
        configure_logging("INFO", "json", stream=log)
        _build_models(settings, status.update)
        configure_logging("INFO", "json", stream=log)  # libraries have added handlers meanwhile
        tracing = configure_tracing(settings.telemetry)
        logging.getLogger().addHandler(_Progress(rows))
        try:
            with EmbeddedKafka(progress=status.update) as kafka:
                os.environ["VORTEX__KAFKA__BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
                settings = load_config(config)
                status.update("starting a worker: loading models, making a slot to warm up")
                asyncio.run(_serve_ticks(settings, rows, stop_status=status.stop))
        finally:
            tracing.shutdown()
    whole = _check_files(settings, rows)
    _summarize(output, rows, time.monotonic() - started)
    if not (whole and all(row.as_it_should_be for row in rows.values())):
        raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)


def _rows() -> dict[int | None, _Row]:
    rows: dict[int | None, _Row] = {
        slot_id: _Row(f"slot {slot_id}", "slot-complete") for slot_id in _RECIPES
    }
    rows[_EXPIRED_SLOT] = _Row(f"slot {_EXPIRED_SLOT} (past)", "deadline-missed: expired")
    rows[None] = _Row("unreadable", "dead letter")
    return rows


def _build_models(settings: WorkerConfig, report: Any) -> None:  # a callable of rich's status
    directory = settings.models.profile_directory
    if settings.models.profile == "mini" and not directory.exists():
        report("building the small models (first time only)")
        from vortex.models.mini import build_mini

        build_mini(directory, progress=lambda part: report(f"building {part}"))


async def _serve_ticks(
    settings: WorkerConfig, rows: dict[int | None, _Row], *, stop_status: Any
) -> None:
    topics = settings.kafka.topics
    await create_topics(
        make_admin(settings.kafka, client_id="vortex-demo"),
        {topics.ticks: 2, topics.results: 1, topics.dead_letter: 1},
    )
    from consumer.engine.inline import InlineEngine  # needs the extra `pipeline`

    worker = Worker(settings.kafka, InlineEngine(settings), worker_id="demo")
    running = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not worker.accepting and not running.done():
                await asyncio.sleep(0.05)
        stop_status()
        if not running.done():
            with Live(
                get_renderable=lambda: _live_table(rows),
                refresh_per_second=REFRESH_PER_S,
                console=console,
                transient=True,
            ):
                await _emit(settings)
                await _collect(settings, rows, running)
    finally:
        worker.request_stop()
        await running


async def _emit(settings: WorkerConfig) -> None:
    now = datetime.now(UTC)
    async with TickEmitter(settings.kafka) as emitter:
        for slot_id, content in _RECIPES.items():
            recipe = Recipe.model_validate({"slot_params": _PARAMS, **content})
            deadline = now + timedelta(seconds=DEADLINE_S + slot_id)
            await emitter.emit(
                SlotTick(slot_id=slot_id, deadline=deadline, emitted_at=now, recipe=recipe)
            )
        expired = SlotTick(
            slot_id=_EXPIRED_SLOT,
            deadline=now - timedelta(seconds=5),
            emitted_at=now,
            recipe=recipe,
        )
        await emitter.emit(expired)
        await emitter.emit_raw(_UNREADABLE)


async def _collect(
    settings: WorkerConfig, rows: dict[int | None, _Row], running: asyncio.Task[None]
) -> None:
    """Read results until every tick has one, and a moment longer, to see that none has two."""
    end_s = time.monotonic() + RESULTS_TIMEOUT_S
    async with aclosing(read_results(settings.kafka, from_start=True)) as results:
        async for result in results:
            if result is not None:
                row = rows[None if isinstance(result, DeadLetter) else result.slot_id]
                row.results.append(result)
                row.state = "done"
                if all(row.results for row in rows.values()):
                    end_s = min(end_s, time.monotonic() + SETTLE_S)
            if time.monotonic() > end_s or running.done():
                return


def _check_files(settings: WorkerConfig, rows: Mapping[int | None, _Row]) -> bool:
    store = ArtifactStore(settings.artifacts.url, settings.artifacts.storage_options)
    made = [r for row in rows.values() for r in row.results if isinstance(r, SlotComplete)]
    return all(store.is_whole(result.artifact.uri, result.artifact.sha256) for result in made)


def outcome_name(result: Result) -> str:
    """Return the outcome's type, and for a miss its reason."""
    if isinstance(result, DeadLetter):
        return "dead letter"
    return result.type if isinstance(result, SlotComplete) else f"{result.type}: {result.reason}"


def _live_table(rows: Mapping[int | None, _Row]) -> Table:
    table = Table("tick", "state", "seconds", box=None)
    for row in rows.values():
        result = row.results[0] if row.results else None
        state = f"[cyan]{row.state}[/]" if result is None else f"[green]{outcome_name(result)}[/]"
        seconds = (
            ""
            if result is None or isinstance(result, DeadLetter)
            else (f"{result.breakdown.total_ms / 1000:.1f}")
        )
        table.add_row(row.name, state, seconds)
    return table


def _summarize(output: Path, rows: Mapping[int | None, _Row], seconds: float) -> None:
    table = Table(
        title="What became of the six ticks (times in ms)", box=None, padding=(0, 1, 0, 0)
    )
    for heading in ("slot", "outcome, file", "reason"):
        table.add_column(heading, no_wrap=True)
    for heading in (*_STAGES, "total", "slack"):
        table.add_column(heading, justify="right")
    for row in rows.values():
        results: list[Result | None] = [*row.results] or [None]
        for result in results:
            table.add_row(*_cells(row, result, output))
    console.print(table)
    for result in rows[None].results:
        if isinstance(result, DeadLetter):
            console.print(f"\ndead letter: {result.reason}\n", highlight=False, markup=False)
    _print_one_trace(output)
    for name, path in (("videos", "slots"), ("trace", "trace.jsonl"), ("log", "worker.log")):
        console.print(f"{name:<8}{output / path}", highlight=False, soft_wrap=True)
    right = sum(row.as_it_should_be for row in rows.values())
    console.print(
        f"{right} of {len(rows)} ticks have exactly the outcome that they should have"
        f" ({seconds:.0f} s in all)",
        highlight=False,
    )


def _cells(row: _Row, result: Result | None, output: Path) -> list[str]:
    colour = "green" if row.as_it_should_be else "red"
    if result is None:
        return [row.name, f"[{colour}]none[/]"]
    if isinstance(result, DeadLetter):
        return ["-", f"[{colour}]dead letter[/]"]
    outcome, reason = f"[{colour}]{result.type}[/]", ""
    if isinstance(result, SlotComplete):
        file = Path(urlsplit(result.artifact.uri).path).relative_to(output)
        outcome += f"\n[dim]{file}[/]"
    else:
        reason = result.reason.value
    times = result.breakdown.model_dump()
    stages = [times[f"{stage}_ms"] for stage in (*_STAGES, "total")]
    shown = ["-" if ms is None else f"{ms:.0f}" for ms in stages]
    return [str(result.slot_id), outcome, reason, *shown, f"{result.slack_ms:.0f}"]


def _print_one_trace(output: Path) -> None:
    spans = read_trace_file(output / "trace.jsonl")
    made = next((span for span in spans if span.name == "slot.make"), None)
    if made is not None:
        console.print(render_tree([span for span in spans if span.trace_id == made.trace_id]))
