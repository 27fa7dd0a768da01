"""One partition's claim and publishing, against a publisher that a test scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN

from consumer.config import KafkaConfig, WorkerConfig
from consumer.job import Decision, TickKey
from consumer.kafka.ledger import CommitPoint
from consumer.kafka.partition import MAX_TRANSACTION_BYTES, Partition
from consumer.kafka.publisher import OutgoingRecord, RecordsTooLargeError

AT = TopicPartition("slot.ticks", 0)


class ScriptedPublisher:
    """Claims in turn what it is told to; refuses records of a size or more."""

    def __init__(self, *claims: CommitPoint | None, limit_bytes: int = 10**9) -> None:
        self.claims = list(claims)
        self.limit_bytes = limit_bytes
        self.errors: list[Exception] = []
        """Raised by the next calls of `publish`."""
        self.published: list[list[OutgoingRecord]] = []
        self.attempts = 0
        self.committed: CommitPoint | None = None

    async def start(self, timeout_s: float) -> CommitPoint | None:
        return self.claims.pop(0) if self.claims else self.committed

    async def publish(
        self, records: Sequence[OutgoingRecord], point: CommitPoint, timeout_s: float
    ) -> None:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)
        refused = [i for i, each in enumerate(records) if each.size_bytes >= self.limit_bytes]
        if refused:
            raise RecordsTooLargeError(refused[:1])
        self.published.append(list(records))
        self.committed = point

    async def stop(self) -> None:
        pass


class Consumer:
    """Notes where reading goes on."""

    def __init__(self) -> None:
        self.seeks: list[int] = []

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.seeks.append(offset)

    async def beginning_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)


def config() -> KafkaConfig:
    return WorkerConfig.load().kafka


def decision(offset: int, size: int, *, can_be_shortened: bool = True) -> Decision:
    key = TickKey(*AT, offset)
    return Decision(
        key,
        topic="letters",
        record_key=None,
        value=bytes(size),
        headers=(),
        span=INVALID_SPAN,
        context=Context(),
        carries_trace=False,
        smaller=partial(decision, offset, 1, can_be_shortened=False) if can_be_shortened else None,
    )


@asynccontextmanager
async def running(publisher: ScriptedPublisher) -> AsyncIterator[tuple[Partition, Consumer]]:
    consumer = Consumer()
    partition = Partition(
        AT,
        config(),
        consumer,
        publisher,  # type: ignore[arg-type] # as much of it as a partition uses
        client_id="test",
        on_ready=lambda: None,
        on_past=lambda _: None,
    )
    partition.assigned()
    task = asyncio.create_task(partition.run())
    try:
        yield partition, consumer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_committed_offset_below_one_already_seen_is_refused() -> None:
    points = [CommitPoint(5, frozenset()), CommitPoint(3, frozenset()), None]
    publisher = ScriptedPublisher(*points, CommitPoint(6, frozenset()))
    async with running(publisher) as (partition, consumer):
        await until(lambda: partition.wants_ticks)
        partition.assigned()
        await until(lambda: partition.wants_ticks)
    assert consumer.seeks == [5, 6]


async def test_what_the_partition_committed_itself_counts_as_seen() -> None:
    publisher = ScriptedPublisher(None)
    async with running(publisher) as (partition, consumer):
        await until(lambda: partition.wants_ticks)
        assert partition.register(0)
        partition.decide(decision(0, 10))
        await until(lambda: publisher.committed == CommitPoint(1, frozenset()))
        publisher.claims = [None, CommitPoint(0, frozenset()), CommitPoint(1, frozenset())]
        partition.assigned()
        await until(lambda: partition.wants_ticks)
    assert consumer.seeks == [0, 1]


async def test_only_records_that_are_too_large_are_shortened_and_soon() -> None:
    publisher = ScriptedPublisher(None, limit_bytes=5000)
    sizes = [100 if offset % 3 else 5000 + offset for offset in range(30)]
    async with running(publisher) as (partition, _):
        await until(lambda: partition.wants_ticks)
        for offset, size in enumerate(sizes):
            assert partition.register(offset)
            partition.decide(decision(offset, size))
        await until(lambda: not partition.has_decisions)
    written = [record for batch in publisher.published for record in batch]
    assert [len(record.value or b"") for record in written] == [
        size if size < 5000 else 1 for size in sizes
    ]
    assert publisher.attempts <= 3  # what is larger than a refused one is shortened with it


async def test_transaction_is_bounded_in_bytes() -> None:
    publisher = ScriptedPublisher(None)
    async with running(publisher) as (partition, _):
        await until(lambda: partition.wants_ticks)
        for offset in range(10):
            assert partition.register(offset)
            partition.decide(decision(offset, MAX_TRANSACTION_BYTES // 4))
        await until(lambda: not partition.has_decisions)
    assert sum(map(len, publisher.published)) == 10
    assert max(map(len, publisher.published)) == 3


async def test_failed_publish_leaves_the_decision_to_be_published_as_it_was() -> None:
    publisher = ScriptedPublisher(None)
    publisher.errors = [KafkaError("lost"), TimeoutError()]
    async with running(publisher) as (partition, _):
        await until(lambda: partition.wants_ticks)
        assert partition.register(0)
        partition.decide(decision(0, 10))
        await until(lambda: bool(publisher.published))
    assert [[record.value for record in batch] for batch in publisher.published] == [[bytes(10)]]
