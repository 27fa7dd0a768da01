"""Reads stored dead letters one by one, and writes one back to the ticks as a tick of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord, RecordMetadata

from consumer.config import KafkaConfig
from consumer.kafka.access import PRODUCER, Role, ask_for_access, require_topics
from consumer.kafka.clients import connecting, make_plain_producer
from consumer.kafka.stored import ANSWER_TIMEOUT_S, read_stored, stored_reader
from consumer.results import DeadLetter, dead_letter_of
from schemas import MAX_TICK_BYTES

CLIENT_ID = "vortex-dead-letters"
REPLAY_OF = "vortex-replay-of"
SIGNATURE = "vortex-signature"
_READER = Role(reads=("dead_letter",))
_ADDED = "__dlq."

Headers = list[tuple[str, bytes]]


class LetterError(Exception):
    """There is no such dead letter, or it cannot be replayed; the message is one line."""


@dataclass(frozen=True)
class StoredLetter:
    """A dead letter, and where it stands in the topic of dead letters."""

    record: ConsumerRecord
    letter: DeadLetter

    @property
    def place(self) -> str:
        """Topic, partition and offset, as `slot.dead-letter/0@12`."""
        return f"{self.record.topic}/{self.record.partition}@{self.record.offset}"

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return len(self.record.value or b"")


async def latest_letters(config: KafkaConfig, limit: int) -> tuple[list[StoredLetter], int]:
    """Return the latest dead letters, oldest first, and how many records are no dead letters.

    Raises:
        KafkaUnreachableError: a broker does not answer, or the topic is missing or denied.
    """
    topic = config.topics.dead_letter
    await _ask(config, _READER)
    async with stored_reader(config, CLIENT_ID, topic) as reader:
        partitions = [
            TopicPartition(topic, each) for each in sorted(reader.partitions_for_topic(topic))
        ]
        starts, ends = await _bounds(reader, partitions)
        records = [
            record
            for each in partitions
            for record in await _tail(reader, each, starts[each], ends[each], limit)
        ]
    records.sort(key=lambda record: (record.timestamp, record.partition, record.offset))
    letters, strange = [], 0
    for record in records[-limit:]:
        try:
            letters.append(StoredLetter(record, dead_letter_of(record)))
        except ValueError:
            strange += 1
    return letters, strange


async def read_letter(config: KafkaConfig, partition: int, offset: int) -> StoredLetter:
    """Return the dead letter at a place.

    Raises:
        LetterError: there is none, or it cannot be read.
        KafkaUnreachableError: a broker does not answer, or the topic is missing or denied.
    """
    topic = config.topics.dead_letter
    await _ask(config, _READER)
    async with stored_reader(config, CLIENT_ID, topic) as reader:
        if partition not in reader.partitions_for_topic(topic):
            raise LetterError(f"{topic} has no partition {partition}")
        at = TopicPartition(topic, partition)
        starts, ends = await _bounds(reader, [at])
        if not starts[at] <= offset < ends[at]:
            raise LetterError(
                f"{topic}/{partition} has no offset {offset}; it holds {starts[at]} up to below"
                f" {ends[at]}"
            )
        async for stored in read_stored(reader._client, at, offset, offset + 1):
            if stored.record is None:
                raise LetterError(f"{topic}/{partition}@{offset} cannot be read: {stored.problem}")
            try:
                return StoredLetter(stored.record, dead_letter_of(stored.record))
            except ValueError as error:
                raise LetterError(
                    f"{topic}/{partition}@{offset} is no dead letter of a worker's"
                ) from error
    raise LetterError(
        f"{topic}/{partition}@{offset} is no dead letter; see `vortex dead-letters list`"
    )


def replay_headers(stored: StoredLetter, *, mended: bool) -> Headers:
    """Return a tick's headers as they came, with one that says which dead letter it comes from.

    A signature is left out with a mended value, which it does not sign.
    """
    left_out = {REPLAY_OF, SIGNATURE} if mended else {REPLAY_OF}
    kept = [
        (name, value)
        for name, value in stored.record.headers
        if not name.startswith(_ADDED) and name not in left_out
    ]
    return [*kept, (REPLAY_OF, stored.place.encode())]


def replay_value(stored: StoredLetter, mended: bytes | None) -> bytes:
    """Return the value to write.

    Raises:
        LetterError: there is none, or a worker would refuse its size unread.
    """
    value = stored.record.value if mended is None else mended
    if value is None:
        raise LetterError(f"{stored.place} has no value; give one with --value FILE")
    if len(value) > MAX_TICK_BYTES:
        raise LetterError(
            f"the value has {len(value)} bytes, at most {MAX_TICK_BYTES} are read; give a smaller"
            " one with --value FILE"
        )
    return value


async def write_tick(
    config: KafkaConfig, key: bytes | None, value: bytes, headers: Headers
) -> RecordMetadata:
    """Write a tick, and return where it stands.

    Raises:
        KafkaUnreachableError: a broker does not answer, or the topic is missing or denied.
        KafkaError: Kafka refuses the record, or does not store it in time.
    """
    await _ask(config, PRODUCER)
    producer = make_plain_producer(config, client_id=CLIENT_ID)
    try:
        with connecting():
            await producer.start()
        return await producer.send_and_wait(config.topics.ticks, value, key=key, headers=headers)
    finally:
        await producer.stop()


async def _ask(config: KafkaConfig, role: Role) -> None:
    require_topics(config, await ask_for_access(config, role, client_id=CLIENT_ID))


async def _bounds(
    reader: AIOKafkaConsumer, partitions: list[TopicPartition]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    with connecting():
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await reader.beginning_offsets(partitions), await reader.end_offsets(partitions)


async def _tail(
    reader: AIOKafkaConsumer, partition: TopicPartition, start: int, end: int, limit: int
) -> Iterable[ConsumerRecord]:
    """Return the last records of a partition, from further back until there are enough.

    Offsets may hold markers of transactions, so how far back that is cannot be computed.
    """
    span = 2 * limit
    while True:
        first = max(start, end - span)
        found: deque[ConsumerRecord] = deque(maxlen=limit)
        async for stored in read_stored(reader._client, partition, first, end):
            if stored.record is not None:
                found.append(stored.record)
        if len(found) == limit or first == start:
            return found
        span *= 4
