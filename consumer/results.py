"""Reads what became of ticks, as a consumer of results would."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord

from consumer.config import KafkaConfig
from consumer.kafka.access import WATCHER, ask_for_access, require_topics
from consumer.kafka.clients import connecting, make_reader
from schemas import DeadlineMissed, SlotComplete, TickSource, parse_outcome

CLIENT_ID = "vortex-watch"
POLL_TIMEOUT_MS = 250

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeadLetter:
    """A tick that could not be read."""

    source: TickSource
    reason: str
    key: bytes | None
    value: bytes | None


Result = SlotComplete | DeadlineMissed | DeadLetter


async def read_results(config: KafkaConfig, *, from_start: bool) -> AsyncGenerator[Result | None]:
    """Yield committed outcomes and dead letters as they come; None whenever there are none.

    Args:
        config: brokers and topics.
        from_start: also what was there before.

    Raises:
        KafkaUnreachableError: no broker answers, or results may not be read.
    """
    topics = config.topics
    # Before the reader starts: it would wait for topics that it may not see.
    require_topics(config, await ask_for_access(config, WATCHER, client_id=CLIENT_ID))
    reader = make_reader(config, topics.results, topics.dead_letter, client_id=CLIENT_ID)
    try:
        with connecting():
            await reader.start()
        if not from_start:
            await _seek_to_end(reader)
        yield None  # from here on nothing is missed
        while True:
            async for result in _poll(reader, topics.dead_letter):
                yield result
            yield None
    finally:
        await reader.stop()


async def _seek_to_end(reader: AIOKafkaConsumer) -> None:
    """Skip what is there; a reader that still looks for its first position would return to it."""
    ends = await reader.end_offsets(reader.assignment())
    for partition, end in ends.items():
        await reader.position(partition)
        reader.seek(partition, end)


async def _poll(reader: AIOKafkaConsumer, dead_letter: str) -> AsyncGenerator[Result]:
    fetched = await reader.getmany(timeout_ms=POLL_TIMEOUT_MS)
    for records in fetched.values():
        for record in records:
            of_tick = dead_letter_of if record.topic == dead_letter else _outcome_of
            try:
                result = of_tick(record)
            except ValueError:
                at = f"{record.topic}/{record.partition} at offset {record.offset}"
                logger.warning("Left out: the record in %s is not an outcome of version 1", at)
                continue
            yield result


def _outcome_of(record: ConsumerRecord) -> Result:
    return parse_outcome(record.value)


def dead_letter_of(record: ConsumerRecord) -> DeadLetter:
    """Read a record of the topic of dead letters.

    Raises:
        ValueError: its headers are not a worker's.
    """
    errors = {
        name.removeprefix("__dlq.errors."): (value or b"").decode(errors="replace")
        for name, value in record.headers
        if name.startswith("__dlq.errors.")
    }
    return DeadLetter(
        source=TickSource(
            topic=errors.get("topic", "?"),
            partition=int(errors.get("partition", 0)),
            offset=int(errors.get("offset", 0)),
        ),
        reason=errors.get("message", "?"),
        key=record.key,
        value=record.value,
    )
