"""Brokers in memory, and producers at them: as much of aiokafka as a transaction needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.transaction import EndTxnRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import OffsetAndMetadata

TRANSACTIONS_AT, GROUPS_AT = 1, 2
"""The nodes that coordinate transactions and groups."""


@dataclass
class Brokers:
    """What producers have committed, and every call that reached the brokers."""

    records: list[tuple[str, bytes | None, bytes | None]] = field(default_factory=list)
    """Topic, key and value of each committed record."""
    offsets: dict[TopicPartition, OffsetAndMetadata] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    before: dict[str, Callable[[Producer], Any]] = field(default_factory=dict)
    """Run before a call of that name; may raise, or return something to await."""
    refused: dict[int, KafkaError] = field(default_factory=dict)
    """Errors of deliveries, by their index in a transaction."""
    read_error: int = 0
    """Kafka's error code in answers to the question what is committed."""
    owners: dict[str, Producer] = field(default_factory=dict)
    """Who started last with a transactional id; all earlier ones are shut out."""


class Producer:
    """A transactional producer; it insists on the order of calls that aiokafka insists on."""

    def __init__(self, brokers: Brokers, transactional_id: str) -> None:
        self.brokers = brokers
        self.transactional_id = transactional_id
        self.started = self.stopped = self.closed = False
        self._sender = SimpleNamespace(_coordinators={})
        self.client = SimpleNamespace(
            send=self._send_request, coordinator_lookup=self._look_up, close=self._close
        )
        self._txn_manager = TransactionManager(transactional_id, 60_000)
        self._open = False
        self._records: list[tuple[str, bytes | None, bytes | None]] = []
        self._offsets: dict[TopicPartition, OffsetAndMetadata] = {}

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction of this producer's is open at the brokers."""
        return self._open

    async def start(self) -> None:
        await self._call("start")
        assert not self.started, "started twice"
        self.started = True
        self.brokers.owners[self.transactional_id] = self
        self._sender._coordinators[CoordinationType.TRANSACTION] = TRANSACTIONS_AT
        self._txn_manager.set_pid_and_epoch(1, 0)

    async def begin_transaction(self) -> None:
        await self._call("begin")
        assert self.started
        assert not self._open, "the last transaction is still open"
        self._txn_manager.begin_transaction()
        self._open, self._records, self._offsets = True, [], {}

    async def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> asyncio.Future[object]:
        await self._call("send")
        assert self._open, "sent outside a transaction"
        assert key is not None or value is not None, "aiokafka sends no record without both"
        DefaultRecordBatchBuilder.size_of(key, value, list(headers))  # raises what cannot be packed
        delivery: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        error = self.brokers.refused.get(len(self._records))
        self._records.append((topic, key, value))
        if error is None:
            delivery.set_result(object())
        else:
            delivery.set_exception(error)
        return delivery

    async def send_offsets_to_transaction(
        self, offsets: dict[TopicPartition, OffsetAndMetadata], group_id: str
    ) -> None:
        await self._call("offsets")
        assert self._open, "offsets outside a transaction"
        self._fail_if_fenced()
        self._sender._coordinators[CoordinationType.GROUP] = GROUPS_AT
        self._offsets |= offsets

    async def commit_transaction(self) -> None:
        await self._call("commit")
        assert self._open, "nothing to commit"
        self._fail_if_fenced()
        self._txn_manager.committing_transaction()
        self._txn_manager.complete_transaction()
        self._open = False
        # As aiokafka: a delivery that failed does not make the commit fail.
        kept = (r for i, r in enumerate(self._records) if i not in self.brokers.refused)
        self.brokers.records += kept
        self.brokers.offsets |= self._offsets

    async def abort_transaction(self) -> None:
        await self._call("abort")
        assert self._open, "nothing to abort"
        self._txn_manager.aborting_transaction()
        self._txn_manager.complete_transaction()
        self._open = False

    async def stop(self) -> None:
        await self._call("stop")
        self.stopped = True

    async def _close(self) -> None:
        self.closed = True

    async def _look_up(self, kind: CoordinationType, key: str) -> int:
        assert (kind, key) == (CoordinationType.TRANSACTION, self.transactional_id)
        return TRANSACTIONS_AT

    async def _send_request(self, node: int, request: Any, *, group: object) -> object:
        if isinstance(request, EndTxnRequest):
            await self._call(f"abort at {node}")
            assert request._transaction_result is False
            self._open = False
            return SimpleNamespace(error_code=0)
        return await self._read(node, request)

    async def _read(self, node: int, request: Any) -> object:
        await self._call(f"read at {node}")
        [(topic, [partition])] = request._partitions
        committed = self.brokers.offsets.get(TopicPartition(topic, partition))
        offset, metadata = (-1, "") if committed is None else (committed.offset, committed.metadata)
        found = (partition, offset, metadata, self.brokers.read_error)
        return SimpleNamespace(error_code=0, topics=[(topic, [found])])

    async def _call(self, name: str) -> None:
        self.brokers.calls.append(name)
        if name in self.brokers.before:
            result = self.brokers.before[name](self)
            if result is not None:
                await result

    def _fail_if_fenced(self) -> None:
        if self.brokers.owners[self.transactional_id] is not self:
            raise ProducerFenced
