"""`vortex run`: the worker."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from consumer.cli.common import ConfigOption, load_config
from consumer.config import WorkerConfig
from consumer.telemetry.logs import configure_logging
from consumer.telemetry.tracing import configure_tracing
from consumer.worker import Worker

TRACING_SHUTDOWN_S = 5.0


def run(
    config: ConfigOption = None,
    worker_id: Annotated[
        str | None, typer.Option(help="Name in outcomes and spans; default: host and process id.")
    ] = None,
) -> None:
    """Serve ticks until told to stop.

    SIGTERM or Ctrl-C: running slots are finished within the grace period, waiting ones that do not
    fit are left to other workers, and the command ends with exit code 0.

    Example: `VORTEX__KAFKA__BOOTSTRAP_SERVERS=broker:9092 vortex run --config worker.yaml`
    """
    settings = load_config(config)
    configure_logging(settings.logging.level, settings.logging.format)
    tracing = configure_tracing(settings.telemetry)
    try:
        asyncio.run(_serve(settings, worker_id))
    finally:
        tracing.shutdown(TRACING_SHUTDOWN_S)


async def _serve(settings: WorkerConfig, worker_id: str | None) -> None:
    from consumer.engine.inline import InlineEngine  # needs the extra `pipeline`

    worker = Worker(settings.kafka, InlineEngine(settings), worker_id=worker_id)
    loop = asyncio.get_running_loop()
    for stop in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop, worker.request_stop)
    await worker.run()
