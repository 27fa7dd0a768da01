"""`vortex tick`: emit ticks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.progress import Progress

from consumer.cli.common import EXIT_MISSING, EXIT_USAGE, ConfigOption, console, fail, load_config
from consumer.config import KafkaConfig
from consumer.emitter import TickEmitter
from consumer.telemetry.tracing import configure_tracing
from schemas import SlotTick
from schemas.describe import describe_validation_error
from vortex.errors import one_line

if TYPE_CHECKING:
    from schemas.signing import TickSigner

DEFAULT_SCRIPT = "Good evening. This is a test of the slot service. Thank you for watching."
DEFAULT_PROMPT = "A portrait of a news presenter in front of a blue wall"


def tick(
    config: ConfigOption = None,
    slot_id: Annotated[int, typer.Option(min=0, help="Slot of the first tick.")] = 0,
    deadline: Annotated[float, typer.Option(help="Seconds from emission to the deadline.")] = 45,
    channel: Annotated[str, typer.Option(help="Programme that the slot belongs to.")] = "main",
    script: Annotated[str, typer.Option(help="Words to speak.")] = DEFAULT_SCRIPT,
    prompt: Annotated[str, typer.Option(help="Description of the portrait.")] = DEFAULT_PROMPT,
    voice: Annotated[str, typer.Option(help="A voice installed on the worker.")] = "default",
    emotion: Annotated[
        str, typer.Option(help="neutral, excited, sad, angry or manic.")
    ] = "neutral",
    speed: Annotated[float, typer.Option(help="Tempo of the speech, 0.8 to 1.2.")] = 1.0,
    duration: Annotated[
        float, typer.Option(help="Length of the video in seconds, at most 45.")
    ] = 6.0,
    fps: Annotated[int, typer.Option(help="Frames per second, 1 to 60.")] = 12,
    resolution: Annotated[str, typer.Option(help="Width x height in pixels.")] = "128x128",
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="YAML or JSON with a recipe, a tick, or a list of them; replaces the flags."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of ticks; slot ids count up.")] = 1,
    rate: Annotated[float, typer.Option(min=0.001, help="Ticks per second.")] = 1.0,
    sign: Annotated[
        Path | None,
        typer.Option(metavar="KEYFILE", help="PEM file with an Ed25519 private key to sign with."),
    ] = None,
) -> None:
    """Emit one tick or many, and print the Kafka position of each.

    Examples:

    `vortex tick --slot-id 7 --deadline 30 --script "Good morning."`

    `vortex tick --file recipe.yaml --count 100 --rate 2`
    """
    settings = load_config(config)
    if file is None:
        recipe = {
            "slot_params": {"duration_sec": duration, "fps": fps, "resolution": resolution},
            "audio_track": {
                "script": script,
                "voice_id": voice,
                "emotion": emotion,
                "speed": speed,
            },
            "visual_track": {"prompt": prompt},
            "seed": seed,
        }
        documents: list[dict[str, Any]] = [{"recipe": recipe}]
    else:
        documents = list(_read(file))
    defaults = {"slot_id": slot_id, "channel": channel, "deadline_s": deadline}
    for number in range(len(documents)):
        _make(documents[number], defaults, number)  # a wrong one is found before any is sent
    signer = None if sign is None else _signer(sign)
    tracing = configure_tracing(settings.telemetry)
    try:
        asyncio.run(_emit(settings.kafka, signer, documents, defaults, count, rate))
    finally:
        tracing.shutdown()


async def _emit(
    kafka: KafkaConfig,
    signer: TickSigner | None,
    documents: list[dict[str, Any]],
    defaults: dict[str, Any],
    count: int,
    rate: float,
) -> None:
    total = max(count, len(documents))
    loop = asyncio.get_running_loop()
    async with TickEmitter(kafka, signer) as emitter:
        started_s = loop.time()
        with Progress(console=console, disable=total < 20) as progress:
            task = progress.add_task("emitting", total=total)
            for number in range(total):
                await asyncio.sleep(max(0.0, started_s + number / rate - loop.time()))
                made = _make(documents[number % len(documents)], defaults, number)
                at = await emitter.emit(made)
                progress.advance(task)
                if progress.disable:
                    where = f"{at.topic}[{at.partition}]@{at.offset}"
                    due = _local_time(made.deadline)
                    console.print(f"slot {made.slot_id}  {where}  due {due}", highlight=False)


def _signer(path: Path) -> TickSigner:
    try:
        from schemas.signing import SigningKeyError, TickSigner
    except ModuleNotFoundError as error:
        fail(f"--sign needs the package {error.name}; install vortex-slots[signing]", EXIT_MISSING)
    try:
        return TickSigner.load(path)
    except SigningKeyError as error:
        fail(f"--sign: {error}", EXIT_USAGE)


def _read(file: Path) -> Iterator[dict[str, Any]]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        fail(f"{file}: {one_line(error)}", EXIT_USAGE)
    for document in content if isinstance(content, list) else [content]:
        if not isinstance(document, dict):
            fail(f"{file}: must hold a recipe, a tick, or a list of them", EXIT_USAGE)
        yield document if "recipe" in document else {"recipe": document}


def _after(now: datetime, seconds: float) -> datetime:
    try:
        return now + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        fail(f"--deadline: {seconds} seconds from now is no time; give fewer", EXIT_USAGE)


def _local_time(moment: datetime) -> str:
    try:
        return moment.astimezone().strftime("%H:%M:%S")
    except (OverflowError, OSError):  # the local time is in the year 0 or 10,000
        return moment.isoformat()


def _make(document: dict[str, Any], defaults: dict[str, Any], number: int) -> SlotTick:
    """Return the tick of a document; what it leaves open comes from the options."""
    now = datetime.now(UTC)
    deadline = (
        document["deadline"] if "deadline" in document else _after(now, defaults["deadline_s"])
    )
    tick = {
        "slot_id": defaults["slot_id"] + number,
        "channel": defaults["channel"],
        "emitted_at": now,
        **document,
        "deadline": deadline,
    }
    try:
        return SlotTick.model_validate(tick)
    except ValidationError as error:
        fail(f"tick {number}: {describe_validation_error(error)}", EXIT_USAGE)
