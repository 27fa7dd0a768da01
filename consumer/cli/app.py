"""All commands of `vortex`, and how their failures are reported."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from consumer.cli import (
    cancel,
    config,
    control_room,
    dead_letters,
    demo,
    doctor,
    fake_worker,
    inspect,
    kafka,
    models,
    partitions,
    run,
    schemas,
    simulate,
    size,
    tick,
    watch,
    worker,
)
from consumer.cli.common import EXIT_MISSING, FAILURES, exit_code_of, fail


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"vortex {importlib.metadata.version('vortex-slots')}")
        raise typer.Exit


app = typer.Typer(
    name="vortex",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def _vortex(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Makes talking-head videos for slot ticks from Kafka, before their deadlines.

    New here? `vortex demo` starts everything it needs and follows six ticks end to end.

    Exit codes: 0 success; 1 some results are not as expected; 2 wrong usage or configuration;
    3 something required is missing or unreachable; 4 the worker failed unexpectedly, see the log
    and restart it.
    """


app.command(name="demo")(demo.demo)
app.command(name="run")(run.run)
app.command(name="tick")(tick.tick)
app.command(name="watch")(watch.watch)
app.command(name="cancel")(cancel.cancel)
app.command(name="control-room")(control_room.control_room)
app.command(name="simulate")(simulate.simulate)
app.command(name="size")(size.size)
app.command(name="doctor")(doctor.doctor)
app.command(name="fake-worker")(fake_worker.fake_worker)
app.command(name="inspect")(inspect.inspect)
app.command(name="schemas")(schemas.schemas)
app.add_typer(kafka.app, name="kafka")
app.add_typer(partitions.app, name="partitions")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(worker.app, name="worker")
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")


def run_app() -> None:
    """Run the command line; an expected failure is one line on standard error."""
    try:
        app()
    except FAILURES as error:
        fail(str(error), exit_code_of(error))
    except ModuleNotFoundError as error:
        fail(
            f"this command needs the package {error.name}; install vortex-slots[pipeline], or"
            " vortex-slots[demo] with the small models and an embedded Kafka",
            EXIT_MISSING,
        )
    except KeyboardInterrupt:
        sys.exit(130)
