"""`vortex simulate`: what a worker, or a fleet of them, would make of some traffic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from consumer.cli.common import console
from consumer.planning import Rung
from consumer.simulation.fleet import ANNOUNCED_LATE_S, SESSION_S, Fleet, FleetRun, compare
from consumer.simulation.recorded import read_recorded
from consumer.simulation.report import SharesOverTime, Simulated, plot
from consumer.simulation.traces import Traffic
from vortex.rung import FULL


class Shape(StrEnum):
    """How slots arrive."""

    STEADY = "steady"
    BURSTY = "bursty"
    DIURNAL = "diurnal"


def simulate(
    traffic: Annotated[Shape, typer.Option(help="How slots arrive.")] = Shape.STEADY,
    load: Annotated[
        float,
        typer.Option(
            min=0.01, max=100, help="Seconds of work that arrive in a second, for each worker."
        ),
    ] = 1.2,
    slots: Annotated[int, typer.Option(min=1, max=20_000, help="Slots in all.")] = 600,
    seed: Annotated[int, typer.Option(help="Same seed, same traffic.")] = 0,
    recorded: Annotated[
        Path | None,
        typer.Option(help="A worker's trace file, instead of traffic that is made up."),
    ] = None,
    rungs: Annotated[
        str, typer.Option(help="Shares of a slot's work that may be done, such as 1,0.75,0.5.")
    ] = "1",
    workers: Annotated[
        int, typer.Option(min=1, max=1000, help="Workers of one group, each with a GPU.")
    ] = 1,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Of the ticks; default: one for each worker."),
    ] = None,
    busier: Annotated[
        float,
        typer.Option(
            min=0.01, max=100, help="Each partition of the first half gets so many times the ticks."
        ),
    ] = 1.0,
    dies: Annotated[
        list[str] | None,
        typer.Option(help="WORKER@SECOND, such as 0@600; may be repeated.", metavar="W@S"),
    ] = None,
    session_s: Annotated[
        float,
        typer.Option(min=0, help="So long after, others get its ticks: kafka.session_timeout_s."),
    ] = SESSION_S,
    announced_late_s: Annotated[
        float, typer.Option(min=0, help="How long what workers tell each other is on its way.")
    ] = ANNOUNCED_LATE_S,
    plot_to: Annotated[
        Path | None, typer.Option("--plot", help="Draw it: a file such as run.svg.")
    ] = None,
) -> None:
    """Serve slots in virtual time, with the worker's own planner, estimates and scheduler.

    Says how many are on time, of how many at best, at what quality, and what was wasted; hours of
    traffic take seconds. With a trace file, it tells what a ladder would have saved.

    With several workers it compares two fleets on the same traffic: one whose slots stay where
    their tick was read, and one that hands over (kafka.topics.handover); and, as a reference that
    Kafka does not offer, as many GPUs that share one queue. `vortex size` finds the number of
    workers for a recorded load.

    Examples: `vortex simulate --traffic bursty --load 1.5 --rungs 1,0.75,0.5`, and
    `vortex simulate --workers 8 --load 0.9 --busier 1.9 --dies 3@300`
    """
    known = read_recorded(recorded) if recorded else None
    trace = known.slots if known else _traffic(traffic, load * workers, slots).trace(seed)
    runs: Mapping[str, SharesOverTime]
    if workers > 1:
        read_from = known.partitions if known and partitions is None else None
        if read_from and busier != 1:
            raise typer.BadParameter(
                "--busier: the recording says which are; replace them by --partitions"
            )
        fleet = Fleet(
            workers,
            max(read_from) + 1 if read_from else partitions or workers,
            busier=busier,
            dies=_deaths(dies or (), workers),
            session_s=session_s,
            announced_late_s=announced_late_s,
            ladder=_ladder(rungs),
        )
        runs = fleets = compare(trace, fleet, seed, read_from)
        console.print(_table(fleets, _OF_FLEET), soft_wrap=True)
    elif partitions or busier != 1 or dies:
        raise typer.BadParameter("--partitions, --busier and --dies need --workers above 1")
    else:
        runs = one = {"1 worker": Simulated.of(trace, _ladder(rungs))}
        console.print(_table(one, _OF_ONE), soft_wrap=True)
    if plot_to is not None:
        plot(runs, plot_to)


def _deaths(texts: Sequence[str], workers: int) -> tuple[tuple[float, int], ...]:
    deaths = tuple(_death(text, workers) for text in texts)
    if len({worker for _, worker in deaths}) == workers:
        raise typer.BadParameter("--dies: one worker must live on")
    return deaths


def _death(text: str, workers: int) -> tuple[float, int]:
    try:
        worker, second = text.split("@")
        moment = float(second), int(worker)
    except ValueError as error:
        raise typer.BadParameter(f"--dies: must be WORKER@SECOND, got {text}") from error
    if not (0 <= moment[1] < workers and moment[0] >= 0):
        raise typer.BadParameter(f"--dies: must name one of {workers} workers, from 0, got {text}")
    return moment


def _traffic(shape: Shape, load: float, slots: int) -> Traffic:
    match shape:
        case Shape.BURSTY:
            return Traffic(load, slots, burst=10)
        case Shape.DIURNAL:
            return Traffic(load, slots, day_s=3600.0)
        case _:
            return Traffic(load, slots)


def _ladder(rungs: str) -> tuple[Rung, ...]:
    try:
        shares = [float(share) for share in rungs.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--rungs: must be numbers such as 1,0.5, got {rungs}") from error
    if not all(0 < share <= 1 for share in shares) or shares != sorted(shares, reverse=True):
        raise typer.BadParameter(f"--rungs: must fall, above 0 and up to 1, got {rungs}")
    return tuple(FULL if share == 1 else Rung(f"{share:g}", share, share) for share in shares)


_OF_ONE: dict[str, Callable[[Simulated], str]] = {
    "slots": lambda run: f"{run.slots:,}",
    "on time": lambda run: f"{run.on_time:,} ({run.on_time / run.slots:.1%})",
    "at best, arrivals known": lambda run: f"{run.possible_predicted:,.0f}",
    "at best, all known, lowest rung": lambda run: f"{run.possible:,.0f}",
    "mean quality": lambda run: f"{run.quality:.2f}",
    "GPU seconds wasted": lambda run: f"{run.wasted_s:,.0f}",
    "given up": lambda run: f"{run.given_up:,}",
    "of these wrongly": lambda run: f"{run.wrong:,}",
    "median lead, s": lambda run: f"{run.lead_s:.0f}",
}
_OF_FLEET: dict[str, Callable[[FleetRun], str]] = {
    "slots": lambda run: f"{run.slots:,}",
    "on time": lambda run: f"{run.on_time:,} ({run.on_time / run.slots:.1%})",
    "mean quality": lambda run: f"{run.quality:.2f}",
    "handed over": lambda run: f"{run.handed_over:,} ({run.handed_over / run.slots:.1%})",
    "of these on time": lambda run: f"{run.handed_over_on_time:,}",
    "announcements a slot": lambda run: f"{run.announced / run.slots:.1f}",
    "read again after a death": lambda run: f"{run.read_again:,}",
    "given up without work": lambda run: f"{run.given_up:,}",
    "GPU seconds wasted": lambda run: f"{run.wasted_s:,.0f}",
    "GPU seconds, busiest": lambda run: f"{max(run.worked_by):,.0f}",
    "GPU seconds, idlest": lambda run: f"{min(run.worked_by):,.0f}",
}
T = TypeVar("T")


def _table(runs: Mapping[str, T], figures: Mapping[str, Callable[[T], str]]) -> Table:
    table = Table("", *runs, box=None)
    for name, figure in figures.items():
        table.add_row(name, *(figure(run) for run in runs.values()))
    return table
