"""Which slots operators have cancelled: kept for a while, as a tick may be read after the order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from consumer.config import KafkaConfig
from consumer.job import Job
from consumer.kafka.clients import make_reader
from schemas import SlotCancel
from vortex.utils.clock import now_s

REMEMBER_S = 600.0
"""An order is kept for so long: a tick may lie unread, or move to another worker, meanwhile."""
MAX_KEPT = 10_000
"""Beyond it, the oldest orders are forgotten."""
POLL_TIMEOUT_MS = 250
START_TIMEOUT_S = 10.0
CATCH_UP_S = 5.0
RETRY_S = 2.0
STOP_TIMEOUT_S = 2.0

logger = logging.getLogger(__name__)

OnCancel = Callable[[SlotCancel, int], None]
"""Told of an order, and when it was written: milliseconds since 1970."""


@dataclass(frozen=True)
class _Order:
    written_ms: int
    noted_s: float
    why: str


class Cancels:
    """The orders of the last minutes, by channel and slot."""

    def __init__(self) -> None:
        self._orders: dict[tuple[str, int], _Order] = {}

    def note(self, cancel: SlotCancel, written_ms: int) -> None:
        """Remember an order; a later one for the same slot takes its place."""
        slot = cancel.channel, cancel.slot_id
        self._orders.pop(slot, None)  # the order in the dictionary is that of noting
        why = "cancelled by an operator" + (f": {cancel.reason}" if cancel.reason else "")
        self._orders[slot] = _Order(written_ms, now_s(), why)
        self._forget()

    def why(self, job: Job) -> str | None:
        """Return in words why a slot is cancelled, None if it is not.

        An order concerns what was written to Kafka before it.
        """
        self._forget()
        order = self._orders.get((job.tick.channel, job.tick.slot_id))
        if order is None or (job.written_ms is not None and job.written_ms > order.written_ms):
            return None
        return order.why

    def _forget(self) -> None:
        oldest_s = now_s() - REMEMBER_S
        while self._orders:
            slot = next(iter(self._orders))
            if len(self._orders) <= MAX_KEPT and self._orders[slot].noted_s >= oldest_s:
                return
            del self._orders[slot]


@asynccontextmanager
async def reading_cancels(
    config: KafkaConfig, worker_id: str, on_cancel: OnCancel
) -> AsyncIterator[None]:
    """Read the orders of the last minutes and those that come, until the end of the context.

    Every worker reads all of them, without a group. The context begins once those that are there
    have been read, or after a few seconds. Brokers that are gone delay them, and cost one warning.
    """
    topic = config.topics.control
    if topic is None:
        yield
        return
    caught_up = asyncio.Event()
    reading = asyncio.create_task(
        _read(config, topic, worker_id, on_cancel, caught_up), name="cancels"
    )
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(caught_up.wait(), CATCH_UP_S)
        yield
    finally:
        reading.cancel()
        await asyncio.wait({reading}, timeout=STOP_TIMEOUT_S)


async def _read(
    config: KafkaConfig,
    topic: str,
    worker_id: str,
    on_cancel: OnCancel,
    caught_up: asyncio.Event,
) -> None:
    warned = False
    while True:
        reader = make_reader(config, topic, client_id=f"{worker_id}-control")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await reader.start()
                ends = await _seek(reader)
            logger.info("Orders are read", extra={"topic": topic})
            while True:
                fetched = await reader.getmany(timeout_ms=POLL_TIMEOUT_MS)
                warned = False
                for records in fetched.values():
                    for record in records:
                        _hear(record, on_cancel)
                if not caught_up.is_set() and await _is_past(reader, ends):
                    caught_up.set()
        except (KafkaError, OSError) as error:
            if not warned:
                reason = str(error) or repr(error)
                logger.warning("Orders cannot be read", extra={"topic": topic, "reason": reason})
            warned = True
        except Exception:  # slots are made whether or not they can be cancelled
            logger.exception("Orders cannot be read")
        finally:
            await reader.stop()
        await asyncio.sleep(RETRY_S)


async def _seek(reader: AIOKafkaConsumer) -> dict[TopicPartition, int]:
    """Begin with the orders that a worker which runs for long would still know; return the ends."""
    partitions: set[TopicPartition] = reader.assignment()
    since_ms = int(1000 * (time.time() - REMEMBER_S))
    found = await reader.offsets_for_times(dict.fromkeys(partitions, since_ms))
    ends = await reader.end_offsets(list(partitions))
    for partition in partitions:
        first = found.get(partition)
        await reader.position(partition)  # one that looks for its first position would return to it
        reader.seek(partition, ends[partition] if first is None else first.offset)
    return dict(ends)


async def _is_past(reader: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
    return all([await reader.position(partition) >= end for partition, end in ends.items()])


def _hear(record: ConsumerRecord, on_cancel: OnCancel) -> None:
    fields = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    try:
        cancel = SlotCancel.model_validate_json(record.value or b"")
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        logger.warning("Left out what is not an order", extra={**fields, "reason": reason})
        return
    on_cancel(cancel, record.timestamp)
