"""`vortex dead-letters`: which ticks were not made, what they hold, and giving one another go."""

from __future__ import annotations

import asyncio
import json as json_module
import re
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from consumer.cli.common import (
    EXIT_MISSING,
    EXIT_NOT_AS_IT_SHOULD,
    EXIT_USAGE,
    ConfigOption,
    complain,
    fail,
    load_config,
)
from consumer.kafka.letters import (
    LetterError,
    StoredLetter,
    latest_letters,
    read_letter,
    replay_headers,
    replay_value,
    write_tick,
)
from schemas import MAX_TICK_BYTES

TIMEOUT_S = 60.0
_PLACE = re.compile(r"(?:(?P<topic>[A-Za-z0-9._-]+)/)?(?P<partition>[0-9]+)[@/](?P<offset>[0-9]+)")
_SECRET = re.compile(r"authorization|password|secret|token|api[._-]?key|cookie", re.IGNORECASE)

T = TypeVar("T")

app = typer.Typer(
    help="Dead letters: what could not be read or was skipped, and its way back to the ticks.",
    no_args_is_help=True,
)

PlaceArgument = Annotated[
    str, typer.Argument(metavar="PARTITION@OFFSET", help="In the topic of dead letters, as listed.")
]


@app.command(name="list")
def list_letters(
    config: ConfigOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    json: Annotated[bool, typer.Option("--json", help="One dead letter a line.")] = False,
) -> None:
    """List the latest dead letters, oldest first: where it is, which tick it was, and why.

    Example: `vortex dead-letters list --limit 10`
    """
    letters, strange = _run(latest_letters(load_config(config).kafka, limit))
    for stored in letters:
        typer.echo(json_module.dumps(_described(stored)) if json else _line(stored))
    if strange:
        complain(f"left out: {strange} records that are no dead letters of a worker's")


@app.command()
def show(
    place: PlaceArgument,
    config: ConfigOption = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the bytes of the value alone, to mend them.")
    ] = False,
) -> None:
    """Show one dead letter; what a terminal would obey is escaped, headers with secrets are masked.

    Example: `vortex dead-letters show 0@12 --raw > mended.json`
    """
    stored = _read(place, config)
    if raw:
        typer.echo(stored.record.value or b"", nl=False)
        return
    typer.echo(_line(stored))
    typer.echo(f"key: {_printable(stored.record.key)}")
    for name, value in stored.record.headers:
        shown = "**********" if _SECRET.search(name) else _printable(value)
        typer.echo(f"{_printable(name.encode())}: {shown}")
    typer.echo(f"\n{_printable(stored.record.value, keep=chr(10))}")


@app.command()
def replay(
    place: PlaceArgument,
    config: ConfigOption = None,
    value: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write this file's bytes instead.", dir_okay=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Write a dead letter to the ticks again: a new tick, which gets an outcome of its own.

    Key and headers are those of the tick that it was. With --value a signature is left out, since
    it is of the other bytes. The dead letter stays where it is; its deadline is not moved.

    Example: `vortex dead-letters replay 0@12 --value mended.json`
    """
    stored = _read(place, config)
    kafka = load_config(config).kafka
    mended = None if value is None else _content(value)
    try:
        content = replay_value(stored, mended)
    except LetterError as error:
        fail(str(error), EXIT_USAGE)
    what = "its value as it came" if value is None else f"the value of {value}"
    typer.echo(_line(stored))
    question = f"Write {what}, {len(content)} bytes, to {kafka.topics.ticks}?"
    if not yes and not typer.confirm(question):
        raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)
    headers = replay_headers(stored, mended=mended is not None)
    at = _run(
        write_tick(kafka, stored.record.key, content, headers),
        if_late="it may be written all the same: look for its outcome before you replay it again",
    )
    typer.echo(f"replayed: {at.topic}/{at.partition}@{at.offset}")


def _run(work: Coroutine[Any, Any, T], if_late: str = "is it well?") -> T:
    async def bounded() -> T:
        async with asyncio.timeout(TIMEOUT_S):
            return await work

    try:
        return asyncio.run(bounded())
    except LetterError as error:
        fail(str(error), EXIT_USAGE)
    except TimeoutError:
        fail(f"Kafka did not answer within {TIMEOUT_S:g} s; {if_late}", EXIT_MISSING)


def _read(place: str, config: Path | None) -> StoredLetter:
    kafka = load_config(config).kafka
    found = _PLACE.fullmatch(place)
    if found is None or found["topic"] not in (None, kafka.topics.dead_letter):
        fail(
            f"{place}: must be PARTITION@OFFSET of kafka.topics.dead_letter, such as 0@12 or"
            f" {kafka.topics.dead_letter}/0@12",
            EXIT_USAGE,
        )
    return _run(read_letter(kafka, int(found["partition"]), int(found["offset"])))


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_TICK_BYTES + 1)  # no more is needed to refuse it
    except OSError as error:
        fail(f"--value: {path} cannot be read: {error.strerror}", EXIT_USAGE)


def _described(stored: StoredLetter) -> dict[str, Any]:
    record, letter = stored.record, stored.letter
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "source": letter.source.model_dump(mode="json"),
        "reason": letter.reason,
        "bytes": stored.size,
        "time": _time(record.timestamp),
    }


def _line(stored: StoredLetter) -> str:
    of = stored.letter.source
    source = _printable(f"{of.topic}/{of.partition}@{of.offset}".encode())
    reason = _printable(stored.letter.reason.encode())
    return f"{stored.place}  {_time(stored.record.timestamp)}  {stored.size} B  {source}  {reason}"


def _time(timestamp_ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return "?"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _printable(value: bytes | None, keep: str = "") -> str:
    """Return text whose bytes that are no UTF-8, and whose control characters, are escaped."""
    if value is None:
        return "(none)"
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode()
        for each in value.decode(errors="backslashreplace")
    )
