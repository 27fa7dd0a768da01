"""No task of a worker ends unnoticed: the worker stops in good order and says that it failed."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Sequence

import pytest
from aiokafka import TopicPartition

from consumer.kafka.ledger import CommitPoint
from consumer.kafka.publisher import OutgoingRecord, TransactionalPublisher
from consumer.worker import Worker, WorkerFailedError
from tests.integration.conftest import MakeLane
from tests.support.command_line import complaint, environment, kafka_variables
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import TIMEOUT_S, Lane, assert_one_outcome_each, tick
from tests.support.vortex_run import COMMAND, MESSAGE
from tests.support.waiting import until

pytestmark = pytest.mark.kafka

UNEXPECTED = "Task ended unexpectedly"
BROKEN = RuntimeError(MESSAGE)


def break_polling(worker: Worker, _: TopicPartition) -> None:
    async def broken(*_: object) -> None:
        raise BROKEN

    worker._reader.poll = broken  # type: ignore[method-assign]


def break_claiming(worker: Worker, partition: TopicPartition) -> None:
    def broken(_: CommitPoint) -> None:
        raise BROKEN

    owner = worker._partitions[partition]
    owner._start_from = broken  # type: ignore[method-assign]
    owner.assigned()


def break_rebalances(worker: Worker, _: TopicPartition) -> None:
    def broken(_: object) -> None:
        raise BROKEN

    worker.partitions_assigned = broken  # type: ignore[method-assign]
    worker._consumer._coordinator.request_rejoin()


BREAKS = {
    "poll loop": break_polling,
    "partition 0": break_claiming,
    "rebalance": break_rebalances,
}
ENDS: dict[str, Callable[[Worker], asyncio.Task[None]]] = {
    "partition 0": lambda worker: next(iter(worker._tasks.values())),
    "aiokafka's fetcher": lambda worker: worker._consumer._fetcher._fetch_task,
    "aiokafka's coordinator": lambda worker: worker._consumer._coordinator._coordination_task,
    "aiokafka's metadata": lambda worker: worker._consumer._client._sync_task,
}


def start(lane: Lane, engine: ScriptedEngine) -> tuple[Worker, asyncio.Task[None]]:
    worker = Worker(lane.config, engine, worker_id="failing")
    return worker, asyncio.create_task(worker.run())


async def ending(running: asyncio.Task[None]) -> str:
    """Await the failure of a worker, and return its message."""
    with pytest.raises(WorkerFailedError) as caught:
        await asyncio.wait_for(running, TIMEOUT_S)
    return str(caught.value)


@pytest.mark.parametrize("task", BREAKS)
async def test_error_in_a_task_ends_the_worker_with_its_traceback_in_the_log(
    task: str, make_lane: MakeLane, caplog: pytest.LogCaptureFixture
) -> None:
    lane = await make_lane()
    engine = ScriptedEngine()
    worker, running = start(lane, engine)
    await until(lambda: worker.accepting)
    BREAKS[task](worker, TopicPartition(lane.config.topics.ticks, 0))
    said = await ending(running)
    assert said.count("\n") == 0
    assert task in said
    assert MESSAGE in said
    (record,) = (record for record in caplog.records if record.message == UNEXPECTED)
    assert record.exc_info
    assert record.exc_info[1] is BROKEN
    assert not engine.up


async def test_error_of_the_engine_that_it_must_not_raise_ends_the_worker(
    make_lane: MakeLane, caplog: pytest.LogCaptureFixture
) -> None:
    lane = await make_lane()
    _, running = start(lane, ScriptedEngine({1: Script(error=BROKEN)}))
    await lane.emit([tick(1)])
    assert "dispatcher" in await ending(running)
    (record,) = (record for record in caplog.records if record.message == UNEXPECTED)
    assert record.exc_info
    assert await lane.committed() == -1


@pytest.mark.parametrize("task", ENDS)
async def test_task_that_ends_untold_ends_the_worker(
    task: str, make_lane: MakeLane, caplog: pytest.LogCaptureFixture
) -> None:
    lane = await make_lane()
    worker, running = start(lane, ScriptedEngine())
    await until(lambda: worker.accepting)
    ENDS[task](worker).cancel()
    assert task in await ending(running)
    assert caplog.messages.count(UNEXPECTED) == 1


async def test_decided_outcomes_are_published_before_a_failed_worker_ends(
    make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = await make_lane()
    published = asyncio.Event()
    publish = TransactionalPublisher.publish

    async def held(
        self: TransactionalPublisher,
        records: Sequence[OutgoingRecord],
        point: CommitPoint,
        timeout_s: float,
    ) -> None:
        await published.wait()
        await publish(self, records, point, timeout_s)

    monkeypatch.setattr(TransactionalPublisher, "publish", held)
    worker, running = start(lane, ScriptedEngine())
    emitted = await lane.emit([tick(1)])
    await until(lambda: any(each.has_decisions for each in worker._partitions.values()))
    break_polling(worker, TopicPartition(lane.config.topics.ticks, 0))
    await until(worker._stop_requested.is_set)
    published.set()
    assert "poll loop" in await ending(running)
    assert_one_outcome_each(await lane.outcomes(1), emitted)


@pytest.mark.parametrize("broken", ["poll", "dispatcher", "partition", "start"])
async def test_failed_worker_process_ends_with_a_code_of_its_own(
    broken: str, make_lane: MakeLane
) -> None:
    lane = await make_lane()
    done = await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, broken],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment(**kafka_variables(lane.config)),
        check=False,
    )
    said = complaint(done, exit_code=4)
    assert "the worker failed unexpectedly" in said
    assert MESSAGE in said
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (error,) = (line for line in lines if line["event"] == UNEXPECTED)
    assert error["exception"][0]["exc_value"] == MESSAGE
