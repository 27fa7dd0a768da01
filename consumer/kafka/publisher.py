"""Outcomes and offsets of one input partition, written in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidTxnState,
    KafkaError,
    MessageSizeTooLargeError,
    NoError,
    ProducerFenced,
    for_code,
)
from aiokafka.producer.transaction_manager import TransactionState
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.transaction import EndTxnRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import OffsetAndMetadata

from consumer.config import KafkaConfig
from consumer.kafka.clients import MAX_BATCH_BYTES, make_producer
from consumer.kafka.done_map import decode_done
from consumer.kafka.ledger import CommitPoint

STOP_TIMEOUT_S = 5.0
END_TIMEOUT_S = 3.0
"""How long a producer that is let go may take to end its transaction."""

_NOTHING_OPEN = (InvalidTxnState, InvalidProducerEpoch, ProducerFenced)
"""How an end is refused where there is no transaction, or where the next owner has ended it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutgoingRecord:
    """A record that is ready to be sent."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    partition: int | None = None
    """Where it goes if the topic has this partition; else its key decides."""

    @property
    def size_bytes(self) -> int:
        """Bytes of key, value and headers, as Kafka packs them."""
        return int(DefaultRecordBatchBuilder.size_of(self.key, self.value, list(self.headers)))


class RecordsTooLargeError(Exception):
    """A topic refused records for their size; the transaction was not committed."""

    def __init__(self, refused: Collection[int]) -> None:
        """Name the refused records.

        Args:
            refused: indices of records that are certainly too large. Empty if several small ones
                shared the batch that was refused: then any of them may be.
        """
        super().__init__(f"records too large for their topic: {sorted(refused) or 'not known yet'}")
        self.refused = frozenset(refused)


class StaleClaimError(Exception):
    """The brokers' answers do not fit together; the claim must start over."""


class Publisher(Protocol):
    """Writes the outcomes and the offsets of one input partition."""

    async def start(self, timeout_s: float) -> CommitPoint | None:
        """Claim the partition, and return what is committed for it, None if nothing ever was."""

    async def publish(
        self, records: Sequence[OutgoingRecord], point: CommitPoint, timeout_s: float
    ) -> None:
        """Write the records and the offset; after any error `start` again."""

    async def stop(self) -> None:
        """Let go of everything; bounded in time."""


class TransactionalPublisher:
    """The transactional producer of one input partition.

    aiokafka sends no more than the group id with transactional offsets, so the broker cannot fence
    by group generation. The transactional id does it instead: it is made from group, topic and
    partition alone, and starting a producer with it shuts out whoever had it before.

    After any error the producer must not be used again: the transaction may have gone through or
    not. `start` a new one and look at what is committed.
    """

    def __init__(self, config: KafkaConfig, partition: TopicPartition, *, client_id: str) -> None:
        self._config = config
        self._partition = partition
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None

    async def start(self, timeout_s: float) -> CommitPoint | None:
        """Shut out any earlier owner of the partition, then return what is committed for it.

        The order matters: only after the fence can the committed offset not change any more. And
        the fence alone is not enough: it is a write at the transaction coordinator, while the
        committed offset is read at the group coordinator, which may have been deposed without
        noticing (frozen, then thawed) and then answers from old memory. So the read is preceded by
        a barrier at the same broker, see `_pass_barrier`.

        Returns:
            None if the group has never committed an offset of this partition.

        Raises:
            TimeoutError: the brokers did not answer in time.
            KafkaError: they refused.
            StaleClaimError: a coordinator changed meanwhile.
            DoneMapError: the committed metadata is of a version that is not known.
        """
        # Its transaction is ended by the new producer's start, if it is still open.
        await self._let_go()
        group, (topic, partition) = self._config.group_id, self._partition
        self._producer = make_producer(
            self._config,
            client_id=f"{self._client_id}-{topic}-{partition}",
            # A slash cannot be part of a topic's name, so no two inputs share an id.
            transactional_id=f"{group}/{topic}/{partition}",
        )
        async with asyncio.timeout(timeout_s):
            await self._producer.start()
            group_coordinator = await self._pass_barrier(self._producer)
            return await self._read_committed(self._producer, group_coordinator)

    async def publish(
        self, records: Sequence[OutgoingRecord], point: CommitPoint, timeout_s: float
    ) -> None:
        """Write the records and the offset, all or nothing.

        Raises:
            TimeoutError: no answer in time; the transaction may have gone through.
            RecordsTooLargeError: a topic takes no records of this size.
            KafkaError: refused; after an error in the commit it may have gone through.
        """
        producer = self._producer
        if producer is None:
            raise RuntimeError("the publisher is not started")
        async with asyncio.timeout(timeout_s):
            await _begin_transaction(producer)
            await deliver(producer, records)
            offset = OffsetAndMetadata(point.offset, point.metadata)
            await producer.send_offsets_to_transaction(
                {self._partition: offset}, self._config.group_id
            )
            await producer.commit_transaction()

    async def stop(self) -> None:
        """Let go of the producer, whatever state it is in; takes a few seconds at most.

        A transaction that it is in the middle of is ended, if the coordinator answers: left open,
        it would hold up the readers of its topics until the next claim, or until its time limit.
        """
        if self._producer is not None:
            await _end_transaction(self._producer)
        await self._let_go()

    async def _let_go(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)

    async def _pass_barrier(self, producer: AIOKafkaProducer) -> int:
        """Have the group's real coordinator append an offset, abort that, and return its node id.

        The append needs a quorum of replicas, so a broker that was deposed cannot answer it,
        whatever it believes. Everything that was committed before lies before it in that broker's
        log. The abort takes it back: nothing is changed.
        """
        fenced_by = _coordinator(producer, CoordinationType.TRANSACTION)
        await _begin_transaction(producer)
        await producer.send_offsets_to_transaction(
            {self._partition: OffsetAndMetadata(0, "")}, self._config.group_id
        )
        appended_by = _coordinator(producer, CoordinationType.GROUP)
        await producer.abort_transaction()
        if _coordinator(producer, CoordinationType.TRANSACTION) != fenced_by:
            raise StaleClaimError("the transaction coordinator changed during the claim")
        return appended_by

    async def _read_committed(
        self, producer: AIOKafkaProducer, group_coordinator: int
    ) -> CommitPoint | None:
        topic, partition = self._partition
        answer = await producer.client.send(
            group_coordinator,
            OffsetFetchRequest(self._config.group_id, [(topic, [partition])]),
            group=ConnectionGroup.COORDINATION,
        )
        for code in (answer.error_code, *(each[3] for _, found in answer.topics for each in found)):
            if code != 0:
                raise StaleClaimError(f"committed offset not read: {for_code(code).__name__}")
        [(_, [(_, offset, metadata, _)])] = answer.topics
        if offset < 0:
            return None
        return CommitPoint(offset, frozenset(decode_done(offset, metadata or "")))


