"""Outcomes and offsets of one input partition without transactions: at least one outcome a tick."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from consumer.config import KafkaConfig
from consumer.kafka.clients import make_plain_producer
from consumer.kafka.done_map import decode_done
from consumer.kafka.ledger import CommitPoint
from consumer.kafka.publisher import OutgoingRecord, deliver, stop_producer


class AtLeastOncePublisher:
    """Writes outcomes first, then commits the offset as a member of the group.

    The group refuses the commit of a worker that lost the partition, but its outcomes stand by
    then: whoever dies, or is replaced, between the two leaves ticks that are answered twice.
    """

    def __init__(
        self,
        config: KafkaConfig,
        partition: TopicPartition,
        consumer: AIOKafkaConsumer,
        *,
        client_id: str,
    ) -> None:
        self._config = config
        self._partition = partition
        self._consumer = consumer
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None

    async def start(self, timeout_s: float) -> CommitPoint | None:
        """Connect, and return what is committed; shuts nobody out.

        Raises:
            TimeoutError: the brokers did not answer in time.
            KafkaError: they refused.
            DoneMapError: the committed metadata is of a version that is not known.
        """
        await self.stop()
        topic, number = self._partition
        self._producer = make_plain_producer(
            self._config, client_id=f"{self._client_id}-{topic}-{number}", idempotent=False
        )
        async with asyncio.timeout(timeout_s):
            await self._producer.start()
            found = await self._consumer._coordinator.fetch_committed_offsets([self._partition])
        if (point := found.get(self._partition)) is None:
            return None
        return CommitPoint(point.offset, frozenset(decode_done(point.offset, point.metadata)))

    async def publish(
        self, records: Sequence[OutgoingRecord], point: CommitPoint, timeout_s: float
    ) -> None:
        """Write the records, then commit the offset.

        Raises:
            TimeoutError: no answer in time; all, some or nothing may have been written.
            RecordsTooLargeError: a topic takes no records of this size.
            KafkaError: refused; some of the records may have been written.
        """
        if self._producer is None:
            raise RuntimeError("the publisher is not started")
        async with asyncio.timeout(timeout_s):
            await deliver(self._producer, records)
            await self._consumer.commit(
                {self._partition: OffsetAndMetadata(point.offset, point.metadata)}
            )

    async def stop(self) -> None:
        """Let go of the producer, whatever state it is in; takes a few seconds at most."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)
