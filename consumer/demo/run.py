"""A worker that serves the demo's ticks, on a Kafka that runs already."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

from consumer.config import KafkaConfig, WorkerConfig
from consumer.demo.board import Board
from consumer.emitter import TickEmitter
from consumer.engine.make import make_engine
from consumer.job import Job, Step
from consumer.kafka.clients import make_admin
from consumer.kafka.topics import create_topics
from consumer.progress import telling_progress
from consumer.results import read_results
from consumer.worker import OnProgress, Worker, WorkerStartError
from schemas import SlotTick

WORKER_ID = "demo"
READY_TIMEOUT_S = 120.0
RESULTS_TIMEOUT_S = 240.0
SETTLE_S = 1.0


async def make_topics(config: KafkaConfig) -> None:
    """Create all topics."""
    topics = config.topics
    wanted = {topics.ticks: 2, topics.results: 1, topics.dead_letter: 1}
    if topics.progress is not None:
        wanted[topics.progress] = 1
    await create_topics(make_admin(config, client_id="vortex-demo"), wanted)


@asynccontextmanager
async def running_worker(
    settings: WorkerConfig, on_progress: OnProgress
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a worker that accepts ticks; it is stopped at the end.

    Raises:
        WorkerStartError, EngineStartError: as the worker does, or not ready in two minutes.
    """
    engine = make_engine(settings)
    async with telling_progress(settings.kafka, WORKER_ID, engine.predict_s) as tell:

        def note(job: Job, step: Step) -> None:
            on_progress(job, step)
            tell(job, step)

        worker = Worker(
            settings.kafka,
            engine,
            worker_id=WORKER_ID,
            on_progress=note,
            slate=settings.slate,
            idle_unload_s=settings.engine.idle_unload_s,
        )
        running = asyncio.create_task(worker.run())
        try:
            await _until_it_accepts(worker, running)
            if running.done():
                await running  # raises what ended it
            yield running
        finally:
            worker.request_stop()
            await running


async def _until_it_accepts(worker: Worker, running: asyncio.Task[None]) -> None:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not worker.accepting and not running.done():
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        waits = "; ".join(f"{name} {why}" for name, why in worker.readiness().items() if why)
        raise WorkerStartError(
            f"the worker was not ready within {READY_TIMEOUT_S:g} s ({waits or 'no reason known'});"
            " the log in the output directory says what it did"
        ) from error


async def emit(settings: WorkerConfig, board: Board) -> None:
    """Emit every tick, all at one moment."""
    now = datetime.now(UTC)
    async with TickEmitter(settings.kafka) as emitter:
        for tick in board.ticks:
            value = tick.value(now)
            await (emitter.emit(value) if isinstance(value, SlotTick) else emitter.emit_raw(value))


async def collect(settings: WorkerConfig, board: Board, worker: asyncio.Task[None]) -> None:
    """Read results until every tick has one, and a moment longer, to see that none has two.

    Also returns after two minutes, or when the worker ends.
    """
    end_s = time.monotonic() + RESULTS_TIMEOUT_S
    async with aclosing(read_results(settings.kafka, from_start=True)) as results:
        async for result in results:
            if result is not None:
                board.add(result)
                if board.answered:
                    end_s = min(end_s, time.monotonic() + SETTLE_S)
            if time.monotonic() > end_s or worker.done():
                return