async def stop_producer(producer: AIOKafkaProducer) -> None:
    """Stop a producer, whatever state it is in; takes a few seconds at most."""
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await producer.stop()
    except (TimeoutError, KafkaError) as error:
        logger.warning("Producer did not stop cleanly", extra={"reason": repr(error)})
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await producer.client.close()


async def deliver(producer: AIOKafkaProducer, records: Sequence[OutgoingRecord]) -> None:
    """Send the records and wait for the brokers to have each of them.

    Raises:
        RecordsTooLargeError: a topic refused some for their size.
        KafkaError: another error of the first record that has one.
    """
    deliveries: list[asyncio.Future[object]] = []
    for index, record in enumerate(records):
        try:
            delivery = await producer.send(
                record.topic,
                _value_of(record),
                record.key,
                partition=await _partition_of(producer, record),
                headers=list(record.headers),
            )
        except MessageSizeTooLargeError as error:  # over the client's own limit
            await asyncio.gather(*deliveries, return_exceptions=True)
            raise RecordsTooLargeError([index]) from error
        deliveries.append(delivery)
    # aiokafka's commit flushes, but does not fail when a delivery failed.
    answers = await asyncio.gather(*deliveries, return_exceptions=True)
    refused = [i for i, each in enumerate(answers) if isinstance(each, MessageSizeTooLargeError)]
    if refused:
        # A broker refuses whole batches, and only records below the batch size share one.
        alone = [i for i in refused if records[i].size_bytes >= MAX_BATCH_BYTES]
        raise RecordsTooLargeError(refused if len(records) == 1 else alone)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer


async def _begin_transaction(producer: AIOKafkaProducer) -> None:
    """Begin a transaction, whose failure is raised by our calls and not logged by asyncio as well.

    aiokafka also gives the error to whoever waits for the transaction's end, and that is nobody
    where it fails before its commit.
    """
    await producer.begin_transaction()
    producer._txn_manager.wait_for_transaction_end().add_done_callback(_retrieve)


async def _end_transaction(producer: AIOKafkaProducer) -> None:
    """Abort the transaction that a producer is in, or wait for its end if that is under way."""
    transactions = producer._txn_manager
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            match transactions.state:
                case TransactionState.IN_TRANSACTION:
                    await producer.abort_transaction()
                case (
                    TransactionState.COMMITTING_TRANSACTION | TransactionState.ABORTING_TRANSACTION
                ):
                    await asyncio.shield(transactions.wait_for_transaction_end())
                case TransactionState.ABORTABLE_ERROR | TransactionState.FATAL_ERROR:
                    await _abort_forgotten(producer)
    except _NOTHING_OPEN:
        pass
    except (TimeoutError, KafkaError) as error:
        logger.warning(
            "Transaction not ended; the broker aborts it at its time limit",
            extra={"transactional_id": transactions.transactional_id, "reason": repr(error)},
        )


async def _abort_forgotten(producer: AIOKafkaProducer) -> None:
    """Abort a transaction after an error, over which aiokafka forgets what belongs to it.

    Its own abort takes such a transaction for an empty one, and sends nothing.
    """
    transactions = producer._txn_manager
    transactional_id = transactions.transactional_id
    answer = await producer.client.send(
        await producer.client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id),
        EndTxnRequest(
            transactional_id, transactions.producer_id, transactions.producer_epoch, False
        ),
        group=ConnectionGroup.COORDINATION,
    )
    if (error := for_code(answer.error_code)) is not NoError:
        raise error


def _retrieve(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()


def _coordinator(producer: AIOKafkaProducer, kind: CoordinationType) -> int:
    """Return the node that answered the last request to a coordinator.

    aiokafka keeps it to itself; looking it up again could name another node.
    """
    node = producer._sender._coordinators.get(kind)
    if node is None:
        raise StaleClaimError(f"the {kind.name.lower()} coordinator changed during the claim")
    return int(node)


async def _partition_of(producer: AIOKafkaProducer, record: OutgoingRecord) -> int | None:
    if record.partition is None:
        return None
    # Who asked for it may be wrong; aiokafka would only assert.
    known = await producer.partitions_for(record.topic)
    return record.partition if record.partition in known else None


def _value_of(record: OutgoingRecord) -> bytes | None:
    # aiokafka refuses a record that has neither key nor value, though Kafka has such records.
    return b"" if record.key is None and record.value is None else record.value
