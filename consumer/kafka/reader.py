"""Reads ticks partition by partition, so that one that cannot be read never harms another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    UnsupportedCodecError,
)
from aiokafka.structs import ConsumerRecord

from consumer.kafka.ledger import CommitPoint
from consumer.kafka.looks import Looks, Seen

WAIT_MS = 50
WARY_S = 1.0
WARY_WAIT_S = 0.01
DOUBT_S = 3.0
"""How long a partition may give nothing, with no sign of its end, before it is looked at."""
FIRST_RETRY_S = 0.5
MAX_RETRY_S = 10.0

# What the client raises about one partition; its other errors come from the brokers or the group.
# That a partition has no committed offset is no error here, since every claim seeks.
PARTITION_ERRORS = (
    CorruptRecordException,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    UnsupportedCodecError,
)

# The name of no topic: a poll for it alone leaves every partition's buffer as it is.
_NOWHERE = TopicPartition("", 0)

logger = logging.getLogger(__name__)

Receive = Callable[[TopicPartition, Sequence[ConsumerRecord]], None]


class InputPartition(Protocol):
    """What the reader needs of a partition's owner."""

    @property
    def position(self) -> int:
        """The offset from which reading goes on."""

    @property
    def wants_ticks(self) -> bool:
        """Whether it may be read now."""

    @property
    def undecided(self) -> int:
        """How many of the ticks that were read have no outcome yet."""

    def skip_to(self, offset: int) -> None:
        """Record that Kafka has no records below an offset."""

    def skip_finished(self, offset: int) -> bool:
        """Go on behind an offset, if it has its outcome; return whether so."""

    def claim_again(self) -> None:
        """Look at what is committed."""


@dataclass(frozen=True)
class Fault:
    """Why a partition stands still."""

    offset: int
    """The first offset that cannot be read."""
    reason: str
    retry_at_s: float
    """Monotonic seconds."""
    retry_after_s: float
    """How long it waits until `retry_at_s`."""


@dataclass(frozen=True)
class _Cursor:
    """Where the last read of a partition ended."""

    client: int | None
    """The client's position; may lie behind transaction markers, which are no records."""
    owner: int
    """The owner's position: one above the last record."""


