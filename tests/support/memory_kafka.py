"""A group of one consumer, and an admin, at a topic in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError
from aiokafka.structs import ConsumerRecord

from consumer.config import KafkaConfig
from consumer.kafka.access import Role

CREATE_TIME = 0


class Consumer:
    """A consumer that gets the partitions which a test gives it; all calls that matter are noted.

    As that of `make_consumer`, it pauses what is assigned, and gives it a position.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.log: dict[TopicPartition, list[ConsumerRecord]] = {}
        self.poll_errors: list[Exception] = []
        """Raised by the next polls that ask for records."""
        self.listener: Any = None
        """Who is told of rebalances, once the group is joined."""
        self.started = self.stopped = self.closed = False
        self.fetch_is_retried = False
        """Whether `stop` lets out the cancellation of a fetch, as aiokafka's does then."""
        self.ever_paused: set[TopicPartition] = set()
        self._assigned: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        self._positions: dict[TopicPartition, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def write(self, partition: int, value: bytes) -> None:
        at = TopicPartition(self.topic, partition)
        records = self.log.setdefault(at, [])
        offset, size = len(records), len(value)
        record = ConsumerRecord(*at, offset, 0, CREATE_TIME, None, value, None, 0, size, ())
        records.append(record)

    def rebalance(self, *partitions: int) -> None:
        """Revoke everything, and assign these partitions."""
        self.listener.on_partitions_revoked(set(self._assigned))
        self._assigned = {TopicPartition(self.topic, number) for number in partitions}
        self._paused, self._positions = set(self._assigned), dict.fromkeys(self._assigned, 0)
        self.listener.on_partitions_assigned(set(self._assigned))

    async def start(self) -> None:
        self.started = True
        self._tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(3)]  # type: ignore[misc]
        fetch, coordinate, synchronise = self._tasks
        self._fetcher = SimpleNamespace(_fetch_task=fetch)
        self._coordinator = SimpleNamespace(_coordination_task=coordinate)
        self._client = SimpleNamespace(_sync_task=synchronise, close=self._close)

    async def stop(self) -> None:
        self.stopped = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.fetch_is_retried:
            raise asyncio.CancelledError

    async def _close(self) -> None:
        self.closed = True

    def subscribe(self, topics: Iterable[str], listener: Any) -> None:
        assert self.started
        assert list(topics) == [self.topic]
        self.listener = listener

    def assignment(self) -> set[TopicPartition]:
        return set(self._assigned)

    def paused(self) -> set[TopicPartition]:
        return set(self._paused)

    def pause(self, partition: TopicPartition) -> None:
        self._paused.add(partition)
        self.ever_paused.add(partition)

    def resume(self, partition: TopicPartition) -> None:
        self._paused.discard(partition)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._positions[partition] = offset

    async def position(self, partition: TopicPartition) -> int:
        if partition not in self._assigned:
            raise IllegalStateError(f"Partition {partition} is not assigned")
        return self._positions[partition]

    def last_poll_timestamp(self, partition: TopicPartition) -> int:
        return round(time.time() * 1000)  # the log is at hand

    def last_stable_offset(self, partition: TopicPartition) -> int:
        return len(self.log.get(partition, []))

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> Any:
        return {partition: len(self.log.get(partition, ())) for partition in partitions}

    async def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> Any:
        return dict.fromkeys(partitions, 0)

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int = 500
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        await asyncio.sleep(min(timeout_ms / 1000, 0.005))
        readable = set(partitions) & self._assigned - self._paused
        if readable and self.poll_errors:
            raise self.poll_errors.pop(0)
        fetched = {}
        for at in readable & self._positions.keys():
            start = self._positions[at]
            if records := self.log.get(at, [])[start : start + max_records]:
                fetched[at] = records
                self._positions[at] += len(records)
        return fetched


class Admin:
    """Lists the topics that a test says there are."""

    def __init__(self, *topics: str) -> None:
        self.topics = set(topics)
        self.asked = 0
        self.closed = False
        self._client = self

    async def start(self) -> None:
        pass

    async def require_access(self, _: Any, config: KafkaConfig, role: Role) -> list[str]:
        """Grant every right, and return which of the role's topics are not there."""
        self.asked += 1
        names = config.topics.model_dump()
        wanted = {names[topic] for topic in (*role.reads, *role.writes)} - {None}
        return sorted(wanted - self.topics)

    async def close(self) -> None:
        self.closed = True
