"""`vortex run`: the worker."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from consumer.artifacts.store import ArtifactStore
from consumer.artifacts.store_probe import probing
from consumer.cancels import reading_cancels
from consumer.cli.common import FAILURES, ConfigOption, complain, exit_code_of, load_config
from consumer.cli.leaving import AbandonableThreads, leave
from consumer.cli.stop_signals import held_stop
from consumer.config import WorkerConfig
from consumer.control import serving_control
from consumer.engine.make import make_engine
from consumer.health import Answer, Route, serving_health
from consumer.intake import load_trusted_keys
from consumer.observing import observing
from consumer.progress import telling_progress
from consumer.telemetry.gpu import observe_gpus
from consumer.telemetry.logs import configure_logging
from consumer.telemetry.metrics import Metrics, configure_metrics
from consumer.telemetry.tracing import configure_tracing
from consumer.telemetry.worker_metrics import WorkerMetrics
from consumer.worker import Worker, default_worker_id

TELEMETRY_SHUTDOWN_S = 5.0


def run(
    config: ConfigOption = None,
    worker_id: Annotated[
        str | None, typer.Option(help="Name in outcomes and spans; default: host and process id.")
    ] = None,
) -> None:
    """Serve ticks until told to stop.

    SIGTERM or Ctrl-C: running slots are finished within the grace period, waiting ones that do not
    fit are left to other workers, and the command ends with exit code 0. A worker that still starts
    ends within seconds.

    While Kafka or its topics are not there, it waits for kafka.start_timeout_s. Exit code 4: a task
    of the worker failed unexpectedly; start it again.

    Example: `VORTEX__KAFKA__BOOTSTRAP_SERVERS=broker:9092 vortex run --config worker.yaml`
    """
    settings = load_config(config)
    configure_logging(settings.logging.level, settings.logging.format)
    tracing = configure_tracing(settings.telemetry)
    metrics = configure_metrics(settings.telemetry, page=settings.health.address is not None)
    exit_code = 0
    try:
        asyncio.run(_serve(settings, worker_id, metrics))
    except FAILURES as error:
        complain(str(error))
        exit_code = exit_code_of(error)
    finally:
        held_stop.hold()  # the loop has let go of the signals; a second one changes nothing
        metrics.shutdown(TELEMETRY_SHUTDOWN_S)
        tracing.shutdown(TELEMETRY_SHUTDOWN_S)
    leave(exit_code)


async def _serve(settings: WorkerConfig, worker_id: str | None, metrics: Metrics) -> None:
    asyncio.get_running_loop().set_default_executor(AbandonableThreads())
    store = ArtifactStore(settings.artifacts.url, settings.artifacts.storage_options)
    meter = metrics.meter()
    observe_gpus(meter)
    worker_metrics = WorkerMetrics(
        meter,
        topic=settings.kafka.topics.ticks,
        group=settings.kafka.group_id,
        engine_memory_limit_gb=settings.engine.memory_limit_gb,
    )
    engine = make_engine(settings)
    name = worker_id or default_worker_id()
    async with (
        probing(store) as store_problem,
        telling_progress(settings.kafka, name, engine.predict_s) as on_progress,
    ):
        worker = Worker(
            settings.kafka,
            engine,
            worker_id=name,
            on_progress=on_progress,
            store_problem=store_problem,
            trusted=load_trusted_keys(settings.intake.trusted_keys),
            metrics=worker_metrics,
            slate=settings.slate,
            profile=settings.models.profile,
            idle_unload_s=settings.engine.idle_unload_s,
        )
        held_stop.hand_over(worker.request_stop)
        async with (
            observing(worker, worker_metrics),
            serving_health(settings.health, worker, routes={"/metrics": _page_of(metrics)}),
            serving_control(settings.control, worker),
            reading_cancels(settings.kafka, name, worker.cancel),
        ):
            await worker.run()


def _page_of(metrics: Metrics) -> Route:
    def route() -> Answer:
        body, content_type = metrics.page()
        return Answer(200, body, content_type)

    return route
