"""The worker between its group, its engine and its partitions, at brokers in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.config import KafkaConfig, WorkerConfig
from consumer.worker import Worker, WorkerFailedError, WorkerStartError, _bounded
from schemas import parse_outcome
from tests.support.engines import Script, ScriptedEngine
from tests.support.jobs import tick
from tests.support.memory_kafka import Admin, Consumer
from tests.support.producers import Brokers, Producer
from tests.support.waiting import until

TIMEOUT_S = 10.0


class Cluster:
    """Brokers in memory, and workers at them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = WorkerConfig.load().kafka
        topics = self.config.topics
        self.brokers = Brokers()
        self.consumer = Consumer(topics.ticks)
        self.admin = Admin(topics.ticks, topics.results, topics.dead_letter)
        monkeypatch.setattr("consumer.worker.make_consumer", lambda *_, **__: self.consumer)
        monkeypatch.setattr("consumer.worker.make_admin", lambda *_, **__: self.admin)
        monkeypatch.setattr("consumer.worker.require_access", self.admin.require_access)
        monkeypatch.setattr("consumer.kafka.publisher.make_producer", self._producer)

    def emit(self, slot_ids: Iterable[int], partition: int = 0) -> None:
        for slot_id in slot_ids:
            self.consumer.write(partition, tick(slot_id).model_dump_json().encode())

    def answered(self) -> list[int]:
        """Return the slot ids of all outcomes, in order."""
        results = self.config.topics.results
        values = [value or b"" for topic, _, value in self.brokers.records if topic == results]
        return sorted(parse_outcome(value.decode()).slot_id for value in values)

    def committed(self, partition: int = 0) -> int | None:
        at = self.brokers.offsets.get(TopicPartition(self.config.topics.ticks, partition))
        return None if at is None else int(at.offset)

    @asynccontextmanager
    async def worker(
        self,
        engine: ScriptedEngine,
        *partitions: int,
        idle_unload_s: float | None = None,
        **changes: Any,
    ) -> AsyncIterator[Worker]:
        """Run a worker that is given partitions, until the end of the context."""
        config = self.config.model_copy(update=changes)
        worker = Worker(config, engine, worker_id="w", idle_unload_s=idle_unload_s)
        running = asyncio.create_task(worker.run())
        try:
            await until(lambda: self.consumer.listener is not None, TIMEOUT_S)
            self.consumer.rebalance(*partitions)
            await until(lambda: worker.accepting or not partitions, TIMEOUT_S)
            yield worker
        finally:
            worker.request_stop()
            await asyncio.wait_for(running, TIMEOUT_S)

    def _producer(self, _: KafkaConfig, *, client_id: str, transactional_id: str) -> Producer:
        return Producer(self.brokers, transactional_id)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


