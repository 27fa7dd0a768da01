"""`vortex control-room`: one page that shows all workers."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from consumer.cli.common import EXIT_MISSING, ConfigOption, console, fail, load_config
from consumer.config import WorkerConfig


def control_room(
    config: ConfigOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8800,
    since: Annotated[float, typer.Option(min=0, help="Minutes of the past to show.")] = 10.0,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Show all that the topics hold.")
    ] = False,
) -> None:
    """Show every worker, slot and outcome on a page, from Kafka alone; Ctrl-C stops.

    Start it anywhere: it joins no group and writes nothing. Workers tell what they are at on
    kafka.topics.progress; without it the page shows ticks and outcomes. Whoever reaches the address
    sees everything: put a proxy that asks who it is in front of any address but this machine's.

    Example: `vortex control-room --config worker.yaml --since 60`
    """
    settings = load_config(config)
    since_s = None if from_start else 60 * since
    try:
        asyncio.run(_serve(settings, host, port, since_s))
    except OSError as error:
        fail(f"--host {host} --port {port} cannot be used: {error.strerror or error}", EXIT_MISSING)


async def _serve(settings: WorkerConfig, host: str, port: int, since_s: float | None) -> None:
    from consumer.control_room.serving import serving

    async with serving(settings, host, port, since_s) as served:
        console.print(f"control room: {served.address}", highlight=False, markup=False)
        await served.ended()
