"""Ticks that were sent twice: the same channel and slot again, within a window.

What is remembered comes from the input partition alone, and can be read back from it. Whether a
tick is a duplicate depends on the ticks before it in its partition and on nothing else, so every
worker that meets it decides the same.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from consumer.intake import UnreadableTickError, read_tick
from consumer.kafka.looks import ANSWER_TIMEOUT_S
from consumer.kafka.stored import read_stored
from consumer.kafka.tolerant_fetch import fetch_tolerantly
from schemas import SlotTick

MAX_TICKS = 10_000
"""Ticks of one partition that are remembered; older ones are forgotten, window or not."""
MAX_FETCHES = 64
"""Of up to 1 MiB each, to read them back."""


class RecentTicks:
    """The readable ticks of one partition, as far back as the window goes."""

    def __init__(self, window_s: float, max_ticks: int = MAX_TICKS) -> None:
        self._window_ms = window_s * 1000
        self._max_ticks = max_ticks
        self._order: deque[tuple[tuple[str, int], int]] = deque()
        self._seen: dict[tuple[str, int], dict[int, int]] = {}

    def note(self, tick: SlotTick, offset: int, timestamp_ms: int) -> None:
        """Remember a tick; noting it again changes nothing."""
        slot = (tick.channel, tick.slot_id)
        seen = self._seen.setdefault(slot, {})
        if offset in seen:
            return
        seen[offset] = timestamp_ms
        self._order.append((slot, offset))
        if len(self._order) > self._max_ticks:
            oldest, its_offset = self._order.popleft()
            del self._seen[oldest][its_offset]
            if not self._seen[oldest]:
                del self._seen[oldest]

    def note_record(self, record: ConsumerRecord) -> None:
        """Remember the tick that a record holds, if it can be read."""
        try:
            self.note(read_tick(record), record.offset, record.timestamp)
        except UnreadableTickError:
            return

    def first_of(self, tick: SlotTick, offset: int, timestamp_ms: int) -> int | None:
        """Return the offset of the first tick for the same slot within the window before this."""
        seen = self._seen.get((tick.channel, tick.slot_id), {})
        return min(
            (
                earlier
                for earlier, written_ms in seen.items()
                if earlier < offset and timestamp_ms - written_ms <= self._window_ms
            ),
            default=None,
        )


async def read_recent(
    consumer: AIOKafkaConsumer, partition: TopicPartition, before: int, window_s: float
) -> RecentTicks:
    """Read back the ticks before an offset that may have duplicates from there on.

    Raises:
        KafkaUnreachableError: the leader does not answer.
        TimeoutError: it does not say where the window begins.
        KafkaError: it is not known or refuses.
    """
    recent = RecentTicks(window_s)
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        next_one = await fetch_tolerantly(consumer._client, partition, before, max_records=1)
        now_ms = next_one.records[0].timestamp if next_one.records else int(time.time() * 1000)
        since_ms = max(0, int(now_ms - window_s * 1000))
        found = (await consumer.offsets_for_times({partition: since_ms}))[partition]
    if found is None:
        return recent
    start = max(found.offset, before - MAX_TICKS)
    stored_ones = read_stored(consumer._client, partition, start, before, max_fetches=MAX_FETCHES)
    async for stored in stored_ones:
        if stored.record is not None:
            recent.note_record(stored.record)
            await asyncio.sleep(0)  # reading ticks takes a while, and others are served meanwhile
    return recent
