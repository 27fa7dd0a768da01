"""`vortex simulate`: what a worker would make of some traffic."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from consumer.cli.common import console
from consumer.planning import Rung
from consumer.simulation.recorded import read_recorded
from consumer.simulation.report import Simulated, plot
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
        float, typer.Option(min=0.01, max=100, help="Seconds of work that arrive in a second.")
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
    gpus: Annotated[int, typer.Option(min=1, max=64, help="Also with so many GPUs.")] = 1,
    plot_to: Annotated[
        Path | None, typer.Option("--plot", help="Draw it: a file such as run.svg.")
    ] = None,
) -> None:
    """Serve slots in virtual time, with the worker's own planner, estimates and scheduler.

    Says how many are on time, of how many at best, at what quality, and what was wasted; hours of
    traffic take seconds. With a trace file, it tells what another GPU or a ladder would have saved.

    Example: `vortex simulate --traffic bursty --load 1.5 --rungs 1,0.75,0.5 --gpus 2`
    """
    ladder = _ladder(rungs)
    trace = read_recorded(recorded) if recorded else _traffic(traffic, load, slots).trace(seed)
    runs = {_label(count): Simulated.of(trace, ladder, count) for count in dict.fromkeys((1, gpus))}
    console.print(_table(runs), soft_wrap=True)
    if plot_to is not None:
        plot(runs, plot_to)


def _label(gpus: int) -> str:
    return "1 GPU" if gpus == 1 else f"{gpus} GPUs"


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


def _table(runs: dict[str, Simulated]) -> Table:
    table = Table("", *runs, box=None)
    figures: dict[str, Callable[[Simulated], str]] = {
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
    for name, figure in figures.items():
        table.add_row(name, *(figure(run) for run in runs.values()))
    return table
