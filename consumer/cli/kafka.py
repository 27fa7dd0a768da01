"""`vortex kafka`: a broker for development, and topics."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from consumer.cli.common import EXIT_NOT_AS_IT_SHOULD, ConfigOption, console, load_config
from consumer.embedded_kafka.jars import cache_directory
from consumer.embedded_kafka.local_broker import LocalBroker, local_status, start_local, stop_local
from consumer.kafka.clients import make_admin
from consumer.kafka.topics import create_topics

app = typer.Typer(
    help="A real Apache Kafka broker for development, and the topics.", no_args_is_help=True
)

DirectoryOption = Annotated[
    Path | None, typer.Option(help="Where the broker keeps its data; default: in the user's cache.")
]


@app.command()
def start(
    directory: DirectoryOption = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1; default: 9092.")
    ] = None,
) -> None:
    """Start a broker on 127.0.0.1 that outlives this command, unless it is already running.

    The first start fetches Apache Kafka (about 50 MB) from Maven Central.
    """
    with console.status("starting Kafka") as status:
        broker = start_local(_directory(directory), port, progress=status.update)
    _say(broker)


@app.command()
def stop(directory: DirectoryOption = None) -> None:
    """Stop the broker; its data is kept."""
    stopped = stop_local(_directory(directory))
    console.print("stopped" if stopped else "no broker was running")


@app.command()
def status(directory: DirectoryOption = None) -> None:
    """Show whether the broker is running; exit code 1 if not."""
    broker = local_status(_directory(directory))
    if broker is None:
        console.print("no broker is running; start one with `vortex kafka start`")
        raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)
    _say(broker)


@app.command(name="create-topics")
def create(
    config: ConfigOption = None,
    partitions: Annotated[
        int, typer.Option(min=1, help="Partitions of ticks, results and handovers.")
    ] = 4,
    replication: Annotated[int, typer.Option(min=1, help="Copies of each partition.")] = 1,
) -> None:
    """Create the configured topics that do not exist."""
    kafka = load_config(config).kafka
    names = kafka.topics
    wanted = {names.ticks: partitions, names.results: partitions, names.dead_letter: 1}
    wanted |= {name: 1 for name in (names.progress, names.control) if name is not None}
    if names.handover is not None and names.workers is not None:
        wanted |= {names.handover: partitions, names.workers: 1}

    async def create_missing() -> None:
        admin = make_admin(kafka, client_id="vortex-kafka")
        await create_topics(
            admin,
            wanted,
            replication_factor=replication,
            compacted=[] if names.workers is None else [names.workers],
        )

    asyncio.run(create_missing())
    console.print(f"topics are there: {', '.join(wanted)}", highlight=False)


def _directory(given: Path | None) -> Path:
    return given or cache_directory() / "local-broker"


def _say(broker: LocalBroker) -> None:
    console.print(
        f"Kafka runs at {broker.bootstrap_servers} (process {broker.pid}, log {broker.log_path})",
        highlight=False,
        soft_wrap=True,
    )
