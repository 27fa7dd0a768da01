"""The worker: reads ticks, has slots made, publishes exactly one outcome for each tick."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind

from consumer.cancels import Cancels
from consumer.config import KafkaConfig, SlateConfig
from consumer.dead_letter import dead_letter
from consumer.dispatcher import Dispatcher, OnStep
from consumer.duplicates import RecentTicks, read_recent
from consumer.engine.base import Engine, EngineResult, EngineStartError, SlotNotMade
from consumer.engine.measured import MeasuredEngine
from consumer.handover.announcing import Standing
from consumer.handover.handover import USUAL, Handover
from consumer.handover.hop import read_hop
from consumer.intake import UnreadableTickError, read_tick
from consumer.job import Arrival, Decision, Hop, Job, Step, TickKey
from consumer.kafka.access import WORKER, require_access
from consumer.kafka.at_least_once import AtLeastOncePublisher
from consumer.kafka.clients import (
    KafkaUnreachableError,
    background_tasks,
    connecting,
    make_admin,
    make_consumer,
    stop_consumer,
)
from consumer.kafka.ledger import CommitPoint
from consumer.kafka.partition import Partition
from consumer.kafka.publisher import Publisher, TransactionalPublisher
from consumer.kafka.reader import Fault, TickReader
from consumer.outcome import OutcomeWriter
from consumer.telemetry import propagation, semconv
from consumer.telemetry.worker_metrics import WorkerMetrics, WorkerState
from consumer.watched_tasks import WatchedTasks
from schemas import MissReason, SlotCancel, SlotTick, WorkerInfo

if TYPE_CHECKING:
    from schemas.signing import TrustedKeys

POLL_BACKOFF_S = 1.0
DRAIN_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
START_CANCEL_S = 5.0
FIRST_CONNECT_TIMEOUT_S = 5.0
FIRST_CONNECT_BACKOFF_S = 0.1
MAX_CONNECT_BACKOFF_S = 2.0

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("vortex.consumer", schema_url=semconv.SCHEMA_URL)


OnProgress = OnStep
"""Told of each slot when it begins to wait, and when each of its stages begins and ends."""


class WorkerStartError(Exception):
    """The worker cannot start; the message is one line that says what to do."""


class WorkerFailedError(Exception):
    """A task of the worker ended that must not; the log has its traceback."""


EXPECTED_ERRORS = (
    EngineStartError,
    KafkaUnreachableError,
    ModuleNotFoundError,
    WorkerStartError,
)
"""What may end a worker without being a fault of its own; the message says all."""


def default_worker_id() -> str:
    """Return what a worker without a name is called: host name and process id."""
    return f"{socket.gethostname()}-{os.getpid()}"


def worker_info(config: KafkaConfig, worker_id: str) -> WorkerInfo:
    """Return how a worker names itself in its events."""
    version = importlib.metadata.version("vortex-slots")
    return WorkerInfo(id=worker_id, version=version, delivery=config.delivery)


class Worker:
    """One member of the consumer group, with one engine.

    The poll loop reads ticks and hands them to the dispatcher; each assigned partition publishes
    by a task of its own. The loop never waits for a slot, so the worker stays in its group however
    long slots take.
    """

    def __init__(
        self,
        config: KafkaConfig,
        engine: Engine,
        *,
        worker_id: str | None = None,
        on_progress: OnProgress = lambda _job, _step: None,
        store_problem: Callable[[], str | None] = lambda: None,
        trusted: TrustedKeys | None = None,
        metrics: WorkerMetrics | None = None,
        slate: SlateConfig | None = None,
        profile: str = "",
        idle_unload_s: float | None = None,
    ) -> None:
        """Set the worker up; nothing is connected or started before `run`.

        Args:
            config: brokers, topics and limits.
            engine: makes the slots; not yet started, `run` starts and stops it.
            worker_id: names this worker in outcomes, spans and at the brokers; by default host
                name and process id.
            on_progress: see `OnProgress`; called on the event loop, must not block.
            store_problem: returns why nothing can be stored at present, None if it can; must
                answer at once.
            trusted: the keys that may sign ticks; with none, ticks need no signature.
            metrics: counts and measures; by default nothing does.
            slate: what channels show instead of a missed slot.
            profile: of the engine's models; slots are handed over to workers of the same one.
            idle_unload_s: the engine is stopped after so long without a slot; None: never.
        """
        self._trusted = trusted
        self.worker_id = worker_id or default_worker_id()
        self._config = config
        self._metrics = metrics or WorkerMetrics()
        self._engine = MeasuredEngine(engine, self._metrics)
        info = worker_info(config, self.worker_id)
        self._outcomes = OutcomeWriter(config.topics.results, config.group_id, info, slate)
        self._on_progress = on_progress
        self._handover = (
            None
            if config.topics.handover is None
            else Handover(config, info, profile, self._standing_now)
        )
        self._dispatcher = Dispatcher(
            self._engine,
            self._on_result,
            self._on_step,
            None if self._handover is None else self._hand_over,
            idle_unload_s,
        )
        self._partitions: dict[TopicPartition, Partition] = {}
        self._tasks: dict[TopicPartition, asyncio.Task[None]] = {}
        self._recent: dict[TopicPartition, RecentTicks] = {}
        self._cancels = Cancels()
        self._log_ends: Mapping[TopicPartition, int] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._watched = WatchedTasks(self._fail)
        self._failure: BaseException | None = None
        self._started = asyncio.Event()
        self._joined = False
        self._store_problem = store_problem
        self._standing: Mapping[TopicPartition, Fault] = {}
        self._queue_full = False
        self._open_to_ticks = True
        self._stop_requested = asyncio.Event()

    @property
    def accepting(self) -> bool:
        """Whether ticks are read and a slot could be started now."""
        reading = any(partition.wants_ticks for partition in self._partitions.values())
        able = self._dispatcher.engine_ready and not self._dispatcher.paused
        return reading and able and not self._stop_requested.is_set()

    @property
    def standing(self) -> Mapping[TopicPartition, Fault]:
        """The partitions whose next record cannot be read, and why."""
        return self._standing

    def readiness(self) -> Mapping[str, str | None]:
        """Return what keeps the worker from serving a tick now: each check to its problem."""
        unclaimed = [str(each.partition) for each, p in self._partitions.items() if not p.claimed]
        standing = [
            f"{each.topic}/{each.partition} at offset {fault.offset}: {fault.reason}"
            for each, fault in self._standing.items()
        ]
        return {
            "worker": None if self._state == "serving" else f"is {self._state}",
            "engine": None if self._dispatcher.engine_ready else "has not started",
            "group": None if self._joined else "has no assignment yet",
            "claims": f"not claimed: partition {', '.join(unclaimed)}" if unclaimed else None,
            "reading": "; ".join(standing) or None,
            "store": self._store_problem(),
        }

    async def look(self, timeout_s: float) -> WorkerState:
        """Return what metrics say of this moment; asks the brokers where the partitions end.

        Where they do not answer in time, what they said before counts.
        """
        if self._partitions:
            try:
                async with asyncio.timeout(timeout_s):
                    self._log_ends = await self._consumer.end_offsets(list(self._partitions))
            except (KafkaError, TimeoutError) as error:
                logger.debug("Ends of partitions not known", extra={"reason": repr(error)})
        unread = {
            partition: max(0, self._log_ends.get(partition, owner.position) - owner.position)
            for partition, owner in self._partitions.items()
            if owner.claimed
        }
        waiting = self._dispatcher.waiting
        return WorkerState(
            waiting=waiting,
            lag={
                partition: count + len(self._partitions[partition].at_work())
                for partition, count in unread.items()
            },
            lag_s=self._dispatcher.ahead_s
            + (sum(unread.values()) + waiting) * self._dispatcher.usual_s,
            assigned=len(self._partitions),
            standing=len(self._standing),
            engine_ready=self._dispatcher.engine_ready,
            engine_memory_bytes=self._engine.memory_bytes,
            paused=self._dispatcher.paused,
        )

    @property
    def _state(self) -> str:
        if self._stop_requested.is_set():
            return "stopping"
        return "paused" if self._dispatcher.paused else "serving"

    def status(self) -> Mapping[str, Any]:  # Any: whatever JSON holds
        """Return what the worker is doing, for operators."""
        problems = {name: problem for name, problem in self.readiness().items() if problem}
        return {
            "worker": self.worker_id,
            "state": self._state,
            "making": self._dispatcher.making,
            "waiting": self._dispatcher.waiting,
            "problems": problems,
        }

    def pause(self) -> None:
        """Begin no slot until `resume`; ticks are read on, and answered once they cannot wait."""
        logger.warning("Paused", extra={"waiting": self._dispatcher.waiting})
        self._dispatcher.pause()

    def resume(self) -> None:
        """Begin slots again."""
        logger.info("Resumed", extra={"waiting": self._dispatcher.waiting})
        self._dispatcher.resume()

    def cancel(self, cancel: SlotCancel, written_ms: int) -> None:
        """Answer a slot as cancelled: one that is here now, and one whose tick is read soon.

        Args:
            cancel: an operator's order.
            written_ms: when it was written to Kafka; ticks that were written later are made.
        """
        logger.info("Cancel", extra={"channel": cancel.channel, "slot_id": cancel.slot_id})
        self._cancels.note(cancel, written_ms)
        self._dispatcher.cancel(self._cancels.why)

    def request_stop(self) -> None:
        """Ask `run` to finish what can be finished within the grace period, and to return."""
        self._stop_requested.set()

    async def run(self) -> None:
        """Serve until `request_stop`; join the group only once the engine has started.

        Raises:
            KafkaUnreachableError: no broker lets us in.
            WorkerStartError: a topic is missing.
            EngineStartError: the engine cannot start.
            WorkerFailedError: a task ended that was not told to; start another worker.
        """
        self._consumer = make_consumer(self._config, client_id=self.worker_id)
        self._reader = TickReader(self._consumer, self._receive)
        self._standing = self._reader.standing
        self._admin = make_admin(self._config, client_id=self.worker_id)
        try:
            await self._start()
            if not self._stop_requested.is_set():
                await self._serve()
        finally:
            # The group first, so that others take over while the engine lets go.
            await _bounded("consumer", stop_consumer(self._consumer))
            await _bounded("engine", self._engine.stop())
            await _bounded("admin", self._admin.close())
        if self._failure is not None:
            raise self._failure
        logger.info("Stopped")

    # --- intake -----------------------------------------------------------------------------

    async def _poll(self) -> None:
        while not self._stop_requested.is_set():
            self._update_flow()
            room = self._config.queue_limit - self._dispatcher.waiting
            owners = dict(self._partitions) if self._open_to_ticks else {}
            try:
                await self._reader.poll(owners, max(1, room))
            except KafkaError as error:
                logger.warning("Ticks cannot be read", extra={"reason": repr(error)})
                await asyncio.sleep(POLL_BACKOFF_S)

    def _receive(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        owner = self._partitions.get(partition)
        if owner is None:
            return
        arrival = Arrival.now()
        new = []
        recent = self._recent.get(partition)
        for record in records:
            if owner.register(record.offset):
                new.append(record)
            elif recent is not None:
                recent.note_record(record)  # answered before, or at work
        if not new:
            return
        self._metrics.consumed(len(new))
        contexts = [propagation.extract(record.headers) for record in new]
        with tracer.start_as_current_span(
            f"receive {partition.topic}",
            kind=SpanKind.CLIENT,
            links=[
                Link(trace.get_current_span(context).get_span_context()) for context in contexts
            ],
            attributes=semconv.receive_attributes(
                topic=partition.topic,
                group=self._config.group_id,
                client_id=self.worker_id,
                message_count=len(new),
                partition=partition.partition,
            ),
        ):
            for record, context in zip(new, contexts, strict=True):
                self._accept(record, arrival, context)

    def _accept(self, record: ConsumerRecord, arrival: Arrival, parent: Context) -> None:
        span = tracer.start_span(
            f"process {record.topic}",
            context=parent,
            kind=SpanKind.CONSUMER,
            links=[Link(trace.get_current_span(parent).get_span_context())],
            attributes=semconv.process_attributes(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                group=self._config.group_id,
                client_id=self.worker_id,
                body_size_bytes=len(record.value or b""),
                key=record.key,
            ),
        )
        context = trace.set_span_in_context(span, parent)
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            self._take(record, arrival, span, context)

    def _take(
        self, record: ConsumerRecord, arrival: Arrival, span: trace.Span, context: Context
    ) -> None:
        """Submit the tick that a record holds, or put the record aside; the span is current."""
        key = TickKey(record.topic, record.partition, record.offset)
        fields = {"topic": key.topic, "partition": key.partition, "offset": key.offset}
        hop = None
        try:
            if key.topic != self._config.topics.ticks:
                hop = read_hop(record)
            tick = read_tick(record, self._trusted)
            job = self._job(record, tick, arrival, span, context, hop)
            first = self._first_of(tick, record)
        except Exception as error:
            expected = isinstance(error, UnreadableTickError)
            reason = str(error) if expected else f"failed to read it: {type(error).__name__}"
            semconv.record_failure(span, error)
            logger.warning(
                "Tick is unreadable",
                extra={**fields, "reason": reason},
                exc_info=None if expected else error,
            )
            self._put_aside(
                record, reason, span, context, source=None if hop is None else hop.source
            )
            return
        if first is not None:
            self._put_aside(record, self._duplicate(first), span, context, duplicate_of=first)
            logger.info("Tick is a duplicate", extra={**fields, "first_offset": first})
            return
        span.set_attribute(semconv.SLOT_ID, tick.slot_id)
        span.set_attribute(semconv.SLOT_CHANNEL, tick.channel)
        logger.info(
            "Tick received",
            extra={
                **fields,
                "slot_id": tick.slot_id,
                "deadline_s": round(job.deadline_s - arrival.monotonic_s, 3),
            },
        )
        self._dispatcher.submit(job, self._cancels.why(job))

    def _job(
        self,
        record: ConsumerRecord,
        tick: SlotTick,
        arrival: Arrival,
        span: trace.Span,
        context: Context,
        hop: Hop | None,
    ) -> Job:
        return Job.of(
            TickKey(record.topic, record.partition, record.offset),
            tick,
            arrival,
            span,
            context,
            record.timestamp if hop is None else hop.written_ms,
            hop=hop,
            record=record if self._handover is not None and hop is None else None,
        )

    def _put_aside(
        self,
        record: ConsumerRecord,
        reason: str,
        span: trace.Span,
        context: Context,
        *,
        duplicate_of: int | None = None,
        source: TickKey | None = None,
    ) -> None:
        """Have a dead letter published as the record's outcome."""
        self._publish(
            dead_letter(
                record,
                reason,
                topic=self._config.topics.dead_letter,
                group_id=self._config.group_id,
                span=span,
                context=context,
                duplicate_of=duplicate_of,
                source=source,
            )
        )

    def _first_of(self, tick: SlotTick, record: ConsumerRecord) -> int | None:
        """Return the offset of the tick that this one repeats, and remember it for later ones."""
        recent = self._recent.get(TopicPartition(record.topic, record.partition))
        if recent is None:
            return None
        first = recent.first_of(tick, record.offset, record.timestamp)
        recent.note(tick, record.offset, record.timestamp)
        return first

    def _duplicate(self, first: int) -> str:
        return (
            f"duplicate of offset {first}: the same channel and slot again within"
            f" kafka.duplicate_window_s ({self._config.duplicate_window_s:g} s)"
        )

    async def _look_back(self, partition: TopicPartition, point: CommitPoint) -> None:
        window_s = self._config.duplicate_window_s
        # A tick that was handed over was no duplicate where it was read.
        if window_s > 0 and partition.topic == self._config.topics.ticks:
            self._recent[partition] = await read_recent(
                self._consumer, partition, point.offset, window_s
            )

    def _update_flow(self) -> None:
        """Pause and resume partitions: after a rebalance, at a full queue, at a full window."""
        waiting = self._dispatcher.waiting
        # Two marks, so that a queue at its limit does not pause and resume for every slot.
        self._queue_full = waiting >= self._config.queue_limit / (2 if self._queue_full else 1)
        self._open_to_ticks = not self._queue_full and not self._stop_requested.is_set()
        paused = self._consumer.paused()
        for partition in self._consumer.assignment():
            owner = self._partitions.get(partition)
            wanted = (
                self._open_to_ticks
                and owner is not None
                and owner.wants_ticks
                and partition not in self._standing
            )
            if wanted and partition in paused:
                self._consumer.resume(partition)
            elif not wanted and partition not in paused:
                self._consumer.pause(partition)
        if self._open_to_ticks:
            self._reader.wake()

    # --- handover ---------------------------------------------------------------------------

    def _standing_now(self) -> Standing:
        """Return what the others are told; a worker that stops or is paused takes no slots."""
        able = self._dispatcher.engine_ready and not self._dispatcher.paused
        takes = able and not self._stop_requested.is_set()
        return Standing(
            free_in_s=self._dispatcher.free_in_s,
            usual_s=self._usual_s,
            load=self._dispatcher.load,
            partitions=tuple(
                sorted(
                    each.partition
                    for each, owner in self._partitions.items()
                    if takes and owner.claimed and each.topic == self._config.topics.handover
                )
            ),
            most_work=self._engine.most_work(),
        )

    @property
    def _usual_s(self) -> float:
        return self._engine.predict_s(USUAL) or 0.0

    def _hand_over(self, job: Job, seconds: float, spare_s: float, why: str) -> bool:
        if self._handover is None:
            return False

        def miss() -> Decision:
            not_made = SlotNotMade(MissReason.PREDICTED, None, why, {})
            return self._outcomes.write(job, not_made, None)

        lowest = self._engine.ladder[-1]
        decision = self._handover.offer(job, seconds, spare_s, self._usual_s, lowest, why, miss)
        if decision is None:
            return False
        self._publish(decision)
        return True

    def _on_step(self, job: Job, step: Step) -> None:
        self._on_progress(job, step)
        self._note_change()

    def _note_change(self) -> None:
        if self._handover is not None:
            self._handover.note_change()

    # --- outcomes ---------------------------------------------------------------------------

    def _on_result(self, job: Job, result: EngineResult, started_s: float | None) -> None:
        given_up = isinstance(result, SlotNotMade) and result.reason is MissReason.PREDICTED
        if self._handover is not None and given_up and started_s is None:
            self._metrics.unplaced()
        self._publish(self._outcomes.write(job, result, started_s))
        self._note_change()

    def _publish(self, decision: Decision) -> None:
        topic, partition, _ = decision.key
        owner = self._partitions.get(TopicPartition(topic, partition))
        if owner is None:
            decision.close()
        else:
            owner.decide(decision)
        self._update_flow()

    # --- rebalances -------------------------------------------------------------------------

    def partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Stop reading; work goes on, since most partitions come back."""
        self._joined = False
        for partition in revoked:
            if partition in self._partitions:
                self._partitions[partition].revoked()

    def partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Claim what is assigned, give up what is not."""
        assigned = set(assigned)
        for lost in self._partitions.keys() - assigned:
            self._give_up(lost)
        for partition in assigned:
            if partition not in self._partitions:
                if self._stop_requested.is_set():
                    continue  # nothing will be read from it, and nobody would give it up
                self._add(partition)
            self._partitions[partition].assigned()
        self._joined = True
        self._update_flow()

    def _add(self, partition: TopicPartition) -> None:
        owner = Partition(
            partition,
            self._config,
            self._consumer,
            self._publisher(partition),
            client_id=self.worker_id,
            on_ready=self._update_flow,
            on_past=self._dispatcher.drop,
            before_reading=partial(self._look_back, partition),
            on_published=self._metrics.published,
        )
        self._partitions[partition] = owner
        self._tasks[partition] = self._watched.start(
            f"partition {partition.partition}", owner.run()
        )

    def _publisher(self, partition: TopicPartition) -> Publisher:
        if self._config.delivery == "exactly-once":
            return TransactionalPublisher(self._config, partition, client_id=self.worker_id)
        return AtLeastOncePublisher(
            self._config, partition, self._consumer, client_id=self.worker_id
        )

    def _give_up(self, partition: TopicPartition) -> None:
        self._reader.forget(partition)
        self._recent.pop(partition, None)
        owner = self._partitions.pop(partition)
        for offset in owner.at_work():
            self._dispatcher.drop(TickKey(partition.topic, partition.partition, offset))
        owner.abandon()
        task = self._tasks.pop(partition)
        self._watched.cancel(task)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # --- start and stop ---------------------------------------------------------------------

    async def _start(self) -> None:
        """Reach Kafka and start the engine, or return early when told to stop."""
        starting = self._watched.start("start", self._prepare(), may_end=self._started)
        stopping = asyncio.create_task(self._stop_requested.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            self._watched.cancel(starting)
            await asyncio.wait({starting}, timeout=START_CANCEL_S)

    async def _prepare(self) -> None:
        await self._connect()
        await self._dispatcher.start()
        self._started.set()

    async def _connect(self) -> None:
        """Connect to Kafka, again and again within `start_timeout_s` if that may help."""
        limit_s = self._config.start_timeout_s
        give_up_at_s = time.monotonic() + limit_s
        timeout_s, backoff_s = FIRST_CONNECT_TIMEOUT_S, FIRST_CONNECT_BACKOFF_S
        attempts = 0
        while True:
            left_s = give_up_at_s - time.monotonic()
            try:
                # At least a second, so that the last attempt, or the only one, has a chance.
                await self._try_to_connect(max(1.0, min(timeout_s, left_s)))
                break
            except (KafkaUnreachableError, WorkerStartError) as error:
                attempts += 1
                permanent = isinstance(error, KafkaUnreachableError) and error.permanent
                if permanent or time.monotonic() + backoff_s >= give_up_at_s:
                    raise
                if attempts == 1:
                    logger.warning(
                        "Waiting for Kafka", extra={"reason": str(error), "limit_s": limit_s}
                    )
            await asyncio.sleep(backoff_s)
            timeout_s = min(2 * timeout_s, self._config.request_timeout_s)
            backoff_s = min(2 * backoff_s, MAX_CONNECT_BACKOFF_S)
        if attempts:
            logger.info("Kafka reached", extra={"attempts": attempts + 1})

    async def _try_to_connect(self, timeout_s: float) -> None:
        with connecting():
            async with asyncio.timeout(timeout_s):
                await self._admin.start()
                missing = await require_access(self._admin._client, self._config, WORKER)
        if missing:
            raise WorkerStartError(
                f"Kafka at {self._config.bootstrap_servers} has no topic {', '.join(missing)};"
                " create it with `vortex kafka create-topics`"
            )
        with connecting():
            async with asyncio.timeout(timeout_s):
                await self._consumer.start()  # last, as it can only be started once

    # --- serving ----------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Join the group and serve until told to stop, or until a task fails."""
        logger.info(
            "Worker started",
            extra={"delivery": self._config.delivery, "group": self._config.group_id},
        )
        self._consumer.subscribe(list(self._config.topics.inputs), listener=_Listener(self))
        serving = self._watched.start("dispatcher", self._dispatcher.run())
        telling = (
            []
            if self._handover is None
            else [self._watched.start("announcements", self._handover.run())]
        )
        polling = self._watched.start("poll loop", self._poll(), may_end=self._stop_requested)
        foreign = background_tasks(self._consumer)
        for task in foreign:
            self._watched.watch(task)
        try:
            await self._stop_requested.wait()
            if self._failure is None:
                await self._finish_what_can_be_finished()
        finally:
            self._stop_requested.set()  # ends the poll loop; a poll itself is never cancelled
            self._watched.release(*foreign)
            for task in (serving, *telling):
                self._watched.cancel(task)
            await asyncio.wait({serving, *telling}, timeout=STOP_TIMEOUT_S)
            await self._drain()
            await _within(STOP_TIMEOUT_S, polling)
            await self._reader.stop()

    def _fail(self, task: str, error: BaseException | None) -> None:
        """Stop because a task ended unexpectedly; the first such failure is raised by `run`."""
        failure = error
        if not isinstance(error, EXPECTED_ERRORS):
            logger.error("Task ended unexpectedly", extra={"task": task}, exc_info=error)
            reason = "nobody told it to" if error is None else " ".join(repr(error).split())
            failure = WorkerFailedError(
                f"the worker failed unexpectedly: its task {task} ended ({reason}); start it again"
            )
            failure.__cause__ = error
        self._failure = self._failure or failure
        self._stop_requested.set()

    def rebalance_failed(self, error: Exception) -> None:
        """Stop because of an error of ours in a rebalance, which aiokafka would only log."""
        self._fail("rebalance", error)

    async def _finish_what_can_be_finished(self) -> None:
        grace_s = self._config.shutdown_grace_s
        logger.info("Stopping", extra={"grace_s": grace_s, "waiting": self._dispatcher.waiting})
        self._update_flow()
        give_up_at_s = time.monotonic() + grace_s
        self._dispatcher.finish_by(give_up_at_s)
        while (
            not self._dispatcher.idle and self._failure is None and time.monotonic() < give_up_at_s
        ):
            await asyncio.sleep(0.05)

    async def _drain(self) -> None:
        """Have decided outcomes published; what is undecided stays for the next owner."""
        give_up_at_s = time.monotonic() + DRAIN_TIMEOUT_S
        while time.monotonic() < give_up_at_s and any(
            owner.has_decisions and not self._tasks[partition].done()
            for partition, owner in self._partitions.items()
        ):
            await asyncio.sleep(0.02)
        for partition in list(self._partitions):
            self._give_up(partition)
        if self._closing:
            await asyncio.wait(self._closing, timeout=STOP_TIMEOUT_S)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka ships no types
    """Passes aiokafka's callbacks on; they block the group's rebalance, so nothing waits here."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        with self._failing():
            self._worker.partitions_revoked(revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        with self._failing():
            self._worker.partitions_assigned(assigned)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - aiokafka would log it and go on
            self._worker.rebalance_failed(error)


async def _within(timeout_s: float, task: asyncio.Task[None]) -> None:
    """Await a task that is about to end; cancel it only if it does not."""
    _, late = await asyncio.wait({task}, timeout=timeout_s)
    for straggler in late:
        straggler.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _bounded(what: str, stopping: Awaitable[None]) -> None:
    """Let something stop within a time limit."""
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await stopping
    except Exception as error:  # noqa: BLE001 - the others are stopped in any case
        logger.warning("Did not stop cleanly", extra={"what": what, "reason": repr(error)})
