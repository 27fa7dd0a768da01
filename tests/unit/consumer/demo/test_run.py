"""A demo whose worker does not become ready."""

from __future__ import annotations

import asyncio

import pytest

from consumer.config import WorkerConfig
from consumer.demo import run
from consumer.worker import Worker, WorkerStartError
from tests.support.engines import ScriptedEngine


async def test_worker_that_is_not_ready_in_time_is_told_with_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "READY_TIMEOUT_S", 0.2)
    worker = Worker(WorkerConfig.load().kafka, ScriptedEngine(), worker_id="demo")
    waits = [name for name, why in worker.readiness().items() if why]
    assert waits
    running = asyncio.create_task(_never())  # it never comes to start
    try:
        with pytest.raises(WorkerStartError, match=r"not ready within 0\.2 s") as raised:
            await asyncio.wait_for(run._until_it_accepts(worker, running), 10)
    finally:
        running.cancel()
    assert all(name in str(raised.value) for name in waits)
    assert "\n" not in str(raised.value)


async def _never() -> None:
    await asyncio.Event().wait()
