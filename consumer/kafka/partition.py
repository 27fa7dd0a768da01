"""One assigned input partition: its ticks at work, and the task that publishes their outcomes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, ProducerFenced
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from consumer.config import KafkaConfig
from consumer.job import Decision, TickKey
from consumer.kafka.ledger import CommitPoint, PartitionLedger
from consumer.kafka.publisher import (
    OutgoingRecord,
    Publisher,
    RecordsTooLargeError,
    StaleClaimError,
)
from consumer.telemetry import propagation, semconv

# Of one transaction: what a broker takes well within the time limit of a transaction.
MAX_TRANSACTION_RECORDS = 500
MAX_TRANSACTION_BYTES = 4 * 1024 * 1024
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("vortex.consumer", schema_url=semconv.SCHEMA_URL)


class Partition:
    """Owns the only way by which outcomes of one input partition reach Kafka.

    One task runs through two states forever. *Claiming*: start the producer, which shuts out any
    other owner, read what is committed, drop what others have published, seek there. What is
    committed never goes back: an answer below one that was seen before is refused. *Publishing*:
    write decisions and offsets, as many as there are in one transaction. Any error, and any new
    assignment, leads back to claiming. Ticks at work survive that: they are adopted, not run again.

    A decision stays until its transaction is known to have gone through, or until the committed
    state shows that it had. It is never replaced by another decision; a record that is too large
    for its topic gives way to the shorter form of the same decision.
    """

    def __init__(
        self,
        partition: TopicPartition,
        config: KafkaConfig,
        consumer: AIOKafkaConsumer,
        publisher: Publisher,
        *,
        client_id: str,
        on_ready: Callable[[], None],
        on_past: Callable[[TickKey], None],
        before_reading: Callable[[CommitPoint], Awaitable[None]] | None = None,
        on_published: Callable[[Decision], None] = lambda _: None,
    ) -> None:
        """Set the partition up; `run` does the work.

        Args:
            partition: topic and number.
            config: group and time limits.
            consumer: reads the ticks; is told here where to go on.
            publisher: this partition's own, not yet started.
            client_id: names the worker in spans.
            on_ready: called whenever ticks may be read again.
            on_past: called with every tick at work that turned out to be published already.
            before_reading: awaited in every claim, with where reading will begin; the claim starts
                over if it fails.
            on_published: called with every decision that is known to be published.
        """
        self.partition = partition
        self._config = config
        self._consumer = consumer
        self._publisher = publisher
        self._client_id = client_id
        self._on_ready = on_ready
        self._on_past = on_past
        self._before_reading = before_reading
        self._on_published = on_published
        self._ledger = PartitionLedger(CommitPoint(0, frozenset()))
        self._committed_seen = -1
        self._reading = False
        self._at_work: set[int] = set()
        self._decided: dict[int, Decision] = {}
        self._assigned = asyncio.Event()
        self._assignment = 0
        self._changed = asyncio.Event()
        self._failures = 0
        self._one_at_a_time = False

    @property
    def position(self) -> int:
        """The offset from which reading goes on."""
        return self._ledger.position

    @property
    def claimed(self) -> bool:
        """Whether the partition is claimed: nobody else can publish for it."""
        return self._reading

    @property
    def wants_ticks(self) -> bool:
        """Whether reading may go on: the partition is claimed, and the window has room."""
        return self._reading and self._ledger.span < self._config.window

    @property
    def has_decisions(self) -> bool:
        """Whether decided outcomes wait to be published."""
        return bool(self._decided)

    @property
    def undecided(self) -> int:
        """How many of the ticks that were read have no outcome yet."""
        return len(self._at_work)

    def at_work(self) -> list[int]:
        """Return the offsets of the ticks that are not decided yet."""
        return sorted(self._at_work)

    def revoked(self) -> None:
        """Record that a rebalance has begun. Publishing goes on: the fence makes it safe."""
        self._assigned.clear()
        self._reading = False

    def assigned(self) -> None:
        """Record that the partition is ours, again or still; it is claimed again either way."""
        self._assignment += 1
        self._assigned.set()
        self._reading = False
        self._changed.set()

    def register(self, offset: int) -> bool:
        """Record that a tick was read; return whether it is new work.

        Ticks that were fetched before the partition was claimed are no work: they are read again.
        """
        if not self._reading or not self._ledger.register(offset):
            return False
        self._at_work.add(offset)
        return True

    def skip_to(self, offset: int) -> None:
        """Record that Kafka has no records below an offset any more."""
        self._ledger.skip_to(offset)

    def skip_finished(self, offset: int) -> bool:
        """Go on behind an offset that cannot be read, if it has its outcome; return whether so."""
        return self._ledger.skip_finished(offset)

    def claim_again(self) -> None:
        """Look at what is committed: someone else may have written outcomes."""
        if self._assigned.is_set():
            self.assigned()

    def decide(self, decision: Decision) -> None:
        """Have the decision published; ignored if the tick is no longer ours to decide."""
        offset = decision.key.offset
        if offset in self._at_work:
            self._at_work.remove(offset)
            self._decided[offset] = decision
            self._changed.set()

    def abandon(self) -> None:
        """Close the spans of the decisions that wait: this worker will not publish them."""
        for decision in self._decided.values():
            decision.close()

    async def run(self) -> None:
        """Claim and publish until cancelled."""
        try:
            while True:
                assignment = await self._claim()
                await self._publish_while(assignment)
        finally:
            self._reading = False
            await self._publisher.stop()

    # --- claiming ---------------------------------------------------------------------------

    async def _claim(self) -> int:
        backoff_s = FIRST_BACKOFF_S
        while True:
            await self._assigned.wait()
            assignment = self._assignment
            try:
                committed = await self._publisher.start(self._config.request_timeout_s)
                self._refuse_stale(committed)
                point = await self._beginning() if committed is None else committed
                if self._before_reading is not None:
                    await self._before_reading(point)
            except Exception as error:  # noqa: BLE001 - the other partitions go on in any case
                logger.warning(
                    "Partition not claimed yet",
                    extra={**self._fields, "reason": repr(error), "backoff_s": backoff_s},
                )
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
                continue
            if self._assigned.is_set() and assignment == self._assignment:
                self._start_from(point)
                return assignment

    def _refuse_stale(self, committed: CommitPoint | None) -> None:
        offset = -1 if committed is None else committed.offset
        if offset < self._committed_seen:
            raise StaleClaimError(
                f"committed offset {offset} is below {self._committed_seen}, which was seen before"
            )
        self._committed_seen = offset

    async def _beginning(self) -> CommitPoint:
        async with asyncio.timeout(self._config.request_timeout_s):
            offsets = await self._consumer.beginning_offsets([self.partition])
        return CommitPoint(offsets[self.partition], frozenset())

    def _start_from(self, point: CommitPoint) -> None:
        self._ledger = PartitionLedger(point)
        for offset in sorted(self._at_work | self._decided.keys()):
            if self._ledger.is_past(offset):
                self._forget(offset)
            else:
                self._ledger.adopt(offset)
        # No await between here and the next poll: what was fetched before is not admitted.
        self._consumer.seek(self.partition, point.offset)
        self._reading = True
        self._changed.set()
        logger.info(
            "Partition claimed",
            extra={
                **self._fields,
                "committed": point.offset,
                "done_above": len(point.done),
                "adopted": len(self._at_work) + len(self._decided),
            },
        )
        self._on_ready()

    def _forget(self, offset: int) -> None:
        decision = self._decided.pop(offset, None)
        if decision is not None:
            decision.close()
        self._at_work.discard(offset)
        self._on_past(TickKey(self.partition.topic, self.partition.partition, offset))

    # --- publishing -------------------------------------------------------------------------

    async def _publish_while(self, assignment: int) -> None:
        while assignment == self._assignment:
            await self._changed.wait()
            self._changed.clear()
            while self._decided and assignment == self._assignment:
                batch = self._next_batch()
                try:
                    await self._publish(batch)
                except RecordsTooLargeError as error:
                    self._shorten(batch, error)
                    await self._leave_producer(error)
                    return
                except Exception as error:  # noqa: BLE001 - any error leaves the commit in doubt
                    await self._leave_producer(error)
                    return

    def _next_batch(self) -> dict[int, Decision]:
        batch: dict[int, Decision] = {}
        size_bytes = 0
        for offset, decision in self._decided.items():
            size_bytes += _record(decision).size_bytes
            if batch and (self._one_at_a_time or size_bytes > MAX_TRANSACTION_BYTES):
                break
            batch[offset] = decision
            if len(batch) == MAX_TRANSACTION_RECORDS:
                break
        return batch

    async def _publish(self, batch: dict[int, Decision]) -> None:
        point = self._ledger.commit_point(batch)
        with self._send_spans(batch) as records:
            await self._publisher.publish(records, point, self._config.publish_timeout_s)
        self._failures = 0
        self._ledger.committed(point, batch)
        self._committed_seen = max(self._committed_seen, point.offset)
        for offset in batch:
            decision = self._decided.pop(offset)
            decision.close()
            self._on_published(decision)
        self._one_at_a_time = self._one_at_a_time and bool(self._decided)
        self._on_ready()

    @contextmanager
    def _send_spans(self, batch: dict[int, Decision]) -> Iterator[list[OutgoingRecord]]:
        """Open a span for each decision, and yield the records that carry its trace context."""
        spans: list[Span] = []
        records = []
        for decision in batch.values():
            span = tracer.start_span(
                f"send {decision.topic}",
                context=decision.context,
                kind=SpanKind.PRODUCER,
                attributes=semconv.send_attributes(
                    topic=decision.topic,
                    client_id=self._client_id,
                    body_size_bytes=len(decision.value or b""),
                    key=decision.record_key,
                ),
            )
            spans.append(span)
            record = _record(decision)
            if decision.carries_trace:
                headers = list(record.headers)
                propagation.inject(headers, trace.set_span_in_context(span, decision.context))
                record = replace(record, headers=headers)
            records.append(record)
        try:
            yield records
        except BaseException as error:
            for span in spans:
                semconv.record_failure(span, error)
            raise
        finally:
            for span in spans:
                span.end()

    def _shorten(self, batch: dict[int, Decision], error: RecordsTooLargeError) -> None:
        """Replace what its topic refused by its shorter form, and nothing else.

        What waits for the same topic and is at least as large would be refused as well.
        """
        offsets = list(batch)
        for refused in (batch[offsets[index]] for index in error.refused):
            size_bytes = _record(refused).size_bytes
            for offset, decision in self._decided.items():
                found_bytes = _record(decision).size_bytes
                if decision.topic != refused.topic or found_bytes < size_bytes:
                    continue
                if decision.smaller is None:
                    logger.error(
                        "Outcome is too large for its topic, and cannot be shortened; raise the"
                        " topic's max.message.bytes",
                        extra={**self._fields, "offset": offset, "bytes": found_bytes},
                    )
                    continue
                self._decided[offset] = decision.smaller()
                self._failures = 0
                logger.warning(
                    "Record is too large for its topic, and is written without its content",
                    extra={**self._fields, "offset": offset, "bytes": found_bytes},
                )
        self._one_at_a_time = not error.refused

    async def _leave_producer(self, error: Exception) -> None:
        """Stop using the producer after an error, before the partition is claimed again.

        The next claim lets go of it, or the end of this task, which ends its transaction as well.
        """
        self._reading = False
        logger.warning(
            "Transaction failed or in doubt; looking at what is committed",
            extra={**self._fields, "reason": repr(error), "decisions": len(self._decided)},
        )
        # What fails again and again must not keep the brokers busy.
        await asyncio.sleep(min(FIRST_BACKOFF_S * (2 ** min(self._failures, 8) - 1), MAX_BACKOFF_S))
        self._failures += 1
        if isinstance(error, ProducerFenced | InvalidProducerEpoch):
            # Most likely another worker owns the partition and the group's word is on its way
            # here. Claiming at once would shut out the rightful owner.
            assignment = self._assignment
            deadline = self._config.session_timeout_s
            try:
                async with asyncio.timeout(deadline):
                    while assignment == self._assignment:
                        self._changed.clear()
                        await self._changed.wait()
            except TimeoutError:
                logger.warning("Still assigned after being fenced", extra=self._fields)

    @property
    def _fields(self) -> dict[str, str | int]:
        return {"topic": self.partition.topic, "partition": self.partition.partition}


def _record(decision: Decision) -> OutgoingRecord:
    return OutgoingRecord(
        decision.topic,
        decision.record_key,
        decision.value,
        decision.headers,
        decision.partition,
    )
