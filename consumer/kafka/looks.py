"""Closer looks at partitions that the client cannot read, in the background.

A look may wait for a broker that does not answer, and the poll loop must not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from consumer.kafka.done_map import DoneMapError, decode_done
from consumer.kafka.ledger import CommitPoint
from consumer.kafka.tolerant_fetch import TolerantFetch, describe, fetch_tolerantly

ANSWER_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Seen:
    """What a look at a position found: one of these."""

    position: int
    fetched: TolerantFetch | None = None
    log_start: int | None = None
    """Where the log begins, if the position is outside it."""
    unanswered: str | None = None
    """Why there is no answer."""
    committed: CommitPoint | None = None
    """What is committed, as far as is known, if what was found cannot be read."""


class Looks:
    """At most one look at a time for each partition."""

    def __init__(self, consumer: AIOKafkaConsumer, on_done: Callable[[], None]) -> None:
        self._consumer = consumer
        self._on_done = on_done
        self._tasks: dict[TopicPartition, asyncio.Task[Seen]] = {}

    def __contains__(self, partition: TopicPartition) -> bool:
        return partition in self._tasks

    def start(self, partition: TopicPartition, position: int, max_records: int) -> None:
        """Look at what is stored from a position on, unless a look is under way."""
        if partition in self._tasks:
            return
        task = asyncio.create_task(self._look(partition, position, max_records))
        task.add_done_callback(lambda _: self._on_done())
        self._tasks[partition] = task

    def take_done(self) -> Iterator[tuple[TopicPartition, Seen]]:
        """Yield the finished looks, each once; an unexpected error of a look is raised here."""
        for partition, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[partition]
                yield partition, task.result()

    def drop(self, partition: TopicPartition) -> None:
        """Stop a look whose result is of no use any more."""
        if (task := self._tasks.pop(partition, None)) is not None:
            task.cancel()

    async def stop(self) -> None:
        """Stop all of them."""
        tasks = list(self._tasks.values())
        for partition in list(self._tasks):
            self.drop(partition)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, partition: TopicPartition, position: int, max_records: int) -> Seen:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                try:
                    fetched = await fetch_tolerantly(
                        self._consumer._client, partition, position, max_records=max_records
                    )
                except OffsetOutOfRangeError:
                    starts = await self._consumer.beginning_offsets([partition])
                    return Seen(position, log_start=starts[partition])
        except TimeoutError:
            leader = self._consumer._client.cluster.leader_for_partition(partition)
            reason = f"no answer from its leader, broker {leader}, within {ANSWER_TIMEOUT_S:g} s"
            return Seen(position, unanswered=reason)
        except KafkaError as error:
            return Seen(position, unanswered=describe(error))
        committed = None if fetched.problem is None else await self._committed(partition)
        return Seen(position, fetched, committed=committed)

    async def _committed(self, partition: TopicPartition) -> CommitPoint | None:
        """Return what is committed, which may be old; enough of a hint to claim again."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                found = await self._consumer._coordinator.fetch_committed_offsets([partition])
            point = found[partition]
            return CommitPoint(point.offset, frozenset(decode_done(point.offset, point.metadata)))
        except (KafkaError, KeyError, TimeoutError, DoneMapError):
            return None
