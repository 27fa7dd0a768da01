"""What is stored in an input partition, and what of it the group has answered. Needs no worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from consumer.config import KafkaConfig
from consumer.kafka.clients import KafkaUnreachableError, connecting, make_admin, make_reader
from consumer.kafka.done_map import decode_done
from consumer.kafka.ledger import CommitPoint
from consumer.kafka.tolerant_fetch import describe, fetch_tolerantly

ANSWER_TIMEOUT_S = 5.0
SURVEY_FETCHES = 8
"""How far a survey reads on from the committed offset, at up to 1 MiB each."""
FETCH_RECORDS = 500


@dataclass(frozen=True)
class Stored:
    """What is stored at an offset: a record, or something that cannot be read."""

    offset: int
    record: ConsumerRecord | None
    problem: str | None = None
    """Why it cannot be read."""


@dataclass(frozen=True)
class PartitionState:
    """Where a group stands in one input partition."""

    partition: int
    committed: int | None
    """The lowest offset without an outcome; None if the group has never committed."""
    log_start: int
    log_end: int
    """Of what is committed by its producers."""
    done_above: int
    """Offsets above the committed one that have their outcome."""
    window_used: int
    """How far the highest of these is above the committed offset."""
    standing_at: int | None
    """The first offset that cannot be read, if one was found."""
    standing_because: str | None

    @property
    def lag(self) -> int:
        """Offsets that wait for an outcome, those without a record included."""
        start = self.log_start if self.committed is None else max(self.committed, self.log_start)
        return max(0, self.log_end - start - self.done_above)


@asynccontextmanager
async def stored_reader(
    config: KafkaConfig, client_id: str, topic: str | None = None
) -> AsyncIterator[AIOKafkaConsumer]:
    """Give a started reader that knows the partitions of a topic; by default of the ticks' topic.

    Raises:
        KafkaUnreachableError: no broker answers, or the topic is not there.
    """
    topic = topic or config.topics.ticks
    reader = make_reader(config, client_id=client_id)
    try:
        with connecting():
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await reader.start()
                await reader._client.add_topic(topic)
        if not reader.partitions_for_topic(topic):
            raise KafkaUnreachableError(
                f"Kafka at {config.bootstrap_servers} has no topic {topic};"
                " create it with `vortex kafka create-topics`"
            )
        yield reader
    finally:
        await reader.stop()


async def read_committed(
    config: KafkaConfig, partitions: list[TopicPartition]
) -> dict[TopicPartition, CommitPoint | None]:
    """Return what the group has committed, as its coordinator says without a claim."""
    admin = make_admin(config, client_id="vortex-partitions")
    try:
        with connecting():
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await admin.start()
                found = await admin.list_consumer_group_offsets(
                    config.group_id, partitions=partitions
                )
    finally:
        await admin.close()
    return {
        partition: None
        if found[partition].offset < 0
        else CommitPoint(
            found[partition].offset,
            frozenset(decode_done(found[partition].offset, found[partition].metadata or "")),
        )
        for partition in partitions
    }


async def survey(config: KafkaConfig) -> list[PartitionState]:
    """Return where the group stands in each input partition.

    Raises:
        KafkaUnreachableError: a broker does not answer, or the topic is not there.
        KafkaError: Kafka refuses.
        DoneMapError: committed metadata is of another version.
    """
    async with stored_reader(config, "vortex-partitions") as reader:
        topic = config.topics.ticks
        partitions = [
            TopicPartition(topic, number) for number in sorted(reader.partitions_for_topic(topic))
        ]
        committed = await read_committed(config, partitions)
        with connecting():
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                starts = await reader.beginning_offsets(partitions)
                ends = await reader.end_offsets(partitions)
        return [
            await _state(reader, each, committed[each], starts[each], ends[each])
            for each in partitions
        ]


async def _state(
    reader: AIOKafkaConsumer,
    partition: TopicPartition,
    committed: CommitPoint | None,
    log_start: int,
    log_end: int,
) -> PartitionState:
    point = committed or CommitPoint(log_start, frozenset())
    standing: Stored | None
    try:
        standing = await first_unreadable(
            reader._client,
            partition,
            CommitPoint(max(point.offset, log_start), point.done),
            max_fetches=SURVEY_FETCHES,
        )
    except (KafkaError, KafkaUnreachableError) as error:
        standing = Stored(point.offset, None, describe(error))
    return PartitionState(
        partition=partition.partition,
        committed=None if committed is None else committed.offset,
        log_start=log_start,
        log_end=log_end,
        done_above=len(point.done),
        window_used=max(point.done) - point.offset if point.done else 0,
        standing_at=standing.offset if standing else None,
        standing_because=standing.problem if standing else None,
    )


async def first_unreadable(
    client: AIOKafkaClient, partition: TopicPartition, point: CommitPoint, *, max_fetches: int
) -> Stored | None:
    """Return the first offset from a committed one on that has no outcome and cannot be read."""
    async for stored in read_stored(client, partition, point.offset, max_fetches=max_fetches):
        if stored.problem is not None and stored.offset not in point.done:
            return stored
    return None


async def read_stored(
    client: AIOKafkaClient,
    partition: TopicPartition,
    start: int,
    end: int | None = None,
    *,
    max_fetches: int | None = None,
) -> AsyncIterator[Stored]:
    """Yield what is stored from an offset on: records, and offsets that cannot be read.

    What is no record (markers, aborted records) is left out. An offset that cannot be read does
    not end it; the next offset is tried.

    Raises:
        KafkaUnreachableError: the leader does not answer.
        KafkaError: the leader is not known or refuses.
    """
    position, fetches = start, 0
    while (end is None or position < end) and fetches != max_fetches:
        fetches += 1
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                fetched = await fetch_tolerantly(
                    client, partition, position, max_records=FETCH_RECORDS
                )
        except TimeoutError as error:
            raise KafkaUnreachableError(
                f"the leader of {partition.topic}/{partition.partition} does not answer"
            ) from error
        for record in fetched.records:
            if end is None or record.offset < end:
                yield Stored(record.offset, record)
        if fetched.problem is None and fetched.next_offset == position:
            return  # the end of the log
        position = fetched.next_offset
        if fetched.problem is not None and not fetched.records and (end is None or position < end):
            yield Stored(position, None, fetched.problem)
            position += 1
