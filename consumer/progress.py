"""Tells the topic of progress how slots come along: best effort, beside the outcomes."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from consumer.config import KafkaConfig
from consumer.job import Job
from consumer.kafka.clients import make_plain_producer
from consumer.telemetry import propagation
from consumer.worker import OnProgress, worker_info
from schemas import ProgressStep, Recipe, SlotProgress, Stage, TickSource, WorkerInfo

MAX_WAITING = 1_000
"""Events that may wait for the brokers; older ones are dropped, as news go stale."""
RETRY_S = 5.0
STOP_TIMEOUT_S = 2.0

logger = logging.getLogger(__name__)


class ProgressTeller:
    """Turns the worker's progress into events, which wait for a task that sends them."""

    def __init__(self, worker: WorkerInfo, predict_s: Callable[[Recipe], float | None]) -> None:
        """Have nothing to tell yet.

        Args:
            worker: stands in every event.
            predict_s: returns how long a recipe's slot should take, None if not known.
        """
        self._worker = worker
        self._predict_s = predict_s
        self._waiting: deque[tuple[Job, SlotProgress]] = deque(maxlen=MAX_WAITING)
        self._arrived = asyncio.Event()

    def note(self, job: Job, stage: Stage | None) -> None:
        """Tell that a slot waits (None), or that a stage of it starts."""
        now = datetime.now(UTC)
        predicted_s = self._predict_s(job.recipe)
        if predicted_s is not None and not math.isfinite(predicted_s):
            predicted_s = (
                None  # a stage would exceed its limit: how long the slot takes is not known
            )
        # Speech is one of the two stages that a slot begins with.
        starts = stage is Stage.AUDIO and predicted_s is not None
        event = SlotProgress(
            slot_id=job.tick.slot_id,
            channel=job.tick.channel,
            source=TickSource(**job.source._asdict()),
            deadline=job.tick.deadline,
            at=now,
            step=ProgressStep.ACCEPTED if stage is None else ProgressStep.STAGE_STARTED,
            stage=stage,
            predicted_s=predicted_s,
            predicted_finish=now + timedelta(seconds=predicted_s or 0.0) if starts else None,
            worker=self._worker,
        )
        self._waiting.append((job, event))
        self._arrived.set()

    async def send(self, producer: AIOKafkaProducer, topic: str) -> None:
        """Send what waits and what comes, until cancelled.

        Raises:
            KafkaError: the brokers do not take it.
        """
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                job, event = self._waiting.popleft()
                headers = [("content-type", b"application/json")]
                propagation.inject(headers, job.context)
                value, key = event.model_dump_json().encode(), str(event.slot_id).encode()
                await producer.send(topic, value, key=key, headers=headers)


@asynccontextmanager
async def telling_progress(
    config: KafkaConfig, worker_id: str, predict_s: Callable[[Recipe], float | None]
) -> AsyncIterator[OnProgress]:
    """Send progress to its topic until the end of the context; yields what the worker calls.

    Brokers that are gone, a missing topic and a missing right cost the events and one warning.
    """
    topic = config.topics.progress
    if topic is None:
        yield lambda _job, _stage: None
        return
    teller = ProgressTeller(worker_info(config, worker_id), predict_s)
    telling = asyncio.create_task(_tell(teller, config, topic, worker_id), name="progress")
    try:
        yield teller.note
    finally:
        telling.cancel()
        await asyncio.wait({telling}, timeout=STOP_TIMEOUT_S)


async def _tell(teller: ProgressTeller, config: KafkaConfig, topic: str, client_id: str) -> None:
    warned = False
    while True:
        producer = make_plain_producer(config, client_id=f"{client_id}-progress", idempotent=False)
        try:
            await producer.start()
            await teller.send(producer, topic)
        except (KafkaError, OSError) as error:
            if not warned:
                logger.warning(
                    "Progress cannot be told",
                    extra={"topic": topic, "reason": str(error) or repr(error)},
                )
            warned = True
        finally:
            await producer.stop()
        await asyncio.sleep(RETRY_S)
