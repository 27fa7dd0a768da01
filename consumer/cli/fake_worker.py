"""`vortex fake-worker`: a worker that makes no videos."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from consumer.cli.common import (
    EXIT_MISSING,
    EXIT_USAGE,
    ConfigOption,
    console,
    fail,
    load_config,
)
from consumer.cli.watch import describe
from consumer.telemetry.logs import configure_logging
from consumer.testing.worker import FakeWorker, FakeWorkerError, topics

LOOK_S = 0.1


def fake_worker(
    config: ConfigOption = None,
    miss: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Answer with deadline-missed, for this reason."),
    ] = None,
    delay: Annotated[float, typer.Option(min=0.0, help="Seconds that each slot takes.")] = 0.0,
) -> None:
    """Answer ticks as a worker does, but make no videos; Ctrl-C stops.

    For trying out producers and consumers of any language, without models: outcomes are published
    as real workers do it, each in a transaction with its tick's offset. Topics are created if they
    do not exist. It joins the configured group, so do not run it where real workers do.

    Example: `vortex fake-worker --delay 2 --miss rejected`
    """
    settings = load_config(config)
    names = settings.kafka.topics
    worker = FakeWorker(
        settings.kafka.bootstrap_servers,
        topics(names.ticks, names.results, names.dead_letter, names.progress),
        group_id=settings.kafka.group_id,
        videos=settings.artifacts.url,
        settings=settings,
    )
    worker.delay(delay)
    if miss is not None:
        try:
            worker.miss(miss)
        except ValueError as error:
            fail(f"--miss: {error}", EXIT_USAGE)
    configure_logging("ERROR", settings.logging.format)  # outcomes are shown below
    stop = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    try:
        with worker:
            console.print(
                f"fake worker: answers ticks of {names.ticks} at"
                f" {settings.kafka.bootstrap_servers}; Ctrl-C stops",
                highlight=False,
            )
            _follow(worker, stop)
    except FakeWorkerError as error:
        fail(str(error), EXIT_MISSING)


def _follow(worker: FakeWorker, stop: threading.Event) -> None:
    """Show what is published until told to stop."""
    seen_outcomes = seen_letters = 0
    while not stop.wait(LOOK_S):
        worker.check()
        outcomes, letters = worker.outcomes, worker.dead_letters
        for result in (*outcomes[seen_outcomes:], *letters[seen_letters:]):
            console.print(describe(result), highlight=False, soft_wrap=True)
        seen_outcomes, seen_letters = len(outcomes), len(letters)
