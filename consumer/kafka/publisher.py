"""Outcomes and offsets of one input partition, written in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from consumer.config import KafkaConfig
from consumer.kafka.clients import make_producer
from consumer.kafka.done_map import decode_done
from consumer.kafka.ledger import CommitPoint

STOP_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutgoingRecord:
    """A record that is ready to be sent."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class TransactionalPublisher:
    """The transactional producer of one input partition.

    aiokafka sends no more than the group id with transactional offsets, so the broker cannot fence
    by group generation. The transactional id does it instead: it is made from group, topic and
    partition alone, and starting a producer with it shuts out whoever had it before.

    After any error the producer must not be used again: the transaction may have gone through or
    not. `start` a new one and look at what is committed.
    """

    def __init__(
        self,
        config: KafkaConfig,
        partition: TopicPartition,
        admin: AIOKafkaAdminClient,
        *,
        client_id: str,
    ) -> None:
        self._config = config
        self._partition = partition
        self._admin = admin
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None

    async def start(self, timeout_s: float) -> CommitPoint | None:
        """Shut out any earlier owner of the partition, then return what is committed for it.

        The order matters: only after the fence can the committed offset not change any more.

        Returns:
            None if the group has never committed an offset of this partition.

        Raises:
            TimeoutError: the brokers did not answer in time.
            KafkaError: they refused.
            DoneMapError: the committed metadata is of a version that is not known.
        """
        await self.stop()
        group, (topic, partition) = self._config.group_id, self._partition
        self._producer = make_producer(
            self._config,
            client_id=f"{self._client_id}-{topic}-{partition}",
            transactional_id=f"{group}-{topic}-{partition}",
        )
        async with asyncio.timeout(timeout_s):
            await self._producer.start()
            return await self._read_committed()

    async def publish(
        self, records: Sequence[OutgoingRecord], point: CommitPoint, timeout_s: float
    ) -> None:
        """Write the records and the offset, all or nothing.

        Raises:
            TimeoutError: no answer in time; the transaction may have gone through.
            KafkaError: refused; after an error in the commit it may have gone through.
        """
        producer = self._producer
        if producer is None:
            raise RuntimeError("the publisher is not started")
        async with asyncio.timeout(timeout_s):
            await producer.begin_transaction()
            deliveries = [
                await producer.send(
                    record.topic, _value_of(record), record.key, headers=list(record.headers)
                )
                for record in records
            ]
            # aiokafka's commit flushes, but does not fail when a delivery failed.
            await asyncio.gather(*deliveries)
            offset = OffsetAndMetadata(point.offset, point.metadata)
            await producer.send_offsets_to_transaction(
                {self._partition: offset}, self._config.group_id
            )
            await producer.commit_transaction()

    async def stop(self) -> None:
        """Let go of the producer, whatever state it is in; takes a few seconds at most."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            await asyncio.wait_for(producer.stop(), STOP_TIMEOUT_S)
        except (TimeoutError, KafkaError) as error:
            logger.warning("Producer did not stop cleanly", extra={"reason": repr(error)})
            await asyncio.wait_for(producer.client.close(), STOP_TIMEOUT_S)

    async def _read_committed(self) -> CommitPoint | None:
        offsets = await self._admin.list_consumer_group_offsets(
            self._config.group_id, partitions=[self._partition]
        )
        # While the group's coordinator moves, the admin client returns an empty answer, which must
        # not be taken for "nothing is committed".
        committed = offsets.get(self._partition)
        if committed is None:
            raise KafkaError(f"no answer about the committed offset of {self._partition}")
        if committed.offset < 0:
            return None
        done = decode_done(committed.offset, committed.metadata or "")
        return CommitPoint(committed.offset, frozenset(done))


def _value_of(record: OutgoingRecord) -> bytes | None:
    # aiokafka refuses a record that has neither key nor value, though Kafka has such records.
    return b"" if record.key is None and record.value is None else record.value
