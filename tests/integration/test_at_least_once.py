"""`kafka.delivery: at-least-once`: no transactions, no tick without an outcome, and it says so."""

from __future__ import annotations

import signal

import pytest
from aiokafka.producer.transaction_manager import TransactionManager

from consumer.kafka.at_least_once import AtLeastOncePublisher
from consumer.kafka.publisher import TransactionalPublisher
from consumer.results import DeadLetter
from tests.integration.conftest import MakeLane
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import assert_one_outcome_each, place, tick
from tests.support.waiting import until
from tests.support.worker_process import worker_process

pytestmark = pytest.mark.kafka


async def test_every_tick_is_answered_without_a_transaction_and_events_and_log_say_how(
    make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a producer with an id or a transaction was made")

    lane = await make_lane(partitions=2)
    emitted = await lane.emit([tick(slot_id) for slot_id in range(20)])
    monkeypatch.setattr(TransactionManager, "__init__", refuse)
    caplog.set_level("INFO")
    async with lane.worker(ScriptedEngine(), "a", delivery="at-least-once"):
        results = await lane.outcomes(20)
    assert_one_outcome_each(results, emitted)
    assert await lane.committed(0) + await lane.committed(1) == 20
    assert {result.worker.delivery for result in results if not isinstance(result, DeadLetter)} == {
        "at-least-once"
    }
    (start,) = (record for record in caplog.records if record.message == "Worker started")
    assert vars(start)["delivery"] == "at-least-once"


async def test_killed_worker_leaves_no_tick_without_an_outcome(make_lane: MakeLane) -> None:
    lane = await make_lane(partitions=2)
    config = lane.config.model_copy(update={"delivery": "at-least-once"})
    with worker_process(config, "killed", seconds=0.2) as process:
        emitted = await lane.emit([tick(slot_id) for slot_id in range(12)])
        await lane.outcomes(3, settle_s=0.1)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    engine = ScriptedEngine(default=Script(work_s=0.02))
    async with lane.worker(engine, "next", delivery="at-least-once") as worker:
        results = await lane.outcomes(12)
        await until(lambda: worker.accepting)
    assert {place(result)[1:] for result in results} == {
        (at.partition, at.offset) for at in emitted
    }


async def test_outcome_whose_commit_failed_is_published_again(
    make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = await make_lane()
    failed = 0

    async with lane.worker(ScriptedEngine(), "a", delivery="at-least-once") as worker:
        await until(lambda: worker.accepting)
        commit = worker._consumer.commit

        async def failing(offsets: object) -> None:
            nonlocal failed
            failed += 1
            if failed == 1:
                raise TimeoutError
            await commit(offsets)

        monkeypatch.setattr(worker._consumer, "commit", failing)
        emitted = await lane.emit([tick(1)])
        results = await lane.outcomes(2)
    assert [place(each)[1:] for each in results] == [(0, emitted[0].offset)] * 2
    assert results[0] == results[1]
    assert await lane.committed() == 1


async def test_default_is_exactly_once_by_transactions(make_lane: MakeLane) -> None:
    lane = await make_lane()
    async with lane.worker(ScriptedEngine(), "a") as worker:
        await until(lambda: worker.accepting)
        (owner,) = worker._partitions.values()
        assert isinstance(owner._publisher, TransactionalPublisher)
        assert not isinstance(owner._publisher, AtLeastOncePublisher)
