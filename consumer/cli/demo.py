"""`vortex demo`: the whole way of six ticks, or of one's own, with everything embedded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from fsspec.core import strip_protocol
from pydantic import ValidationError
from rich.status import Status

from consumer.artifacts.store import ArtifactStore
from consumer.cli.common import (
    EXIT_NOT_AS_IT_SHOULD,
    EXIT_USAGE,
    ConfigOption,
    console,
    fail,
    load_config,
)
from consumer.config import WorkerConfig
from consumer.demo.board import Board
from consumer.demo.output import (
    LOG_NAME,
    PAGE_NAME,
    SLOTS_NAME,
    TRACE_NAME,
    OutputError,
    check_output,
    prepare_output,
)
from consumer.demo.progress import follow, live_table
from consumer.demo.recipes import our_ticks, own_recipe, own_tick
from consumer.demo.run import collect, emit, make_topics, running_worker
from consumer.demo.summary import print_summary
from consumer.demo.voices import DEFAULT, installed_voices, speak_english
from consumer.embedded_kafka.cluster import EmbeddedKafka
from consumer.telemetry.logs import configure_logging
from consumer.telemetry.trace_file import read_trace_file
from consumer.telemetry.tracing import configure_tracing
from schemas import Recipe
from schemas.describe import describe_validation_error

NO_ENGLISH_VOICE = (
    "No English voice is installed: Japanese speakers read the scripts, with an accent."
)
PROGRESS_TOPIC = "slot.progress"
_OWN = "One slot of your own"


def demo(
    config: ConfigOption = None,
    output: Annotated[
        Path,
        typer.Option(
            help="Directory for page, videos, trace and log: a new or an empty one, or that of an"
            " earlier demo, whose files are replaced. Any other is refused."
        ),
    ] = Path("demo-output"),
    prompt: Annotated[
        str | None, typer.Option(help="Description of the portrait.", rich_help_panel=_OWN)
    ] = None,
    script: Annotated[
        str | None, typer.Option(help="Words to speak.", rich_help_panel=_OWN)
    ] = None,
    voice: Annotated[
        str | None, typer.Option(help="A voice of the models'.", rich_help_panel=_OWN)
    ] = None,
    emotion: Annotated[
        str | None,
        typer.Option(help="neutral, excited, sad, angry or manic.", rich_help_panel=_OWN),
    ] = None,
    expression: Annotated[
        list[str] | None,
        typer.Option(
            help="neutral, excited, manic or calm; several are shown one after another.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            help="Length of the video in seconds, to 45; by default as long as the script,"
            " 6 to 15. Longer speech is cut at a sentence.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides all that is random.", rich_help_panel=_OWN)
    ] = None,
    stay: Annotated[
        bool,
        typer.Option("--stay", help="Keep Kafka, worker and control room running until Ctrl-C."),
    ] = False,
) -> None:
    """Start Kafka and a worker, emit six ticks, and show what becomes of each.

    Four can be made, one is already past its deadline, one cannot be read. With any of the options
    for one of your own there is one tick instead. Exit code 0 only if each has exactly the outcome
    that it should have. The videos stand on one page, `index.html` in the output directory.

    Example: `vortex demo --prompt "A man with a beard in a red coat" --script "Good morning."`
    """
    started = time.monotonic()
    own: Recipe | None = None
    own_options = (prompt, script, voice, emotion, expression or None, duration, seed)
    if any(option is not None for option in own_options):
        try:
            own = own_recipe(
                prompt=prompt,
                script=script,
                voice=DEFAULT if voice is None else voice,
                emotion="neutral" if emotion is None else emotion,
                expressions=expression or (),
                duration_s=duration,
                seed=seed,
            )
        except ValidationError as error:
            fail(describe_validation_error(error), EXIT_USAGE)
    try:
        check_output(output)
        output = output.resolve()
        settings = _directed_to(output, load_config(config))
        prepare_output(output)
    except OutputError as error:
        fail(str(error), EXIT_USAGE)
    with (output / LOG_NAME).open("w") as log, console.status("loading") as status:
        configure_logging("INFO", "json", stream=log)
        _build_models(settings, status.update)
        configure_logging("INFO", "json", stream=log)  # libraries have added handlers meanwhile
        voices = installed_voices(settings.models.profile_directory)
        notes = [NO_ENGLISH_VOICE] if voices and not speak_english(voices) else []
        if own is not None:
            _check_voice(own.audio_track.voice_id, voices)
        board = Board(our_ticks(voices) if own is None else [own_tick(own)])
        tracing = configure_tracing(settings.telemetry, exporter_from_environment=False)
        try:
            with EmbeddedKafka(progress=status.update) as kafka:
                topics = settings.kafka.topics.model_copy(update={"progress": PROGRESS_TOPIC})
                servers = kafka.bootstrap_servers
                settings = _changed(settings, "kafka", bootstrap_servers=servers, topics=topics)
                status.update("starting a worker: loading models, making a slot to warm up")
                asyncio.run(_serve(settings, board, status, stay=stay))
        finally:
            tracing.shutdown()
    _show(settings, board, output, notes, time.monotonic() - started)


def _directed_to(output: Path, settings: WorkerConfig) -> WorkerConfig:
    """Return the settings with videos and trace in the output directory, and all in one process.

    Its one log is a file, and it should begin soon: an engine process would load the libraries once
    more.
    """
    settings = _changed(settings, "engine", host="inline")
    settings = _changed(settings, "artifacts", url=str(output / SLOTS_NAME))
    return _changed(settings, "telemetry", exporter="file", file=output / TRACE_NAME)


def _changed(settings: WorkerConfig, section: str, **keys: object) -> WorkerConfig:
    changed = getattr(settings, section).model_copy(update=keys)
    return settings.model_copy(update={section: changed})


def _build_models(settings: WorkerConfig, report: Callable[[str], None]) -> None:
    directory = settings.models.profile_directory
    if settings.models.profile == "mini":
        from vortex.models.mini import build_mini

        build_mini(directory, progress=lambda part: report(f"building {part}"))


def _check_voice(voice: str, installed: Sequence[str]) -> None:
    if installed and voice not in (DEFAULT, *installed):
        known = ", ".join((DEFAULT, *installed))
        fail(f"--voice {voice} is not among the models' voices: {known}", EXIT_USAGE)


async def _serve(settings: WorkerConfig, board: Board, status: Status, *, stay: bool) -> None:
    from consumer.control_room.serving import serving  # needs the extra `demo`

    await make_topics(settings.kafka)
    async with (
        serving(settings, "127.0.0.1", 0, since_s=None) as room,
        running_worker(settings, follow(board)) as worker,
    ):
        status.stop()
        _show_line("control room", f"{room.address} (as long as the demo runs)")
        with live_table(board, console):
            await emit(settings, board)
            await collect(settings, board, worker)
        if stay:
            _show_line("kafka", settings.kafka.bootstrap_servers)
            with (
                console.status("serving your own ticks until Ctrl-C"),
                suppress(asyncio.CancelledError),
            ):
                await asyncio.wait({worker})


def _show(
    settings: WorkerConfig, board: Board, output: Path, notes: list[str], seconds: float
) -> None:
    """Write sheet and page, print the summary, and end with exit code 1 if anything is amiss."""
    from consumer.demo.page import write_page  # needs the extra `demo`

    videos = _whole_videos(settings, board)
    spans = read_trace_file(output / TRACE_NAME)
    write_page(output, board, videos, spans, settings=settings, notes=notes, seconds=seconds)
    print_summary(console, board, videos, spans, relative_to=output)
    files = {"page": PAGE_NAME, "videos": SLOTS_NAME, "trace": TRACE_NAME, "log": LOG_NAME}
    for name, path in files.items():
        _show_line(name, str(output / path))
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)
    console.print(board.verdict(seconds), highlight=False)
    if not board.as_it_should_be or len(videos) < len(list(board.made())):
        raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)


def _show_line(name: str, value: str) -> None:
    console.print(f"{name:<14}{value}", highlight=False, soft_wrap=True, markup=False)


def _whole_videos(settings: WorkerConfig, board: Board) -> dict[int, Path]:
    """Return the files of the finished slots, those that have their published checksum."""
    store = ArtifactStore(settings.artifacts.url, settings.artifacts.storage_options)
    return {
        made.slot_id: Path(strip_protocol(made.artifact.uri))
        for _, made in board.made()
        if store.is_whole(made.artifact.uri, made.artifact.sha256)
    }
