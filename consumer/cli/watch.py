"""`vortex watch`: follow results."""

from __future__ import annotations

import asyncio
import json as json_module
import time
from contextlib import aclosing
from typing import Annotated

import typer
from rich.markup import escape

from consumer.cli.common import EXIT_NOT_AS_IT_SHOULD, ConfigOption, console, load_config
from consumer.config import KafkaConfig
from consumer.results import DeadLetter, Result, read_results
from schemas import SlotComplete, outcome_json


def watch(
    config: ConfigOption = None,
    from_start: Annotated[bool, typer.Option(help="Also show earlier results.")] = False,
    count: Annotated[int | None, typer.Option(help="Stop after this many results.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Stop after this many seconds; exit code 1 if too few came."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON event per line.")] = False,
) -> None:
    """Show outcomes and dead letters as they are published; Ctrl-C stops.

    Example: `vortex watch --from-start --count 10 --timeout 60 --json`
    """
    settings = load_config(config)
    seen = asyncio.run(_follow(settings.kafka, from_start, count, timeout, as_json=json))
    if count is not None and seen < count:
        raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)


async def _follow(
    kafka: KafkaConfig, from_start: bool, count: int | None, timeout: float | None, *, as_json: bool
) -> int:
    end_s = None if timeout is None else time.monotonic() + timeout
    seen = 0
    async with aclosing(read_results(kafka, from_start=from_start)) as results:
        async for result in results:
            if result is not None:
                seen += 1
                console.print(
                    _as_json(result) if as_json else describe(result),
                    soft_wrap=True,
                    markup=not as_json,
                    highlight=False,
                )
            if (count is not None and seen >= count) or (
                end_s is not None and time.monotonic() >= end_s
            ):
                break
    return seen


def describe(result: Result) -> str:
    """Return one line for people, with rich's markup."""
    if isinstance(result, DeadLetter):
        at = result.source
        where = escape(f"{at.topic}[{at.partition}]@{at.offset}")
        return f"[red]dead letter[/]      {where}  {escape(result.reason)}"
    slot = f"{result.channel}/{result.slot_id}"
    if result.handed_over is not None:
        slot += f" {escape(f'({result.handed_over.worker} → {result.worker.id})')}"
    if isinstance(result, SlotComplete):
        slack = f"{result.slack_ms / 1000:.1f} s early"
        return f"[green]slot-complete[/]    {slot}  {slack}  {escape(result.artifact.uri)}"
    return f"[yellow]deadline-missed[/]  {slot}  {result.reason.value}: {escape(result.detail)}"


def _as_json(result: Result) -> str:
    if isinstance(result, DeadLetter):
        letter = {
            "type": "dead-letter",
            "source": result.source.model_dump(mode="json"),
            "reason": result.reason,
        }
        return json_module.dumps(letter)
    return outcome_json(result).decode()
