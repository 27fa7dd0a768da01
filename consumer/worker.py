"""The worker: reads ticks, has slots made, publishes exactly one outcome for each tick."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import socket
import time
from collections.abc import Iterable

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind

from consumer.admission import Admission
from consumer.config import KafkaConfig
from consumer.dispatcher import Dispatcher, Made
from consumer.engine.base import Engine
from consumer.intake import UnreadableTickError, dead_letter, read_tick
from consumer.job import Arrival, Decision, Job, TickKey
from consumer.kafka.clients import connecting, make_admin, make_consumer
from consumer.kafka.partition import Partition
from consumer.kafka.publisher import TransactionalPublisher
from consumer.outcome import OutcomeWriter
from consumer.telemetry import propagation, semconv
from schemas import WorkerInfo

POLL_TIMEOUT_MS = 200
POLL_BACKOFF_S = 1.0
DRAIN_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("vortex.consumer", schema_url=semconv.SCHEMA_URL)


class WorkerStartError(Exception):
    """The worker cannot start; the message is one line that says what to do."""


class Worker:
    """One member of the consumer group, with one engine.

    The poll loop reads ticks and hands them to the dispatcher; each assigned partition publishes
    by a task of its own. The loop never waits for a slot, so the worker stays in its group however
    long slots take.
    """

    def __init__(
        self, config: KafkaConfig, engine: Engine, *, worker_id: str | None = None
    ) -> None:
        """Take the engine, not yet started; `run` starts it and stops it.

        Args:
            config: brokers, topics and limits.
            engine: makes the slots.
            worker_id: names this worker in outcomes, spans and at the brokers; by default host
                name and process id.
        """
        self.worker_id = worker_id or f"{socket.gethostname()}-{os.getpid()}"
        self._config = config
        self._topic = config.topics.ticks
        info = WorkerInfo(id=self.worker_id, version=importlib.metadata.version("vortex-slots"))
        self._outcomes = OutcomeWriter(config.topics.results, config.group_id, info)
        self._dispatcher = Dispatcher(engine, Admission(engine), self._decide)
        self._partitions: dict[TopicPartition, Partition] = {}
        self._tasks: dict[TopicPartition, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._queue_full = False
        self._stop_requested = asyncio.Event()

    @property
    def accepting(self) -> bool:
        """Whether ticks are read and a slot could be started now."""
        reading = any(partition.wants_ticks for partition in self._partitions.values())
        return reading and self._dispatcher.engine_ready and not self._stop_requested.is_set()

    def request_stop(self) -> None:
        """Ask `run` to finish what can be finished within the grace period, and to return."""
        self._stop_requested.set()

    async def run(self) -> None:
        """Serve until `request_stop`.

        Raises:
            KafkaUnreachableError: no broker lets us in.
            WorkerStartError: a topic is missing.
            EngineStartError: the engine cannot start.
        """
        self._consumer = make_consumer(self._config, client_id=self.worker_id)
        self._admin = make_admin(self._config, client_id=self.worker_id)
        try:
            await self._connect()
            self._consumer.subscribe([self._topic], listener=_Listener(self))
            serving = asyncio.create_task(self._dispatcher.run())
            polling = asyncio.create_task(self._poll())
            stopping = asyncio.create_task(self._stop_requested.wait())
            try:
                await asyncio.wait(
                    {serving, polling, stopping}, return_when=asyncio.FIRST_COMPLETED
                )
                if stopping.done():
                    await self._finish_what_can_be_finished(serving)
            finally:
                self._stop_requested.set()  # ends the poll loop; a poll itself is never cancelled
                stopping.cancel()
                serving.cancel()
                outcomes = await asyncio.gather(serving, return_exceptions=True)
                await self._drain()
                await _within(STOP_TIMEOUT_S, polling)
            for error in outcomes:
                if isinstance(error, Exception):
                    raise error
            logger.info("Stopped")
        finally:
            await self._disconnect()

    # --- intake -----------------------------------------------------------------------------

    async def _poll(self) -> None:
        while not self._stop_requested.is_set():
            self._update_flow()
            room = max(1, self._config.queue_limit - len(self._dispatcher.queue))
            try:
                fetched = await self._consumer.getmany(timeout_ms=POLL_TIMEOUT_MS, max_records=room)
            except KafkaError as error:
                logger.warning("Ticks cannot be read", extra={"reason": repr(error)})
                await asyncio.sleep(POLL_BACKOFF_S)
                continue
            for partition, records in fetched.items():
                self._receive(partition, records)

    def _receive(self, partition: TopicPartition, records: list[ConsumerRecord]) -> None:
        owner = self._partitions.get(partition)
        if owner is None:
            return
        arrival = Arrival.now()
        new = [record for record in records if owner.admit(record.offset)]
        if not new:
            return
        contexts = [propagation.extract(record.headers) for record in new]
        with tracer.start_as_current_span(
            f"receive {self._topic}",
            kind=SpanKind.CLIENT,
            links=[
                Link(trace.get_current_span(context).get_span_context()) for context in contexts
            ],
            attributes=semconv.receive_attributes(
                topic=self._topic,
                group=self._config.group_id,
                client_id=self.worker_id,
                message_count=len(new),
                partition=partition.partition,
            ),
        ):
            for record, context in zip(new, contexts, strict=True):
                self._accept(record, arrival, context)

    def _accept(self, record: ConsumerRecord, arrival: Arrival, parent: Context) -> None:
        key = TickKey(record.topic, record.partition, record.offset)
        span = tracer.start_span(
            f"process {self._topic}",
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
        fields = {"topic": key.topic, "partition": key.partition, "offset": key.offset}
        try:
            tick = read_tick(record)
        except UnreadableTickError as error:
            semconv.record_failure(span, error)
            logger.warning("Tick is unreadable", extra={**fields, "reason": str(error)})
            self._publish(
                dead_letter(
                    record,
                    str(error),
                    topic=self._config.topics.dead_letter,
                    group_id=self._config.group_id,
                    span=span,
                    context=context,
                )
            )
            return
        span.set_attribute(semconv.SLOT_ID, tick.slot_id)
        span.set_attribute(semconv.SLOT_CHANNEL, tick.channel)
        job = Job.of(key, tick, arrival, span, context)
        logger.info(
            "Tick received",
            extra={
                **fields,
                "slot_id": tick.slot_id,
                "deadline_s": round(job.deadline_s - arrival.monotonic_s, 3),
            },
        )
        self._dispatcher.submit(job)

    def _update_flow(self) -> None:
        """Pause and resume partitions: after a rebalance, at a full queue, at a full window."""
        waiting = len(self._dispatcher.queue)
        # Two marks, so that a queue at its limit does not pause and resume for every slot.
        self._queue_full = waiting >= self._config.queue_limit / (2 if self._queue_full else 1)
        open_to_ticks = not self._queue_full and not self._stop_requested.is_set()
        paused = self._consumer.paused()
        for partition in self._consumer.assignment():
            owner = self._partitions.get(partition)
            wanted = open_to_ticks and owner is not None and owner.wants_ticks
            if wanted and partition in paused:
                self._consumer.resume(partition)
            elif not wanted and partition not in paused:
                self._consumer.pause(partition)

    # --- outcomes ---------------------------------------------------------------------------

    def _decide(self, job: Job, made: Made, started_s: float | None) -> None:
        decision = self._outcomes.decide(job, made, started_s)
        self._publish(decision)

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
                self._add(partition)
            self._partitions[partition].assigned()
        self._update_flow()

    def _add(self, partition: TopicPartition) -> None:
        owner = Partition(
            partition,
            self._config,
            self._consumer,
            TransactionalPublisher(self._config, partition, self._admin, client_id=self.worker_id),
            client_id=self.worker_id,
            on_ready=self._update_flow,
            on_past=self._dispatcher.drop,
        )
        self._partitions[partition] = owner
        self._tasks[partition] = asyncio.create_task(owner.run())

    def _give_up(self, partition: TopicPartition) -> None:
        owner = self._partitions.pop(partition)
        for offset in owner.at_work():
            self._dispatcher.drop(TickKey(partition.topic, partition.partition, offset))
        owner.abandon()
        task = self._tasks.pop(partition)
        task.cancel()
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # --- start and stop ---------------------------------------------------------------------

    async def _connect(self) -> None:
        servers = self._config.bootstrap_servers
        with connecting():
            await self._consumer.start()
            await self._admin.start()
            topics = set(await self._admin.list_topics())
        names = self._config.topics
        missing = sorted({names.ticks, names.results, names.dead_letter} - topics)
        if missing:
            raise WorkerStartError(
                f"Kafka at {servers} has no topic {', '.join(missing)};"
                " create it with `vortex kafka create-topics`"
            )

    async def _finish_what_can_be_finished(self, serving: asyncio.Task[None]) -> None:
        grace_s = self._config.shutdown_grace_s
        logger.info("Stopping", extra={"grace_s": grace_s, "waiting": len(self._dispatcher.queue)})
        self._update_flow()
        give_up_at_s = time.monotonic() + grace_s
        self._dispatcher.finish_by(give_up_at_s)
        while not self._dispatcher.idle and not serving.done() and time.monotonic() < give_up_at_s:
            await asyncio.sleep(0.05)

    async def _drain(self) -> None:
        """Have decided outcomes published; what is undecided stays for the next owner."""
        give_up_at_s = time.monotonic() + DRAIN_TIMEOUT_S
        while time.monotonic() < give_up_at_s and any(
            partition.has_decisions for partition in self._partitions.values()
        ):
            await asyncio.sleep(0.02)
        for partition in list(self._partitions):
            self._give_up(partition)
        if self._closing:
            await asyncio.wait(self._closing, timeout=STOP_TIMEOUT_S)

    async def _disconnect(self) -> None:
        for client, stop in (("consumer", self._consumer.stop), ("admin", self._admin.close)):
            try:
                await asyncio.wait_for(stop(), STOP_TIMEOUT_S)
            except (TimeoutError, KafkaError) as error:
                logger.warning(
                    "Did not stop cleanly", extra={"what": client, "reason": repr(error)}
                )


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka ships no types
    """Passes aiokafka's callbacks on; they block the group's rebalance, so nothing waits here."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._worker.partitions_revoked(revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._worker.partitions_assigned(assigned)


async def _within(timeout_s: float, task: asyncio.Task[None]) -> None:
    """Await a task that is about to end; cancel it only if it does not."""
    _, late = await asyncio.wait({task}, timeout=timeout_s)
    for straggler in late:
        straggler.cancel()
    await asyncio.gather(task, return_exceptions=True)
