"""Workers tell each other when they are free: best effort, on a topic of their own."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from pydantic import ValidationError

from consumer.config import KafkaConfig
from consumer.handover.neighbours import Announced, Announcements
from consumer.kafka.clients import make_plain_producer, make_reader, stop_consumer
from consumer.kafka.publisher import stop_producer
from schemas import LargestSlot, WorkerAnnouncement, WorkerInfo
from vortex.utils.clock import now_s

LEAST_GAP_S = 0.3
"""From one announcement of a worker to its next one."""
MOST_GAP_S = 2.0
"""Also without news: the others must know that it lives."""
AFTER_DUE_S = 0.001
NEWS_S = 0.25
"""What it said is wrong by so much: that is news."""
POLL_TIMEOUT_MS = 100
RETRY_S = 5.0
STOP_TIMEOUT_S = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a worker stands at this moment."""

    free_in_s: float
    """Seconds until the slots that it plans to make are made."""
    usual_s: float
    """Seconds for a usual slot; 0 if not known."""
    load: float
    """Seconds of work that arrive in a second."""
    partitions: tuple[int, ...]
    """Of the topic of handovers; none if it takes no slots."""
    most_work: Mapping[str, float] = field(default_factory=dict)
    """Of each stage, as far as its limits are known; see `Engine.most_work`."""


class Announcer:
    """Decides when a worker says how it stands: when there is news, and now and then without."""

    def __init__(self, look: Callable[[], Standing]) -> None:
        self._look = look
        self._changed = asyncio.Event()

    def note_change(self) -> None:
        """Look soon: something has happened."""
        self._changed.set()

    async def standings(self) -> AsyncGenerator[Standing]:
        """Yield what is to be announced, until the caller stops asking."""
        said, said_s = self._look(), now_s()
        yield said
        while True:
            await asyncio.sleep(LEAST_GAP_S)
            due_s = said_s + MOST_GAP_S
            standing = self._look()
            loop = asyncio.get_running_loop()
            # A timer may fire a little early: after it, `due_s` must have passed.
            due = loop.call_later(max(0.0, due_s - now_s()) + AFTER_DUE_S, self._changed.set)
            try:
                while not self._is_news(standing, said, said_s) and now_s() < due_s:
                    self._changed.clear()
                    await self._changed.wait()
                    await asyncio.sleep(0)  # the plan comes first
                    standing = self._look()
            finally:
                due.cancel()
            said, said_s = standing, now_s()
            yield said

    def _is_news(self, standing: Standing, said: Standing, said_s: float) -> bool:
        expected_s = max(0.0, said.free_in_s - (now_s() - said_s))
        return (
            abs(standing.free_in_s - expected_s) > NEWS_S or standing.partitions != said.partitions
        )


class Announcing:
    """This worker's voice, and its ear."""

    def __init__(
        self, config: KafkaConfig, worker: WorkerInfo, profile: str, look: Callable[[], Standing]
    ) -> None:
        """Be silent; `run` speaks and listens.

        Args:
            config: brokers and topics.
            worker: stands in every announcement.
            profile: of models.
            look: returns how this worker stands.
        """
        if config.topics.workers is None:
            raise ValueError("topics.workers: needs a topic to announce on, got null")
        self._config = config
        self._topic = config.topics.workers
        self._worker = worker
        self._profile = profile
        self._announcer = Announcer(look)
        self.heard = Announcements()

    def note_change(self) -> None:
        """Say soon how this worker stands: something has happened."""
        self._announcer.note_change()

    async def run(self) -> None:
        """Speak and listen until cancelled.

        Brokers that are gone, a missing topic and a missing right cost the hints and one warning.
        """
        # A group cancels each part once: it needs a moment to end well.
        async with asyncio.TaskGroup() as parts:
            for work, complaint in (
                (self._speak, "Announcements cannot be made"),
                (self._listen, "Announcements cannot be read"),
            ):
                parts.create_task(_persistently(work, complaint, self._topic))

    async def _speak(self) -> None:
        producer = make_plain_producer(
            self._config, client_id=f"{self._worker.id}-announcements", idempotent=False
        )
        key = self._worker.id.encode()
        try:
            await producer.start()
            try:
                async for standing in self._announcer.standings():
                    value = self._event(standing).model_dump_json().encode()
                    await producer.send(self._topic, value, key=key)
            finally:
                # Nobody is to ask for us any more. An error must not take the cancellation's place.
                with suppress(KafkaError, TimeoutError):
                    async with asyncio.timeout(STOP_TIMEOUT_S):
                        await producer.send_and_wait(self._topic, None, key=key)
        finally:
            with suppress(KafkaError, TimeoutError):
                await stop_producer(producer)

    def _event(self, standing: Standing) -> WorkerAnnouncement:
        return WorkerAnnouncement(
            worker=self._worker,
            at=datetime.now(UTC),
            free_in_s=standing.free_in_s if math.isfinite(standing.free_in_s) else 1e9,
            usual_slot_s=standing.usual_s if math.isfinite(standing.usual_s) else 0.0,
            load=standing.load,
            profile=self._profile,
            handover_partitions=standing.partitions,
            largest_slot=_largest(standing.most_work),
        )

    async def _listen(self) -> None:
        reader = make_reader(
            self._config, self._topic, client_id=f"{self._worker.id}-announcements"
        )
        try:
            await reader.start()
            await reader.seek_to_end()  # what was said before is stale
            while True:
                for records in (await reader.getmany(timeout_ms=POLL_TIMEOUT_MS)).values():
                    for record in records:
                        self._hear(record)
        finally:
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await stop_consumer(reader)

    def _hear(self, record: ConsumerRecord) -> None:
        if record.value is None:
            self.heard.forget((record.key or b"").decode("utf-8", "replace"))
            return
        try:
            event = WorkerAnnouncement.model_validate_json(record.value)
        except ValidationError as error:
            logger.debug("Announcement left out", extra={"reason": repr(error)})
            return
        self.heard.note(
            Announced(
                worker_id=event.worker.id,
                free_in_s=event.free_in_s,
                usual_s=event.usual_slot_s,
                load=event.load,
                profile=event.profile,
                partitions=event.handover_partitions,
                heard_s=now_s(),
                most_work=_most_work(event.largest_slot),
            )
        )


def _largest(most_work: Mapping[str, float]) -> LargestSlot | None:
    if not {"audio", "video"} <= most_work.keys():
        return None
    return LargestSlot(speech_s=most_work["audio"], frames=most_work["video"])


def _most_work(largest: LargestSlot | None) -> dict[str, float]:
    return {} if largest is None else {"audio": largest.speech_s, "video": largest.frames}


async def _persistently(work: Callable[[], Awaitable[None]], complaint: str, topic: str) -> None:
    warned = False
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - hints must not cost the worker
            if not warned:
                logger.warning(
                    complaint, extra={"topic": topic, "reason": str(error) or repr(error)}
                )
            warned = True
        await asyncio.sleep(RETRY_S)
