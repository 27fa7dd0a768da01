"""Starting: a worker waits for Kafka within a bound, joins last, and can be stopped at any time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from consumer.embedded_kafka.cluster import EmbeddedKafka
from consumer.engine.base import EngineStartError
from consumer.kafka.access import WATCHER, ask_for_access, require_access
from consumer.kafka.clients import KafkaUnreachableError, make_admin
from consumer.kafka.topics import create_topics
from consumer.worker import Worker, WorkerStartError
from tests.integration.conftest import MakeLane
from tests.support.cases import slow_but
from tests.support.command_line import (
    VORTEX,
    complaint,
    environment,
    kafka_variables,
    vortex,
)
from tests.support.engines import ScriptedEngine
from tests.support.lane import TIMEOUT_S, Lane, assert_one_outcome_each, tick
from tests.support.waiting import until

pytestmark = pytest.mark.kafka

Moment = Callable[[subprocess.Popen[str]], None]
"""Waits until a process has come so far."""

STOP_BOUND_S = 10.0
"""What a starting worker may take to end; mostly the machine's load."""


# Waiting for Kafka


def waiting_engine() -> ScriptedEngine:
    engine = ScriptedEngine()
    engine.may_start.clear()
    return engine


@pytest.mark.timeout(240)
async def test_workers_start_while_one_of_three_brokers_is_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with EmbeddedKafka(nodes=3) as cluster:
        lane = Lane.of(cluster.bootstrap_servers, "ticks", "results", "dead")
        admin = make_admin(lane.config, client_id="test")
        await create_topics(admin, {"ticks": 1, "results": 1, "dead": 1}, replication_factor=3)
        engines = [waiting_engine() for _ in range(30)]
        workers = [Worker(lane.config, engine) for engine in engines]
        await asyncio.to_thread(cluster.kill_node, 2)
        # Until the others notice, each client finds the dead broker with a chance of one in three.
        for _ in range(10):
            assert await ask_for_access(lane.config, WATCHER, client_id="test") == []
        running = [asyncio.create_task(worker.run()) for worker in workers]
        try:
            await until(
                lambda: (
                    all(engine.starts for engine in engines) or any(one.done() for one in running)
                )
            )
            assert [one for one in running if one.done()] == []
            # Of the worker's own; now and then a client of theirs logs the broker that is down.
            ours = [each for each in caplog.records if each.name.startswith("consumer.")]
            said = [each.getMessage() for each in ours if each.levelname != "INFO"]
        finally:
            for worker in workers:
                worker.request_stop()
            await asyncio.gather(*running)
    assert set(said) <= {"Waiting for Kafka"}
    assert len(said) <= len(workers)


async def test_worker_waits_for_topics_with_one_line_and_goes_on_when_they_appear(
    make_lane: MakeLane, caplog: pytest.LogCaptureFixture
) -> None:
    lane = await make_lane()
    missing = f"{lane.config.topics.ticks}.later"
    topics = lane.config.topics.model_copy(update={"ticks": missing})
    worker = Worker(lane.config.model_copy(update={"topics": topics}), ScriptedEngine())
    running = asyncio.create_task(worker.run())
    await until(lambda: "Waiting for Kafka" in caplog.messages)
    # Several attempts later it has said so once.
    attempts = 0

    async def counted(*arguments: Any) -> list[str]:
        nonlocal attempts
        attempts += 1
        return await require_access(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consumer.worker.require_access", counted)
        await until(lambda: attempts >= 3)
    await create_topics(make_admin(lane.config, client_id="test"), {missing: 1})
    await until(lambda: worker.accepting)
    worker.request_stop()
    await asyncio.wait_for(running, TIMEOUT_S)
    (said,) = (record for record in caplog.records if record.message == "Waiting for Kafka")
    assert f"no topic {missing}" in vars(said)["reason"]


async def test_start_timeout_ends_the_wait_for_topics(make_lane: MakeLane) -> None:
    lane = await make_lane()
    topics = lane.config.topics.model_copy(update={"ticks": "not.there"})
    changes = {"topics": topics, "start_timeout_s": 1.5}
    started_s = time.monotonic()
    with pytest.raises(WorkerStartError, match=r"no topic not\.there"):
        await Worker(lane.config.model_copy(update=changes), ScriptedEngine()).run()
    assert 0.5 < time.monotonic() - started_s < 5.0


def test_start_timeout_ends_the_wait_for_brokers_with_one_line() -> None:
    done = vortex(
        "run",
        VORTEX__KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1",
        VORTEX__KAFKA__START_TIMEOUT_S="2",
    )
    said = complaint(done, exit_code=3)
    assert "Kafka cannot be reached" in said
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [event["event"] for event in events] == ["Waiting for Kafka"]
    assert "127.0.0.1:1" in events[0]["reason"]


async def test_refused_login_is_not_tried_again(make_lane: MakeLane) -> None:
    lane = await make_lane()  # its brokers know no SASL, and say so
    security = lane.config.security.model_copy(
        update={"protocol": "SASL_PLAINTEXT", "username": "u", "password": _secret("p")}
    )
    config = lane.config.model_copy(update={"security": security, "start_timeout_s": 60.0})
    started_s = time.monotonic()
    with pytest.raises(KafkaUnreachableError) as caught:
        await Worker(config, ScriptedEngine()).run()
    assert caught.value.permanent
    assert time.monotonic() - started_s < 10.0


def _secret(text: str) -> object:
    from pydantic import SecretStr

    return SecretStr(text)


# Joining the group


class CountingWorker(Worker):
    """Counts how often the group gave it partitions."""

    assignments = 0

    def partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.assignments += 1
        super().partitions_assigned(assigned)


async def test_worker_whose_engine_cannot_start_never_joins_the_group(make_lane: MakeLane) -> None:
    lane = await make_lane(partitions=2)
    healthy = CountingWorker(lane.config, ScriptedEngine(), worker_id="healthy")
    running = asyncio.create_task(healthy.run())
    await until(lambda: healthy.accepting)
    emitted = []
    try:
        for attempt in range(5):
            broken = ScriptedEngine()
            broken.may_start.clear()
            broken.start_error = EngineStartError("the models are missing")
            failing = asyncio.create_task(Worker(lane.config, broken, worker_id="broken").run())
            await until(lambda broken=broken: broken.starts == 1)  # type: ignore[misc]
            emitted += await lane.emit([tick(attempt)])
            await lane.outcomes(attempt + 1)  # a second more than the group needs to rebalance
            broken.may_start.set()
            with pytest.raises(EngineStartError):
                await asyncio.wait_for(failing, TIMEOUT_S)
        assert_one_outcome_each(await lane.outcomes(5), emitted)
        assert healthy.assignments == 1
    finally:
        healthy.request_stop()
        await asyncio.wait_for(running, TIMEOUT_S)


# Stopping a worker that starts


def catches_sigterm(process: subprocess.Popen[str]) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) & 1 << (signal.SIGTERM - 1))