class TickReader:
    """Polls a consumer for the partitions that want ticks, each by itself and in turn.

    The client's position is believed only where this reader left it: a poll that raises has already
    moved it, for other partitions too, past records that nobody saw. After an error every partition
    goes on from its owner's position.

    A partition whose next batch cannot be decoded stands still alone, and is tried again from time
    to time: another replica may have the batch whole. The worker pauses it meanwhile, as the client
    would ask for it again and again without a break.
    """

    def __init__(self, consumer: AIOKafkaConsumer, receive: Receive) -> None:
        """Create a reader that reads nothing until `poll` is called.

        Args:
            consumer: a group's member, started before the first poll.
            receive: called with records that follow the owner's position without a gap, except
                where Kafka itself has one; must take them in at once.
        """
        self._consumer = consumer
        self._receive = receive
        self._cursors: dict[TopicPartition, _Cursor] = {}
        self._faults: dict[TopicPartition, Fault] = {}
        self._doubted_since_s: dict[TopicPartition, float] = {}
        self._looks = Looks(consumer, self.wake)
        self._turn = 0
        self._wary_until_s = 0.0
        self._wake = asyncio.Event()

    @property
    def standing(self) -> Mapping[TopicPartition, Fault]:
        """The partitions that cannot be read at present."""
        return self._faults

    def forget(self, partition: TopicPartition) -> None:
        """Drop what is known of a partition that is no longer read here."""
        self._cursors.pop(partition, None)
        self._faults.pop(partition, None)
        self._doubted_since_s.pop(partition, None)
        self._looks.drop(partition)

    def wake(self) -> None:
        """End a poll that waits since no partition wanted ticks: one may want some now."""
        self._wake.set()

    async def stop(self) -> None:
        """Stop what goes on in the background; nothing is read afterwards."""
        await self._looks.stop()

    async def poll(self, owners: Mapping[TopicPartition, InputPartition], room: int) -> None:
        """Read each partition that wants ticks; wait for a moment if none has any.

        Args:
            owners: the assigned partitions.
            room: the most records to take in.

        Raises:
            KafkaError: brokers or group do not let us read at present.
        """
        now_s = time.monotonic()
        room -= self._take_looks(owners, room)
        self._look_at_the_doubtful(owners, room, now_s)
        shares = self._shares(owners, room)
        try:
            if not shares:
                await self._wait_to_be_woken()
                return
            if await self._poll_each(shares, owners, room):
                return
            if now_s < self._wary_until_s:
                await asyncio.sleep(WARY_WAIT_S)
            else:
                await self._poll_all(shares, owners)
        except Exception:
            self._cursors.clear()
            raise

    def _shares(
        self, owners: Mapping[TopicPartition, InputPartition], room: int
    ) -> dict[TopicPartition, int]:
        """Return how many records may be taken in of each partition that wants some.

        What may wait is shared out among all partitions that are not read to their end, whether
        they have something here already or not, so that one backlog does not hide the others'
        deadlines.
        """
        readable = {each: owner for each, owner in owners.items() if each not in self._faults}
        behind = sum(
            not (owner.wants_ticks and self._is_caught_up(each, owner))
            for each, owner in readable.items()
        )
        in_all = room + sum(owner.undecided for owner in owners.values())
        fair = -(-in_all // max(1, behind))
        shares = {
            each: min(room, fair - owner.undecided)
            for each, owner in readable.items()
            if owner.wants_ticks and each not in self._looks
        }
        return {each: share for each, share in shares.items() if share > 0}

    async def _wait_to_be_woken(self) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_MS / 1000):
                await self._wake.wait()
        # A consumer that is not polled for minutes leaves its group.
        await self._consumer.getmany(_NOWHERE, timeout_ms=0)

    async def _poll_each(
        self,
        shares: Mapping[TopicPartition, int],
        owners: Mapping[TopicPartition, InputPartition],
        room: int,
    ) -> bool:
        """Drain what the client has fetched; return whether there was anything."""
        before = room
        self._turn += 1
        wanted = [*shares]
        start = self._turn % len(wanted)
        for partition in (*wanted[start:], *wanted[:start]):
            share = min(room, shares[partition])
            if share > 0 and owners[partition].wants_ticks:
                room -= await self._poll_one(partition, owners[partition], share)
        return room < before

    async def _poll_one(self, partition: TopicPartition, owner: InputPartition, room: int) -> int:
        position = owner.position
        try:
            await self._keep_in_step(partition, owner)
            fetched = await self._consumer.getmany(partition, timeout_ms=0, max_records=room)
        except (IllegalStateError, NoOffsetForPartitionError):  # taken away, or just assigned
            return 0
        except Exception as error:
            if _is_of_the_whole(error):
                raise
            self._cursors.clear()
            self._wary_until_s = time.monotonic() + WARY_S
            self._looks.start(partition, position, room)
            return 0
        return await self._take(partition, owner, position, fetched.get(partition, ()))

    async def _poll_all(
        self,
        shares: Mapping[TopicPartition, int],
        owners: Mapping[TopicPartition, InputPartition],
    ) -> None:
        """Wait until any partition has records, and take in a few of them."""
        positions = {partition: owners[partition].position for partition in shares}
        try:
            fetched = await self._consumer.getmany(
                *shares, timeout_ms=WAIT_MS, max_records=min(shares.values())
            )
        except Exception as error:
            if _is_of_the_whole(error):
                raise
            # Which partition it was shows when each is polled by itself, for a while by all means:
            # what is fetched again is not there at once.
            self._cursors.clear()
            self._wary_until_s = time.monotonic() + WARY_S
            return
        for partition, records in fetched.items():
            await self._take(partition, owners[partition], positions[partition], records)

    async def _take(
        self,
        partition: TopicPartition,
        owner: InputPartition,
        position: int,
        records: Sequence[ConsumerRecord],
    ) -> int:
        """Hand records on that were polled with the owner at `position`; return how many.

        Nothing in here waits, so no rebalance comes between the poll and the owner.
        """
        client = await self._client_position(partition)
        if client is None or owner.position != position or not owner.wants_ticks:
            self._cursors.pop(partition, None)  # given up or claimed again meanwhile
            return 0
        if records and not self._hand_on(partition, owner, records):
            return 0
        before = self._cursors.get(partition)
        if records or before is None or before.client != client:
            self._doubted_since_s.pop(partition, None)
        self._cursors[partition] = _Cursor(client, owner.position)
        return len(records)

    def _hand_on(
        self, partition: TopicPartition, owner: InputPartition, records: Sequence[ConsumerRecord]
    ) -> bool:
        """Return whether the owner has taken the records in."""
        self._receive(partition, records)
        if owner.position <= records[-1].offset:
            self._cursors.pop(partition, None)
            return False
        self._move_again(partition)
        return True

    # --- the client's position --------------------------------------------------------------

    async def _keep_in_step(self, partition: TopicPartition, owner: InputPartition) -> None:
        """Have the client go on where its owner stands, unless it does."""
        cursor = _Cursor(await self._client_position(partition), owner.position)
        if self._cursors.get(partition) != cursor:
            self._consumer.seek(partition, owner.position)
            self._cursors[partition] = _Cursor(owner.position, owner.position)

    async def _client_position(self, partition: TopicPartition) -> int | None:
        """Return the client's position, None if it has none yet, or no more; never waits."""
        try:
            async with asyncio.timeout(0):
                return int(await self._consumer.position(partition))
        except (TimeoutError, IllegalStateError):  # not yet sought, or taken away by a rebalance
            return None

    # --- what cannot be read ----------------------------------------------------------------

    def _look_at_the_doubtful(
        self, owners: Mapping[TopicPartition, InputPartition], room: int, now_s: float
    ) -> None:
        """Start looks: to try a fault again, and where nothing comes though the log goes on.

        The client says nothing of a broker that answers a fetch with an error, or with no batch.
        """
        for partition, owner in owners.items():
            fault = self._faults.get(partition)
            if not owner.wants_ticks or self._is_caught_up(partition, owner):
                self._doubted_since_s.pop(partition, None)
                due = fault is not None and owner.wants_ticks and fault.retry_at_s <= now_s
            elif fault is not None:
                due = fault.retry_at_s <= now_s
            else:
                due = now_s - self._doubted_since_s.setdefault(partition, now_s) >= DOUBT_S
            if due and room > 0:
                self._looks.start(partition, owner.position, room)

    def _is_caught_up(self, partition: TopicPartition, owner: InputPartition) -> bool:
        """Whether a recent answer of the broker's shows that there is nothing to read."""
        answered_ms = self._consumer.last_poll_timestamp(partition)
        end = self._consumer.last_stable_offset(partition)
        cursor = self._cursors.get(partition)
        if answered_ms is None or end is None or cursor is None or cursor.client is None:
            return False
        recent = abs(time.time() - answered_ms / 1000) < DOUBT_S
        return recent and cursor.owner == owner.position and cursor.client >= end

    def _take_looks(self, owners: Mapping[TopicPartition, InputPartition], room: int) -> int:
        """Act on what the finished looks have found; return how many records were taken in."""
        taken = 0
        for partition, seen in self._looks.take_done():
            owner = owners.get(partition)
            if owner is not None and owner.position == seen.position and owner.wants_ticks:
                self._doubted_since_s.pop(partition, None)
                taken += self._act_on(partition, owner, seen, room - taken)
        return taken

    def _act_on(
        self, partition: TopicPartition, owner: InputPartition, seen: Seen, room: int
    ) -> int:
        self._cursors.pop(partition, None)
        if seen.log_start is not None:
            self._go_on_at(partition, owner, seen.log_start)
        elif seen.fetched is None:
            self._stand_still(partition, seen.position, seen.unanswered or "no answer")
        elif records := seen.fetched.records[:room]:
            return len(records) if self._hand_on(partition, owner, records) else 0
        elif (problem := seen.fetched.problem) is not None:
            offset = max(seen.position, seen.fetched.next_offset)
            self._meet(partition, owner, offset, problem, seen.committed)
        elif not seen.fetched.records:
            owner.skip_to(seen.fetched.next_offset)
            self._move_again(partition)
        return 0

    def _meet(
        self,
        partition: TopicPartition,
        owner: InputPartition,
        offset: int,
        problem: str,
        committed: CommitPoint | None,
    ) -> None:
        """Stand still before what cannot be read, unless an operator has had it skipped."""
        if owner.skip_finished(offset):
            self._move_again(partition)
            return
        self._stand_still(partition, offset, problem)
        if committed is not None and committed.is_past(offset):
            owner.claim_again()

    def _go_on_at(self, partition: TopicPartition, owner: InputPartition, start: int) -> None:
        """Go on where the log begins now, if it begins behind the owner's position."""
        position = owner.position
        if start <= position:
            self._stand_still(partition, position, "the log ends before this offset")
            return
        logger.error(
            "Ticks were deleted by their topic's retention before they were read",
            extra={**_fields(partition, position), "next_offset": start},
        )
        owner.skip_to(start)
        self._move_again(partition)

    def _move_again(self, partition: TopicPartition) -> None:
        if (fault := self._faults.pop(partition, None)) is not None:
            logger.info("Partition is read again", extra=_fields(partition, fault.offset))

    def _stand_still(self, partition: TopicPartition, offset: int, reason: str) -> None:
        before = self._faults.get(partition)
        if before is None or (before.offset, before.reason) != (offset, reason):
            logger.error(
                "Partition stands still: its next record cannot be read",
                extra={**_fields(partition, offset), "reason": reason},
            )
            retry_after_s = FIRST_RETRY_S
        else:
            retry_after_s = min(2 * before.retry_after_s, MAX_RETRY_S)
        retry_at_s = time.monotonic() + retry_after_s
        self._faults[partition] = Fault(offset, reason, retry_at_s, retry_after_s)


def _is_of_the_whole(error: Exception) -> bool:
    """Whether an error of the client's is about brokers or group, and not about one partition."""
    return isinstance(error, KafkaError) and not isinstance(error, PARTITION_ERRORS)


def _fields(partition: TopicPartition, offset: int) -> dict[str, str | int]:
    return {"topic": partition.topic, "partition": partition.partition, "offset": offset}
