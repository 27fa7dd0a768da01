"""Going past offsets on an operator's word: each gets a dead letter as its one outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.structs import ConsumerRecord
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN

from consumer.config import KafkaConfig
from consumer.dead_letter import dead_letter
from consumer.job import Decision
from consumer.kafka.ledger import CommitPoint
from consumer.kafka.partition import MAX_TRANSACTION_RECORDS, Partition
from consumer.kafka.publisher import TransactionalPublisher
from consumer.kafka.stored import (
    Stored,
    first_unreadable,
    read_committed,
    read_stored,
    stored_reader,
)

CLIENT_ID = "vortex-partitions"
MAX_UNREADABLE = 10_000
_POLL_S = 0.02


class SkipError(Exception):
    """Nothing is skipped; the message is one line that says why."""


@dataclass(frozen=True)
class SkipPlan:
    """What an operator is asked about."""

    partition: TopicPartition
    first: int
    end: int
    """The offset after the last one that is skipped."""
    unreadable_only: bool
    reason: str | None
    """Why the first offset cannot be read, if that was looked for."""

    def includes(self, stored: Stored) -> bool:
        """Whether what is stored at an offset of this range is skipped."""
        return stored.problem is not None or not self.unreadable_only


async def plan_skip(config: KafkaConfig, partition: TopicPartition, to: int | None) -> SkipPlan:
    """Return what would be skipped; changes nothing.

    Args:
        config: brokers, group and topics.
        partition: of the ticks' topic.
        to: skip everything below this offset that has no outcome; None: skip only the first
            offsets that cannot be read.

    Raises:
        SkipError: there is nothing to skip.
        KafkaUnreachableError: a broker does not answer, or the topic is not there.
    """
    if config.delivery != "exactly-once":
        raise SkipError("skipping needs transactions, and kafka.delivery is at-least-once")
    async with stored_reader(config, CLIENT_ID) as reader:
        if partition.partition not in reader.partitions_for_topic(partition.topic):
            raise SkipError(f"{partition.topic} has no partition {partition.partition}")
        committed = (await read_committed(config, [partition]))[partition]
        start = (await reader.beginning_offsets([partition]))[partition]
        end = (await reader.end_offsets([partition]))[partition]
        point = committed or CommitPoint(start, frozenset())
        if to is None:
            return await _plan_unreadable(reader._client, config, partition, point, end)
    if not point.offset < to <= end:
        raise SkipError(
            f"--to {to}: must be above the committed offset {point.offset} and at most {end},"
            " where the log ends"
        )
    return SkipPlan(partition, point.offset, to, unreadable_only=False, reason=None)


async def _plan_unreadable(
    client: AIOKafkaClient,
    config: KafkaConfig,
    partition: TopicPartition,
    point: CommitPoint,
    log_end: int,
) -> SkipPlan:
    first = await first_unreadable(client, partition, point, max_fetches=config.window)
    if first is None:
        raise SkipError(
            f"every offset of {partition.topic}/{partition.partition} from {point.offset} on can be"
            " read; give --to OFFSET to skip ticks all the same"
        )
    end = min(log_end, first.offset + MAX_UNREADABLE)
    next_offset = first.offset + 1
    async for stored in read_stored(client, partition, next_offset, end):
        if stored.problem is None or stored.offset in point.done:
            break
        next_offset = stored.offset + 1
    if next_offset - point.offset > config.window:
        raise SkipError(
            f"the offsets that cannot be read end at {next_offset}, more than kafka.window"
            f" ({config.window}) above the committed {point.offset}; let a worker answer the ticks"
            " before them first, or skip these too with --to"
        )
    return SkipPlan(
        partition, first.offset, next_offset, unreadable_only=True, reason=first.problem
    )


async def skip(config: KafkaConfig, plan: SkipPlan, *, timeout_s: float) -> list[int]:
    """Claim the partition as a worker does, and publish a dead letter for each offset skipped.

    A worker that has the partition is shut out, claims it again, and goes on behind them.

    Returns:
        The offsets that got a dead letter: those of the plan that still had no outcome.

    Raises:
        KafkaUnreachableError: a broker does not answer.
        TimeoutError: not all was published; what was is complete, and may be called again.
    """
    async with stored_reader(config, CLIENT_ID) as reader, asyncio.timeout(timeout_s):
        reader.assign([plan.partition])
        reader.pause(plan.partition)  # the claim seeks; nothing is to be fetched by itself
        async with _claimed(config, plan.partition, reader) as owner:
            if plan.unreadable_only:
                for offset in range(owner.position, plan.first):
                    owner.register(offset)  # left to the worker; not finished by what we publish
            skipped = []
            stored_ones = read_stored(
                reader._client, plan.partition, max(owner.position, plan.first), plan.end
            )
            async for stored in stored_ones:
                if not owner.register(stored.offset) or not plan.includes(stored):
                    continue
                owner.decide(_dead_letter(config, plan.partition, stored))
                skipped.append(stored.offset)
                if len(skipped) % MAX_TRANSACTION_RECORDS == 0:
                    await _published(owner)
            await _published(owner)
            return skipped


@asynccontextmanager
async def _claimed(
    config: KafkaConfig, partition: TopicPartition, reader: AIOKafkaConsumer
) -> AsyncIterator[Partition]:
    ready = asyncio.Event()
    owner = Partition(
        partition,
        config,
        reader,
        TransactionalPublisher(config, partition, client_id=CLIENT_ID),
        client_id=CLIENT_ID,
        on_ready=ready.set,
        on_past=lambda _: None,
    )
    task = asyncio.create_task(owner.run())
    try:
        owner.assigned()
        await ready.wait()
        yield owner
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _published(owner: Partition) -> None:
    while owner.has_decisions:
        await asyncio.sleep(_POLL_S)


def _dead_letter(config: KafkaConfig, partition: TopicPartition, stored: Stored) -> Decision:
    reason = "skipped by an operator"
    if stored.problem is not None:
        reason = f"{reason}: the record cannot be read: {stored.problem}"
    return dead_letter(
        stored.record or _nothing_at(partition, stored.offset),
        reason,
        topic=config.topics.dead_letter,
        group_id=config.group_id,
        span=INVALID_SPAN,
        context=Context(),
    )


def _nothing_at(partition: TopicPartition, offset: int) -> ConsumerRecord:
    """Return a stand-in for a record that cannot be read."""
    return ConsumerRecord(*partition, offset, -1, 0, None, None, None, -1, -1, ())
