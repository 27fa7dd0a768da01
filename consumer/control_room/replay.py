"""Plays the past of the topics again, for one page, as fast as it is asked to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from consumer.config import KafkaConfig
from consumer.control_room.board import Board, Slot
from consumer.control_room.feed import BATCH_S, CLIENT_ID, Feed, seek, topics_of
from consumer.kafka.clients import make_reader

MOST_AT_ONCE = 4
"""Each reads the topics by itself."""
BEFORE_MS = 60_000.0
"""So much of what was before is read at once, as slots of then may still wait."""
MIN_SPEED, MAX_SPEED = 0.1, 60.0
FETCH_MS = 100
MAX_RECORDS = 500

logger = logging.getLogger(__name__)


class TooManyReplaysError(Exception):
    """So many pages replay already."""


class Replays:
    """All replays that run."""

    def __init__(self, config: KafkaConfig) -> None:
        """Have none yet.

        Args:
            config: brokers and topics.
        """
        self._config = config
        self._feeds: set[Feed] = set()

    def get(self, slot: str) -> Slot | None:
        """Return a slot that some replay has shown."""
        found = (feed.board.get(slot) for feed in self._feeds)
        return next((each for each in found if each is not None), None)

    def board_of(self, slot: Slot) -> Board | None:
        """Return the board on which a slot stands."""
        boards = (feed.board for feed in self._feeds)
        return next((board for board in boards if board.get(slot.id) is slot), None)

    async def play(self, from_ms: float, speed: float) -> AsyncGenerator[dict[str, Any]]:
        """Yield what a page needs, as `Feed.watch` does, at the pace of the past times `speed`.

        Args:
            from_ms: where to begin, milliseconds since 1970.
            speed: seconds of the past in a second.

        Raises:
            TooManyReplaysError: there are `MOST_AT_ONCE`.
            KafkaError: the brokers do not answer.
        """
        with self._feed() as feed:
            reader = make_reader(self._config, *topics_of(self._config), client_id=CLIENT_ID)
            try:
                await reader.start()
                await seek(reader, max(0.0, from_ms - BEFORE_MS))
                async for change in _play(reader, feed, self._config, from_ms, speed):
                    yield change
            finally:
                await reader.stop()

    @contextmanager
    def _feed(self) -> Iterator[Feed]:
        if len(self._feeds) >= MOST_AT_ONCE:
            raise TooManyReplaysError(f"{MOST_AT_ONCE} replays run already")
        feed = Feed()
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)


async def _play(
    reader: AIOKafkaConsumer, feed: Feed, config: KafkaConfig, from_ms: float, speed: float
) -> AsyncGenerator[dict[str, Any]]:
    began_s = time.monotonic()
    ahead = _ReadAhead(reader)

    def moment() -> dict[str, float]:
        """Return the time that is shown, which ends up at the present, and how fast it goes."""
        shown_ms = from_ms + 1000 * speed * (time.monotonic() - began_s)
        present_ms = 1000 * time.time()
        if shown_ms < present_ms:
            return {"now": shown_ms, "speed": speed}
        return {"now": present_ms, "speed": 1.0}

    yield {**moment(), "slots": []}
    while True:
        changed: dict[str, Slot] = {}
        await ahead.fetch()
        for record in ahead.until(moment()["now"]):
            slot = feed.note(config.topics, record)
            if slot is not None:
                changed[slot.id] = slot
        slots = [slot.as_json() for slot in changed.values()]
        yield {**moment(), "slots": slots}
        await asyncio.sleep(BATCH_S)


class _ReadAhead:
    """Records in the order of their time, over all partitions; a few of each are held."""

    def __init__(self, reader: AIOKafkaConsumer) -> None:
        self._reader = reader
        self._held: dict[TopicPartition, deque[ConsumerRecord]] = {
            partition: deque() for partition in reader.assignment()
        }

    async def fetch(self) -> None:
        """Have some records of each partition, if it has any now."""
        empty = [partition for partition, held in self._held.items() if not held]
        if not empty:
            return
        try:
            # Asked for by name, so that what is fetched of the others is kept.
            fetched = await self._reader.getmany(
                *empty, timeout_ms=FETCH_MS, max_records=MAX_RECORDS
            )
        except KafkaError as error:
            logger.warning("Topics cannot be read", extra={"reason": repr(error)})
            return
        for partition, records in fetched.items():
            self._held[partition].extend(records)

    def until(self, moment_ms: float) -> list[ConsumerRecord]:
        """Take the records that were written up to a moment."""
        due = []
        for held in self._held.values():
            while held and held[0].timestamp <= moment_ms:
                due.append(held.popleft())
        return sorted(due, key=lambda record: record.timestamp)
