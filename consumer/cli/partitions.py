"""`vortex partitions`: where the group stands in each input partition, and going past damage."""

from __future__ import annotations

import asyncio
import json as json_module
from dataclasses import asdict
from typing import Annotated

import typer
from aiokafka import TopicPartition
from rich.table import Table

from consumer.cli.common import (
    EXIT_MISSING,
    EXIT_NOT_AS_IT_SHOULD,
    EXIT_USAGE,
    ConfigOption,
    console,
    fail,
    load_config,
)
from consumer.config import KafkaConfig
from consumer.kafka.skip import SkipError, SkipPlan, plan_skip, skip
from consumer.kafka.stored import PartitionState, survey

SKIP_TIMEOUT_S = 120.0

app = typer.Typer(help="Input partitions: what is answered, what waits, what cannot be read.")


@app.callback(invoke_without_command=True)
def partitions(
    context: typer.Context,
    config: ConfigOption = None,
    json: Annotated[bool, typer.Option("--json", help="One partition a line.")] = False,
) -> None:
    """Show each input partition: committed offset, log end, lag, window in use, and damage.

    Asks Kafka alone; no worker need be there. Exit code 1 if a partition stands still, since its
    next record cannot be read.

    Example: `vortex partitions --json`
    """
    if context.invoked_subcommand is not None:
        return
    kafka = load_config(config).kafka
    states = asyncio.run(survey(kafka))
    if json:
        for state in states:
            line = {"topic": kafka.topics.ticks, **asdict(state), "lag": state.lag}
            typer.echo(json_module.dumps(line))
    else:
        console.print(_table(kafka, states))
    if any(state.standing_at is not None for state in states):
        raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)


@app.command(name="skip")
def skip_offsets(
    partition: Annotated[str, typer.Argument(metavar="TOPIC/PARTITION", help="As listed.")],
    config: ConfigOption = None,
    to: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Skip every tick below this offset that has no outcome, readable or not. Without"
            " it, only the first offsets that cannot be read are skipped.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Go past offsets that cannot be read: each gets a dead letter as its one outcome.

    Workers may run on: the one that has the partition is shut out for a moment, and goes on behind
    what was skipped.

    Example: `vortex partitions skip slot.ticks/3`
    """
    kafka = load_config(config).kafka
    at = _parse(partition, kafka)
    try:
        plan = asyncio.run(plan_skip(kafka, at, to))
    except SkipError as error:
        fail(str(error), EXIT_USAGE)
    console.print(_question(plan), highlight=False, soft_wrap=True, markup=False)
    if not yes and not typer.confirm("Write a dead letter for each and go on behind them?"):
        raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)
    try:
        skipped = asyncio.run(skip(kafka, plan, timeout_s=SKIP_TIMEOUT_S))
    except TimeoutError:
        fail(
            f"not all was skipped within {SKIP_TIMEOUT_S:g} s; what was is complete: look with"
            " `vortex partitions`, and call it again",
            EXIT_MISSING,
        )
    console.print(f"dead letters written: {len(skipped)}", highlight=False)


def _parse(partition: str, kafka: KafkaConfig) -> TopicPartition:
    topic, _, number = partition.rpartition("/")
    if topic != kafka.topics.ticks or not number.isdecimal():
        fail(
            f"{partition}: must be a partition of kafka.topics.ticks, such as"
            f" {kafka.topics.ticks}/0",
            EXIT_USAGE,
        )
    return TopicPartition(topic, int(number))


def _question(plan: SkipPlan) -> str:
    where = f"{plan.partition.topic}/{plan.partition.partition}"
    offsets = f"{plan.first} to {plan.end - 1}" if plan.end - plan.first > 1 else f"{plan.first}"
    if plan.unreadable_only:
        return f"{where}: cannot be read: {offsets} ({plan.reason})"
    return f"{where}: every tick without an outcome from {offsets}, readable or not"


def _table(kafka: KafkaConfig, states: list[PartitionState]) -> Table:
    table = Table(box=None)
    for name in ("partition", "committed", "log end", "lag", "window"):
        table.add_column(name, justify="left" if name == "partition" else "right")
    table.add_column("standing", overflow="fold")
    for state in states:
        standing = f"at {state.standing_at}: {state.standing_because}"
        table.add_row(
            f"{kafka.topics.ticks}/{state.partition}",
            "-" if state.committed is None else str(state.committed),
            str(state.log_end),
            str(state.lag),
            f"{state.window_used}/{kafka.window}",
            "no" if state.standing_at is None else f"[red]{standing}[/]",
        )
    return table
