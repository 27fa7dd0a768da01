"""`vortex fake-worker`, in a process of its own on a real Kafka."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from schemas import DeadlineMissed, SlotComplete
from tests.integration.conftest import MakeLane
from tests.support.command_line import VORTEX, complaint, environment, kafka_variables, vortex
from tests.support.lane import TIMEOUT_S, Lane, tick

pytestmark = pytest.mark.kafka


@asynccontextmanager
async def fake_worker(lane: Lane, *options: str, **variables: str) -> AsyncIterator[list[str]]:
    """Run the command until the end of the context; gives what it has printed, after it."""
    printed: list[str] = []
    process = await asyncio.create_subprocess_exec(
        *VORTEX,
        *("fake-worker", *options),
        stdout=asyncio.subprocess.PIPE,
        env=environment(**kafka_variables(lane.config), **variables),
    )
    try:
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S)
        yield printed
        process.send_signal(signal.SIGTERM)
        rest, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        printed += rest.decode().splitlines()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_ticks_are_answered_and_shown(
    make_lane: MakeLane, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lane = await make_lane()
    videos = tmp_path_factory.mktemp("videos")
    async with fake_worker(lane, VORTEX__ARTIFACTS__URL=str(videos)) as printed:
        await lane.emit([tick(7)])
        (outcome,) = await lane.outcomes(1)
        assert isinstance(outcome, SlotComplete)
        assert outcome.worker.id == "fake-worker"
    assert [path.name for path in videos.glob("main/7-*.mp4")] == [
        outcome.artifact.uri.rpartition("/")[2]
    ]
    assert [line.split()[:2] for line in printed] == [["slot-complete", "main/7"]]


async def test_misses_may_be_asked_for(make_lane: MakeLane) -> None:
    lane = await make_lane()
    async with fake_worker(lane, "--miss", "rejected"):
        await lane.emit([tick(7)])
        (outcome,) = await lane.outcomes(1)
    assert isinstance(outcome, DeadlineMissed)
    assert outcome.reason == "rejected"


def test_reason_that_does_not_exist_is_refused() -> None:
    said = complaint(vortex("fake-worker", "--miss", "bored"), 2)
    assert said.startswith("--miss: 'bored' must be one of expired, predicted, ")


def test_broker_that_is_not_there_is_told_in_one_line() -> None:
    address = {"VORTEX__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9"}
    assert "Kafka cannot be reached" in complaint(vortex("fake-worker", **address), 3)