async def test_received_tick_is_logged_under_its_own_trace_and_not_that_of_its_batch(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("consumer.worker.tracer", provider.get_tracer("vortex.consumer"))
    logged: dict[int, int] = {}

    def note(record: logging.LogRecord) -> bool:
        if record.getMessage() == "Tick received":
            context = trace.get_current_span().get_span_context()
            logged[vars(record)["slot_id"]] = context.trace_id
        return True

    logger = logging.getLogger("consumer.worker")
    caplog.set_level(logging.INFO, logger=logger.name)
    logger.addFilter(note)
    cluster.emit(range(3))
    try:
        async with cluster.worker(ScriptedEngine(), 0):
            await until(lambda: cluster.committed() == 3)
    finally:
        logger.removeFilter(note)
    ticks = {
        span.attributes["slot.id"]: span.context.trace_id
        for span in exporter.get_finished_spans()
        if span.name.startswith("process ") and span.attributes and span.context
    }
    assert len(set(ticks.values())) == 3
    assert logged == ticks


async def test_every_tick_has_one_outcome_and_is_committed(cluster: Cluster) -> None:
    cluster.emit(range(20))
    cluster.emit(range(20, 30), partition=1)
    async with cluster.worker(ScriptedEngine(), 0, 1):
        await until(lambda: len(cluster.answered()) == 30, TIMEOUT_S)
    assert cluster.answered() == list(range(30))
    assert (cluster.committed(0), cluster.committed(1)) == (20, 10)


async def test_unreadable_tick_becomes_a_dead_letter_and_the_next_is_served(
    cluster: Cluster,
) -> None:
    cluster.consumer.write(0, b"no tick")
    cluster.emit([1])
    async with cluster.worker(ScriptedEngine(), 0):
        await until(lambda: cluster.committed() == 2, TIMEOUT_S)
    dead_letter = cluster.config.topics.dead_letter
    assert (dead_letter, None, b"no tick") in cluster.brokers.records
    assert cluster.answered() == [1]


# Rebalances


async def test_slot_whose_partition_comes_back_is_made_once(cluster: Cluster) -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine({0: Script(hold=hold)})
    cluster.emit(range(3))
    async with cluster.worker(engine, 0) as worker:
        await until(lambda: engine.started == [0], TIMEOUT_S)
        cluster.consumer.rebalance(0, 1)
        assert not worker.accepting  # both have to be claimed
        await until(lambda: worker.accepting, TIMEOUT_S)
        hold.set()
        await until(lambda: cluster.committed() == 3, TIMEOUT_S)
    assert sorted(engine.started) == [0, 1, 2]
    assert cluster.answered() == [0, 1, 2]


async def test_work_on_a_partition_that_went_to_another_worker_is_dropped(
    cluster: Cluster,
) -> None:
    engine = ScriptedEngine({0: Script(hold=asyncio.Event())})
    cluster.emit(range(3), partition=0)
    async with cluster.worker(engine, 0, 1):
        await until(lambda: engine.started == [0], TIMEOUT_S)
        cluster.consumer.rebalance(1)
        cluster.emit([7], partition=1)
        await until(lambda: cluster.answered() == [7], TIMEOUT_S)
    assert engine.cancelled == [0]
    assert engine.started == [0, 7]
    assert cluster.committed(0) is None


async def test_partition_that_is_taken_away_during_a_poll_is_no_error(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetch, moved = cluster.consumer.getmany, []

    async def fetch_in_a_rebalance(*partitions: TopicPartition, **options: int) -> Any:
        fetched = await fetch(*partitions, **options)
        if fetched and not moved:
            moved.append(fetched)
            cluster.consumer.rebalance(1)
        return fetched

    monkeypatch.setattr(cluster.consumer, "getmany", fetch_in_a_rebalance)
    cluster.emit(range(3), partition=0)
    cluster.emit([7], partition=1)
    async with cluster.worker(ScriptedEngine(), 0):
        await until(lambda: cluster.answered() == [7], TIMEOUT_S)
    assert moved
    assert [each.getMessage() for each in caplog.records if each.levelname != "INFO"] == []


async def test_nothing_is_accepted_between_revocation_and_assignment(cluster: Cluster) -> None:
    async with cluster.worker(ScriptedEngine(), 0) as worker:
        assigned = cluster.consumer.assignment()
        cluster.consumer.listener.on_partitions_revoked(assigned)
        cluster.emit([0])
        assert not worker.accepting
        cluster.consumer.listener.on_partitions_assigned(assigned)
        await until(lambda: cluster.answered() == [0], TIMEOUT_S)


async def test_error_of_ours_in_a_rebalance_ends_the_worker(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken by the test")

    monkeypatch.setattr("consumer.worker.Partition", broken)
    running = asyncio.create_task(Worker(cluster.config, ScriptedEngine()).run())
    await until(lambda: cluster.consumer.listener is not None, TIMEOUT_S)
    cluster.consumer.rebalance(0)
    with pytest.raises(WorkerFailedError, match=r"rebalance ended .*broken by the test"):
        await asyncio.wait_for(running, TIMEOUT_S)
    assert cluster.consumer.stopped


# Reading


async def test_polls_that_fail_are_repeated_and_lose_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.worker.POLL_BACKOFF_S", 0.01)
    cluster.consumer.poll_errors = [KafkaConnectionError("lost"), KafkaConnectionError("lost")]
    cluster.emit(range(5))
    async with cluster.worker(ScriptedEngine(), 0):
        await until(lambda: len(cluster.answered()) == 5, TIMEOUT_S)
    assert cluster.consumer.poll_errors == []
    assert cluster.answered() == list(range(5))


async def test_claim_ends_a_poll_that_waits_for_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.kafka.reader.WAIT_MS", 2000 * TIMEOUT_S)
    cluster.emit([0])
    async with cluster.worker(ScriptedEngine(), 0):
        await until(lambda: cluster.answered() == [0], TIMEOUT_S)


async def test_full_queue_pauses_every_partition_until_it_is_half_empty(cluster: Cluster) -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine({0: Script(hold=hold)})
    async with cluster.worker(engine, 0, 1, queue_limit=4):
        cluster.emit([0])
        await until(lambda: engine.started == [0], TIMEOUT_S)
        cluster.emit(range(1, 20))
        both = cluster.consumer.assignment()
        await until(lambda: cluster.consumer.paused() == both, TIMEOUT_S)
        hold.set()
        await until(lambda: len(cluster.answered()) == 20, TIMEOUT_S)
        assert cluster.consumer.paused() == set()
    assert cluster.answered() == list(range(20))


# Idle unload


async def test_worker_whose_engine_is_unloaded_stays_ready_and_serves_the_next_tick(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.dispatcher.LOOK_INTERVAL_S", 0.02)
    engine = ScriptedEngine()
    async with cluster.worker(engine, 0, idle_unload_s=0.1) as worker:
        await until(lambda: not engine.up, TIMEOUT_S)
        assert not any(worker.readiness().values())
        assert worker.accepting
        assert (await worker.look(TIMEOUT_S)).engine_ready
        cluster.emit([1])
        await until(lambda: cluster.answered() == [1], TIMEOUT_S)
    assert engine.starts == 2


# Start and stop


async def test_group_is_joined_only_once_the_engine_has_started(cluster: Cluster) -> None:
    engine = ScriptedEngine()
    engine.may_start.clear()
    worker = Worker(cluster.config, engine)
    running = asyncio.create_task(worker.run())
    await until(lambda: engine.starts == 1, TIMEOUT_S)
    assert cluster.consumer.started
    assert cluster.consumer.listener is None
    engine.may_start.set()
    await until(lambda: cluster.consumer.listener is not None, TIMEOUT_S)
    assert not worker.accepting  # it has no partition yet
    worker.request_stop()
    await asyncio.wait_for(running, TIMEOUT_S)


async def test_worker_stopped_while_its_engine_starts_never_joins(cluster: Cluster) -> None:
    engine = ScriptedEngine()
    engine.may_start.clear()
    worker = Worker(cluster.config, engine)
    running = asyncio.create_task(worker.run())
    await until(lambda: engine.starts == 1, TIMEOUT_S)
    worker.request_stop()
    await asyncio.wait_for(running, TIMEOUT_S)
    assert cluster.consumer.listener is None
    assert (cluster.consumer.stopped, cluster.admin.closed) == (True, True)


async def test_stop_finishes_within_the_grace_period_what_runs(cluster: Cluster) -> None:
    engine = ScriptedEngine({0: Script(work_s=0.2), 1: Script(hold=asyncio.Event())})
    cluster.emit([0])
    async with cluster.worker(engine, 0, shutdown_grace_s=0.5):
        await until(lambda: engine.started == [0], TIMEOUT_S)
        cluster.emit([1])
    assert cluster.answered() == [0]
    assert cluster.committed() == 1


async def test_part_that_does_not_stop_keeps_no_other_from_stopping(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(ScriptedEngine):
        async def stop(self) -> None:
            if self.up:  # not yet at the start
                raise RuntimeError("no")

    async with cluster.worker(Stubborn(), 0):
        pass
    assert (cluster.consumer.stopped, cluster.admin.closed) == (True, True)
    assert "Did not stop cleanly" in caplog.messages


async def test_cancellation_that_comes_as_a_part_stops_is_not_lost() -> None:
    last_answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def part() -> None:
        await last_answer

    stopping = asyncio.create_task(_bounded("part", part()))
    await asyncio.sleep(0.01)
    last_answer.set_result(None)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping


async def test_missing_topic_is_waited_for_with_one_line_and_then_named(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("consumer.worker.FIRST_CONNECT_BACKOFF_S", 0.01)
    cluster.admin.topics.remove(cluster.config.topics.results)
    config = cluster.config.model_copy(update={"start_timeout_s": 0.1})
    engine = ScriptedEngine()
    with pytest.raises(WorkerStartError, match=r"no topic slot\.results; create it with"):
        await Worker(config, engine).run()
    assert cluster.admin.asked > 2
    assert caplog.messages.count("Waiting for Kafka") == 1
    assert engine.starts == 0


async def test_stop_in_the_middle_of_a_retried_fetch_is_a_clean_one(cluster: Cluster) -> None:
    cluster.emit(range(3))
    async with cluster.worker(ScriptedEngine(), 0):
        await until(lambda: len(cluster.answered()) == 3, TIMEOUT_S)
        cluster.consumer.fetch_is_retried = True
    assert cluster.consumer.closed
    assert cluster.committed() == 3
