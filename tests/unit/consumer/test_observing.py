"""What systemd and the metrics are told while a worker runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumer.observing import observing
from consumer.telemetry.worker_metrics import WorkerMetrics, WorkerState
from tests.support.waiting import until

STATE = WorkerState(1, {}, 0.0, 0, 0, engine_ready=True, engine_memory_bytes=0)


@dataclass
class Worker:
    problem: str | None = None
    error: Exception | None = None
    looks: int = 0

    def readiness(self) -> Mapping[str, str | None]:
        return {"engine": self.problem}

    async def look(self, timeout_s: float) -> WorkerState:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return STATE


class Told(WorkerMetrics):
    def __init__(self) -> None:
        super().__init__()
        self.states: list[WorkerState] = []

    def tell(self, state: WorkerState) -> None:
        self.states.append(state)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.observing.INTERVAL_S", 0.01)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Give the socket on which systemd listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(10.0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


async def heard(systemd: socket.socket) -> str:
    return (await asyncio.to_thread(systemd.recv, 100)).decode()


async def test_systemd_hears_of_readiness_once_then_of_life_and_of_the_end(
    systemd: socket.socket,
) -> None:
    worker = Worker(problem="has not started")
    async with observing(worker, Told()):
        assert await heard(systemd) == "WATCHDOG=1"
        worker.problem = None
        said = ""
        while said != "READY=1":
            said = await heard(systemd)
            assert said in ("READY=1", "WATCHDOG=1")
        for _ in range(3):
            assert await heard(systemd) == "WATCHDOG=1"
    while said != "STOPPING=1":
        said = await heard(systemd)
        assert said in ("STOPPING=1", "WATCHDOG=1")


async def test_systemd_hears_nothing_while_the_loop_hangs(systemd: socket.socket) -> None:
    async with observing(Worker(), Told()):
        assert await heard(systemd) == "READY=1"
        time.sleep(0.1)  # noqa: ASYNC251 - the hang
        systemd.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            systemd.recv(100)  # of the beat that made it ready
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


async def test_error_while_looking_is_logged_once_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker, told = Worker(error=ValueError("odd")), Told()
    async with observing(worker, told):
        await until(lambda: worker.looks >= 3)
        worker.error = None
        await until(lambda: len(told.states) > 0)
    errors = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert [each.message for each in errors] == ["The worker's state cannot be told"]
