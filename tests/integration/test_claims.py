"""What a claim settles: commits in doubt, work across rebalances, and the order of a shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from consumer.cli.doctor import _kafka, _NotReadyError
from consumer.config import WorkerConfig
from consumer.kafka.ledger import CommitPoint
from consumer.kafka.publisher import OutgoingRecord, TransactionalPublisher
from tests.chaos import checker
from tests.integration.conftest import MakeLane
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import assert_one_outcome_each, tick
from tests.support.waiting import until

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize("passed", [True, False], ids=["it had passed", "it had not"])
async def test_commit_in_doubt_is_settled_by_what_is_committed(
    passed: bool, make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = await make_lane()
    publish = TransactionalPublisher.publish
    written: list[list[bytes | None]] = []

    async def doubtful(
        self: TransactionalPublisher,
        records: Sequence[OutgoingRecord],
        point: CommitPoint,
        timeout_s: float,
    ) -> None:
        written.append([record.value for record in records])
        first = len(written) == 1
        if passed or not first:
            await publish(self, records, point, timeout_s)
        if first:
            raise TimeoutError

    monkeypatch.setattr(TransactionalPublisher, "publish", doubtful)
    engine = ScriptedEngine()
    async with lane.worker(engine, "a") as worker:
        await until(lambda: worker.accepting)
        emitted = await lane.emit([tick(1)])
        results = await lane.outcomes(1)
        emitted += await lane.emit([tick(2)])
        results = await lane.outcomes(2)
    assert_one_outcome_each(results, emitted)
    assert engine.started == [1, 2]
    again = [value for values in written[1:] for value in values]
    assert (written[0][0] in again) is not passed  # the very same outcome, or none


async def test_slot_in_flight_is_adopted_across_rebalances_and_made_once(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane()
    hold = asyncio.Event()
    engine = ScriptedEngine({1: Script(hold=hold)})
    async with lane.worker(engine, "a") as worker:
        emitted = await lane.emit([tick(1), tick(2)])
        await until(lambda: engine.started == [1])
        for _ in range(2):
            generation = worker._consumer._coordinator.generation
            worker._consumer._coordinator.request_rejoin()
            await until(
                lambda: (
                    worker._consumer._coordinator.generation != generation  # noqa: B023
                    and worker.accepting
                )
            )
        hold.set()
        results = await lane.outcomes(2)
    assert engine.started == [1, 2]
    assert engine.cancelled == []
    assert_one_outcome_each(results, emitted)


async def test_shutdown_pauses_finishes_commits_stops_producers_then_the_consumer(
    make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = await make_lane()
    steps: list[str] = []

    def note(owner: type, name: str, step: str) -> None:
        call: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def noted(self: Any, *arguments: Any, **keywords: Any) -> Any:
            answer = await call(self, *arguments, **keywords)
            if worker._stop_requested.is_set():
                steps.append(step)
            return answer

        monkeypatch.setattr(owner, name, noted)

    hold = asyncio.Event()
    engine = ScriptedEngine({1: Script(hold=hold)})
    async with lane.worker(engine, "a") as worker:
        note(TransactionalPublisher, "publish", "commit")
        note(AIOKafkaProducer, "stop", "producer")
        note(AIOKafkaConsumer, "stop", "consumer")
        emitted = await lane.emit([tick(1)])
        await until(lambda: engine.started == [1])
        worker.request_stop()
        await until(lambda: worker._consumer.paused() == worker._consumer.assignment())
        assert steps == []
        hold.set()
    assert steps == ["commit", "producer", "consumer"]
    assert_one_outcome_each(await lane.outcomes(1), emitted)


@pytest.mark.parametrize("call", ["abort_transaction", "commit_transaction"], ids=lambda c: c[:-12])
async def test_worker_that_stops_in_the_middle_of_a_transaction_leaves_none_open(
    call: str, make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = await make_lane()
    reached = asyncio.Event()
    go_on: Callable[[AIOKafkaProducer], Awaitable[None]] = getattr(AIOKafkaProducer, call)

    async def hang_once(self: AIOKafkaProducer) -> None:
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        await go_on(self)

    monkeypatch.setattr("consumer.worker.DRAIN_TIMEOUT_S", 0.1)
    monkeypatch.setattr(AIOKafkaProducer, call, hang_once)
    async with lane.worker(ScriptedEngine(), "a"):
        await lane.emit([tick(1)])
        await asyncio.wait_for(reached.wait(), 30)
    topics = lane.config.topics
    at = checker.Lane(
        lane.config.bootstrap_servers,
        topics.ticks,
        topics.results,
        topics.dead_letter,
        lane.config.group_id,
    )
    assert (await asyncio.to_thread(checker.observe, at)).open_transactions == []


async def test_doctor_refuses_a_broker_below_4_in_one_line_unless_at_least_once_is_asked_for(
    make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiokafka.conn import AIOKafkaConnection

    lane = await make_lane()
    settings = WorkerConfig.load().model_copy(update={"kafka": lane.config})
    assert "exactly-once" in await asyncio.to_thread(_kafka, settings)

    look_up = AIOKafkaConnection._do_version_lookup

    async def as_kafka_3_9(self: AIOKafkaConnection) -> None:
        await look_up(self)
        self._versions[26] = (0, 4)  # EndTxn, as a broker of 3.9.1 answers

    monkeypatch.setattr(AIOKafkaConnection, "_do_version_lookup", as_kafka_3_9)
    with pytest.raises(_NotReadyError, match=r"runs a Kafka below 4\.0.*upgrade it") as refused:
        await asyncio.to_thread(_kafka, settings)
    assert lane.config.bootstrap_servers in str(refused.value)
    assert "\n" not in str(refused.value)
    lenient = lane.config.model_copy(update={"delivery": "at-least-once"})
    settings = settings.model_copy(update={"kafka": lenient})
    assert "at-least-once" in await asyncio.to_thread(_kafka, settings)
