"""How a run waits for what the brokers still have to do when the workers have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from consumer.config import WorkerConfig
from tests.chaos import run
from tests.chaos.checker import Observation
from tests.chaos.fleet import Fleet, WorkerProcess, WorkerStopError

OPEN = Observation({}, [], {}, ["offset of 3: unstable"])
CLOSED = Observation({}, [], {}, [])


def looks(*seen: Observation) -> Callable[[], Awaitable[Observation]]:
    """Return a look that sees these in turn, and then the last one again and again."""
    left = list(seen)

    async def look() -> Observation:
        return left.pop(0) if len(left) > 1 else left[0]

    return look


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "OBSERVE_S", 0.001)


async def test_transaction_of_killed_workers_is_open_only_once_the_brokers_had_their_time() -> None:
    assert await run.observe_closed(looks(OPEN, OPEN, CLOSED), patience_s=60) is CLOSED
    assert await run.observe_closed(looks(OPEN), patience_s=0.01) is OPEN


async def test_transaction_of_workers_that_stopped_well_is_open_at_the_first_look() -> None:
    assert await run.observe_closed(looks(OPEN, CLOSED), patience_s=0) is OPEN


async def test_fleet_has_ended_whole_when_it_says_that_a_worker_did_not_stop_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    async def stop(self: WorkerProcess) -> None:
        if self.id == "worker-0":
            raise WorkerStopError(f"{self.id} did not stop well")
        await asyncio.sleep(0.01)
        ended.append(self.id)

    monkeypatch.setattr(WorkerProcess, "stop", stop)
    fleet = Fleet(3, WorkerConfig.load().kafka, tmp_path)
    with pytest.raises(WorkerStopError, match="worker-0 did not stop well"):
        await fleet.stop()
    assert ended == ["worker-1", "worker-2"]