@contextmanager
def starting_worker(variables: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run `vortex run`, from the moment on at which it catches SIGTERM."""
    with subprocess.Popen(
        [*VORTEX, "run"], stderr=subprocess.PIPE, text=True, env=environment(**variables)
    ) as process:
        try:
            end_s = time.monotonic() + STOP_BOUND_S
            while not catches_sigterm(process):
                assert process.poll() is None
                assert time.monotonic() < end_s
                time.sleep(0.001)
            yield process
        finally:
            process.kill()


def stopped(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> list[str]:
    """Stop a worker, which must end well within the bound; return the events that it logged."""
    asked_s = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said
    assert time.monotonic() - asked_s < STOP_BOUND_S
    assert "Traceback" not in said
    return [json.loads(line)["event"] for line in said.splitlines() if line.startswith("{")]


def test_stop_signals_are_caught_before_libraries_are_loaded() -> None:
    with starting_worker({"VORTEX__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}) as process:
        maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
        assert "pydantic_core" not in maps
        assert "Stopped" in stopped(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_that_waits_for_kafka_stops_at_once(number: int) -> None:
    with starting_worker({"VORTEX__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}) as process:
        assert process.stderr
        assert json.loads(process.stderr.readline())["event"] == "Waiting for Kafka"
        assert stopped(process, number)[-1] == "Stopped"


def threads_below(pid: int) -> list[Path]:
    """Return the threads of a process and of its children, as folders of `/proc`."""
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    children = [int(child) for thread in threads for child in read(thread / "children").split()]
    return threads + [thread for child in children for thread in threads_below(child)]


def read(file: Path) -> str:
    """Return the content of a file of `/proc`, empty once its process is gone."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def has_loaded(library: str) -> Moment:
    """Return the moment at which a process, or its engine's, has mapped a library."""

    def wait(process: subprocess.Popen[str]) -> None:
        end_s = time.monotonic() + TIMEOUT_S
        while not any(library in read(thread / "maps") for thread in threads_below(process.pid)):
            assert process.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.01)

    return wait


def has_logged(event: str) -> Moment:
    """Return the moment at which a process has logged an event."""

    def wait(process: subprocess.Popen[str]) -> None:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("{") and json.loads(line)["event"] == event:
                return
        raise AssertionError(f"it ended without {event!r}")

    return wait


MOMENTS: dict[str, Moment] = {
    "at once": lambda _: None,
    "while torch is imported": has_loaded("libtorch_cpu.so"),
    "before the models are loaded": has_loaded("onnxruntime"),
    "while it warms up": has_logged("Models loaded"),
}


@pytest.mark.parametrize("moment", slow_but(["while torch is imported"], MOMENTS))
async def test_worker_that_loads_models_stops_within_seconds(
    moment: str, make_lane: MakeLane, mini_models: Path, tmp_path: Path
) -> None:
    lane = await make_lane()
    variables = kafka_variables(lane.config) | {
        "VORTEX__MODELS__DIRECTORY": str(mini_models),
        "VORTEX__ARTIFACTS__URL": str(tmp_path / "slots"),
    }
    with starting_worker(variables) as process:
        await asyncio.to_thread(MOMENTS[moment], process)
        assert "Stopped" in await asyncio.to_thread(stopped, process)


@pytest.mark.parametrize("host", ["process", "inline"])
async def test_worker_whose_engine_blocks_in_a_thread_stops_within_seconds(
    host: str, make_lane: MakeLane, tmp_path: Path
) -> None:
    lane = await make_lane()
    manifest = tmp_path / "models" / "mini" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    os.mkfifo(manifest)  # whoever opens it to read waits for ever
    variables = kafka_variables(lane.config) | {
        "VORTEX__MODELS__DIRECTORY": str(tmp_path / "models"),
        "VORTEX__ARTIFACTS__URL": str(tmp_path / "slots"),
        "VORTEX__ENGINE__HOST": host,
    }
    with starting_worker(variables) as process:
        await until(lambda: any(map(blocked_on_a_pipe, threads_below(process.pid))))
        events = await asyncio.to_thread(stopped, process)
    assert "Stopped" in events
    # A process that blocks is killed; a thread cannot be.
    last = {"process": "Stopped", "inline": "Ended without threads that are still busy"}
    assert events[-1] == last[host]


def blocked_on_a_pipe(task: Path) -> bool:
    try:
        return (task / "wchan").read_text(encoding="ascii") in ("fifo_open", "wait_for_partner")
    except OSError:
        return False
