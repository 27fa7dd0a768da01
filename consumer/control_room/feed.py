"""Reads the topics into the board, and tells every watcher what has changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from opentelemetry import trace
from pydantic import ValidationError

from consumer.config import KafkaConfig, TopicsConfig
from consumer.control_room.board import Board, Slot
from consumer.kafka.access import CONTROL_ROOM, ask_for_access
from consumer.kafka.clients import connecting, make_reader
from consumer.results import dead_letter_of
from consumer.telemetry import propagation
from schemas import SlotProgress, SlotTick, TickSource, parse_outcome

CLIENT_ID = "vortex-control-room"
POLL_TIMEOUT_MS = 250
MAX_RECORDS = 500
BATCH_S = 0.1
"""Changes are sent together this often: a screen shows no more."""

logger = logging.getLogger(__name__)


class Feed:
    """The board, and who watches it.

    A watcher that is slow gets fewer and larger updates: of each slot it is told the last state.
    """

    def __init__(self) -> None:
        self.board = Board()
        self._watchers: set[_Watcher] = set()

    async def watch(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield all slots, then those that have changed, until the watcher goes."""
        with self._watching() as watcher:
            yield {"now": _now_ms(), "slots": [slot.as_json() for slot in self.board.slots()]}
            while True:
                await watcher.changed.wait()
                await asyncio.sleep(BATCH_S)
                changes = watcher.take()
                yield {"now": _now_ms(), "slots": [slot.as_json() for slot in changes]}

    def note(self, topics: TopicsConfig, record: ConsumerRecord) -> Slot | None:
        """Put a record on the board, and return its slot; what is not of ours is left out."""
        try:
            slot = self._read(topics, record)
        except (ValidationError, ValueError) as error:
            logger.debug("Record left out", extra={"topic": record.topic, "reason": repr(error)})
            return None
        self.tell(slot)
        return slot

    def tell(self, slot: Slot) -> None:
        """Tell every watcher that a slot of the board has changed."""
        for watcher in self._watchers:
            watcher.add(slot)

    def _read(self, topics: TopicsConfig, record: ConsumerRecord) -> Slot:
        value = record.value or b""
        if record.topic == topics.results:
            return self.board.outcome(parse_outcome(value))
        if record.topic == topics.dead_letter:
            return self.board.dead_letter(dead_letter_of(record), record.timestamp)
        if record.topic == topics.progress:
            return self.board.progress(SlotProgress.model_validate_json(value))
        source = TickSource(topic=record.topic, partition=record.partition, offset=record.offset)
        context = trace.get_current_span(propagation.extract(record.headers)).get_span_context()
        trace_id = trace.format_trace_id(context.trace_id) if context.is_valid else ""
        tick = SlotTick.model_validate_json(value)
        return self.board.tick(source, tick, record.timestamp, trace_id)

    @contextmanager
    def _watching(self) -> Iterator[_Watcher]:
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)


class _Watcher:
    """One open page."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._slots: dict[str, Slot] = {}

    def add(self, slot: Slot) -> None:
        self._slots[slot.id] = slot
        self.changed.set()

    def take(self) -> list[Slot]:
        slots, self._slots = list(self._slots.values()), {}
        self.changed.clear()
        return slots


@asynccontextmanager
async def reading(config: KafkaConfig, since_s: float | None) -> AsyncIterator[Feed]:
    """Read until the end of the context.

    Args:
        config: brokers and topics.
        since_s: how many seconds back to begin; None for the beginning of the topics.

    Raises:
        KafkaUnreachableError: no broker answers, or a topic may not be read.
    """
    await ask_for_access(config, CONTROL_ROOM, client_id=CLIENT_ID)
    reader = make_reader(config, *topics_of(config), client_id=CLIENT_ID)
    feed = Feed()
    try:
        with connecting():
            await reader.start()
        if since_s is not None:
            await seek(reader, _now_ms() - 1000 * since_s)
        task = asyncio.create_task(_read(reader, feed, config.topics), name="control room")
        try:
            yield feed
        finally:
            task.cancel()
            await asyncio.wait({task})
    finally:
        await reader.stop()


def topics_of(config: KafkaConfig) -> list[str]:
    """Return the topics that a page is made from."""
    topics = config.topics
    names = (topics.ticks, topics.results, topics.dead_letter, topics.progress)
    return [name for name in names if name is not None]


async def seek(reader: AIOKafkaConsumer, moment_ms: float) -> None:
    """Begin each partition with what was written at a moment, or later."""
    partitions: set[TopicPartition] = reader.assignment()
    found = await reader.offsets_for_times(dict.fromkeys(partitions, int(moment_ms)))
    ends = await reader.end_offsets(list(partitions))
    for partition in partitions:
        first = found.get(partition)
        await reader.position(partition)  # one that looks for its first position would return to it
        reader.seek(partition, ends[partition] if first is None else first.offset)


async def _read(reader: AIOKafkaConsumer, feed: Feed, topics: TopicsConfig) -> None:
    while True:
        try:
            fetched = await reader.getmany(timeout_ms=POLL_TIMEOUT_MS, max_records=MAX_RECORDS)
        except KafkaError as error:
            logger.warning("Topics cannot be read", extra={"reason": repr(error)})
            await asyncio.sleep(1.0)
            continue
        for records in fetched.values():
            for record in records:
                feed.note(topics, record)
        await asyncio.sleep(0)  # a long backlog must not keep the pages waiting


def _now_ms() -> float:
    return time.time() * 1000
