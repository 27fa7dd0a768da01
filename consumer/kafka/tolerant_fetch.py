"""Reads records that aiokafka's consumer gives up on, as far as their bytes allow.

Its parser decodes the names of headers strictly: one record with another name makes the whole fetch
unreadable. And a batch that cannot be decoded takes the good ones before it along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    LeaderNotAvailableError,
    UnknownError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.structs import ConsumerRecord

from vortex.errors import one_line

MAX_FETCH_BYTES = 1024 * 1024
MAX_REASON_CHARS = 200

_FIRST_MAGIC_WITH_HEADERS = 2

_DAMAGE = (CorruptRecordException, UnknownError)
"""How a broker answers that fails over the bytes on its disk."""


@dataclass(frozen=True)
class TolerantFetch:
    """What could be read."""

    records: Sequence[ConsumerRecord]
    """Names of headers that are not UTF-8 have surrogate escapes (PEP 383)."""
    offset: int
    """Where the fetch began."""
    next_offset: int
    """The offset after the last record, and after what is no record behind it."""
    end_offset: int
    """Where the committed part of the log ends."""
    error: Exception | None
    """What stopped the reading at `next_offset`, if anything did."""

    @property
    def problem(self) -> str | None:
        """Why the record at `next_offset` cannot be read; None if it can, or is not there yet."""
        if self.error is not None:
            return describe(self.error)
        if self.next_offset > self.offset or self.next_offset >= self.end_offset:
            return None
        return (
            "the broker returns no whole batch here, although the log goes on to offset"
            f" {self.end_offset}: the length of the stored batch is wrong, or its file is damaged"
        )


async def fetch_tolerantly(
    client: AIOKafkaClient, partition: TopicPartition, offset: int, *, max_records: int
) -> TolerantFetch:
    """Fetch committed records of a partition from an offset on.

    Raises:
        KafkaError: the partition's leader is not known or refuses.
    """
    leader = client.cluster.leader_for_partition(partition)
    if leader is None or leader < 0:
        raise LeaderNotAvailableError(f"{partition} has no leader")
    topic, number = partition
    answer = await client.send(
        leader,
        FetchRequest(
            0,  # the broker answers at once,
            0,  # whether there is anything or not
            MAX_FETCH_BYTES,
            READ_COMMITTED,
            [(topic, [(number, offset, MAX_FETCH_BYTES)])],
        ),
    )
    [(_, [(_, error_code, _, end_offset, *data)])] = answer.topics
    if error_code != 0:
        error: KafkaError = for_code(error_code)(f"the broker cannot read offset {offset}")
        if isinstance(error, _DAMAGE):
            return TolerantFetch((), offset, offset, end_offset, error)
        raise error
    # From version 11 on a preferred replica stands between the two.
    aborted, content = data[-3] if answer.API_VERSION >= 11 else data[-2], data[-1]
    return _parse(partition, content, aborted, offset, end_offset, max_records)


def _parse(
    partition: TopicPartition,
    content: bytes,
    aborted: Sequence[tuple[int, int]] | None,
    offset: int,
    end_offset: int,
    max_records: int,
) -> TolerantFetch:
    records: list[ConsumerRecord] = []
    error = None
    try:
        batches = _TolerantRecords(content)
    except Exception as stopped:  # noqa: BLE001 - as below
        return TolerantFetch(records, offset, offset, end_offset, stopped)
    parsed = PartitionRecords(
        partition,
        batches,
        aborted,
        offset,
        None,
        None,
        True,  # checks checksums
        READ_COMMITTED,
    )
    try:
        for record in parsed:
            records.append(record)
            if len(records) == max_records:
                break
    except Exception as stopped:  # noqa: BLE001 - whatever a decoder raises over damaged bytes
        error = stopped
    return TolerantFetch(records, offset, parsed.next_fetch_offset, end_offset, error)


def describe(error: Exception) -> str:
    """Say in one short line what an error is."""
    return f"{type(error).__name__}: {one_line(error)}"[:MAX_REASON_CHARS]


class _TolerantRecords(_MemoryRecordsPy):  # type: ignore[misc] # declared final
    """A fetch's batches; aiokafka's own parser in Python, which can be told to be lenient."""

    def next_batch(self) -> object:
        piece = self._next_slice
        if piece is None or piece[self.MAGIC_OFFSET] < _FIRST_MAGIC_WITH_HEADERS:
            return super().next_batch()
        self._cache_next()
        return _TolerantBatch(piece)


class _TolerantBatch(_DefaultRecordBatchPy):  # type: ignore[misc] # declared final
    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        if not isinstance(self._buffer, _LenientBuffer):
            self._buffer = _LenientBuffer(self._buffer)


class _LenientBuffer(bytearray):
    """Bytes whose slices decode whatever they hold; the parser decodes only names of headers."""

    def __getitem__(self, key):  # type: ignore[no-untyped-def] # as bytearray's
        part = super().__getitem__(key)
        return _LenientBytes(part) if isinstance(key, slice) else part


class _LenientBytes(bytearray):
    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> str:
        return super().decode(encoding, errors)
