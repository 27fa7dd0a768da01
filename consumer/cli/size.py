"""`vortex size`: how many GPUs a recorded load needs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from consumer.cli.common import EXIT_NOT_AS_IT_SHOULD, ConfigOption, console, load_config
from consumer.kafka.clients import KafkaUnreachableError
from consumer.simulation.recorded import Recorded, UnreadableRecordingError, read_recorded
from consumer.simulation.recorded_topic import read_recorded_topic
from consumer.simulation.sizing import Size, Sizing, fewest

TARGETS = (0.9, 0.95, 0.99, 0.995, 0.999)


def size(
    trace: Annotated[
        str, typer.Option(help="A worker's trace file, or a topic of ticks.", metavar="FILE|TOPIC")
    ],
    target: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the slots that are to be on time.")
    ] = 0.99,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Of the ticks; default: as recorded."),
    ] = None,
    most: Annotated[int, typer.Option(min=1, max=1000, help="Try no more GPUs.")] = 64,
    config: ConfigOption = None,
) -> None:
    """Say how many GPUs a recorded load needs, with and without handover, and what targets cost.

    The load is served again in virtual time, by fleets of several sizes with one worker for each
    GPU: a thousand slots take about a minute. From a file come the ticks of the worker that wrote
    it (telemetry.exporter: file); from a topic the latest 20,000 ticks, with the times that their
    outcomes tell. A slot that was not made counts with the usual time. Bound to its partitions, a
    fleet of more workers than these is no better: where that is not enough, the table says never.

    Exit code 1: the target needs more than --most GPUs also with handover.

    Examples: `vortex size --trace traces.jsonl`, `vortex size --trace slot.ticks --target 0.999`
    """
    recorded = _recorded(trace, config)
    sizing = Sizing(recorded, partitions)
    table = Table(
        "target", "GPUs, bound", "on time", "GPUs, handover", "on time", "busy", "one queue",
        box=None,
    )  # fmt: skip
    # Bound to partitions, more workers than these would have nothing to do.
    most_bound = min(most, sizing.partitions or most)
    beyond = "never" if most_bound == sizing.partitions else f"above {most}"
    needed: Size | None = None
    with console.status("serving the load") as status:
        for share in sorted({*TARGETS, target}):
            status.update(f"serving the load, for {share:.2%} on time")
            bound = fewest(sizing.bound, share, most_bound)
            handed = fewest(sizing.handed_over, share, most)
            one = fewest(sizing.one_queue, share, most)
            needed = handed if share == target else needed
            busy = "" if handed is None else f"{min(1.0, recorded.load / handed.workers):.0%}"
            table.add_row(
                f"{share:.1%}",
                *_told(bound, beyond),
                *_told(handed, f"above {most}"),
                busy,
                _told(one, f"above {most}")[0],
            )
    console.print(
        f"{len(recorded.slots):,} slots, {recorded.load:.1f} seconds of work a second,"
        f" {_partitions(sizing)}",
        highlight=False,
    )
    console.print(table, soft_wrap=True)
    if needed is None:
        console.print(f"{target:.1%} on time needs more than {most} GPUs", highlight=False)
        raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)
    console.print(f"{target:.1%} on time: {needed.workers} GPUs with handover", highlight=False)


def _recorded(trace: str, config: Path | None) -> Recorded:
    if Path(trace).exists():
        return read_recorded(Path(trace))
    try:
        return asyncio.run(read_recorded_topic(load_config(config).kafka, trace))
    except KafkaUnreachableError as error:
        raise UnreadableRecordingError(f"{trace}: is no file, and as a topic: {error}") from error


def _told(size: Size | None, beyond: str) -> tuple[str, str]:
    return (beyond, "") if size is None else (str(size.workers), f"{size.on_time:.1%}")


def _partitions(sizing: Sizing) -> str:
    if sizing.partitions is None:
        return "a partition for each GPU"
    return f"{sizing.partitions} partitions"
