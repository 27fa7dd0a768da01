"""`vortex worker`: pause, resume and drain the worker of this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from consumer.cli.common import (
    EXIT_MISSING,
    EXIT_NOT_AS_IT_SHOULD,
    EXIT_USAGE,
    ConfigOption,
    console,
    fail,
    load_config,
)
from consumer.control import ControlError, Order, order

POLL_S = 0.2

app = typer.Typer(
    help="Pause, resume and drain one worker, through its control.socket.", no_args_is_help=True
)

SocketOption = Annotated[
    Path | None, typer.Option("--socket", help="Default: control.socket of the configuration.")
]


@app.command()
def status(config: ConfigOption = None, socket: SocketOption = None) -> None:
    """Show what the worker is doing, and what keeps it from serving."""
    _say(_order("status", config, socket))


@app.command()
def pause(config: ConfigOption = None, socket: SocketOption = None) -> None:
    """Have the worker begin no slot until `resume`.

    The slot in the making is finished. The worker stays in its group, keeps its partitions, reads
    ticks and answers those that can wait no longer: what is paused for long is missed. It is not
    ready meanwhile.
    """
    _say(_order("pause", config, socket))


@app.command()
def resume(config: ConfigOption = None, socket: SocketOption = None) -> None:
    """Have a paused worker go on."""
    _say(_order("resume", config, socket))


@app.command()
def drain(
    config: ConfigOption = None,
    socket: SocketOption = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for its end; exit code 1 if it goes on.")
    ] = 0.0,
) -> None:
    """Have the worker finish what it can within kafka.shutdown_grace_s, and end, as by SIGTERM.

    It reads no more; slots that do not fit are left to other workers. Whoever restarts processes
    that end, such as Kubernetes, starts another one.
    """
    path = _path(config, socket)
    _say(_order("drain", config, path))
    end_s = time.monotonic() + wait
    while wait and path.exists():
        if time.monotonic() > end_s:
            console.print("it has not ended yet")
            raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)
        time.sleep(POLL_S)


def _path(config: Path | None, given: Path | None) -> Path:
    path = given or load_config(config).control.socket
    if path is None:
        fail("control.socket is null; set it for the worker and here, or --socket", EXIT_USAGE)
    return path


def _order(what: Order, config: Path | None, socket: Path | None) -> dict[str, Any]:
    try:
        return order(_path(config, socket), what)
    except ControlError as error:
        fail(str(error), EXIT_MISSING)


def _say(status: dict[str, Any]) -> None:  # Any: the worker's JSON
    if "error" in status:
        fail(str(status["error"]), EXIT_USAGE)
    line = f"{status['worker']} is {status['state']}: {status['making']} in the making,"
    line += f" {status['waiting']} waiting"
    problems = [f"{name} {why}" for name, why in status["problems"].items()]
    console.print("; ".join([line, *problems]), highlight=False, markup=False, soft_wrap=True)
