"""`vortex worker`: a real worker process is paused, resumed and drained through its socket."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import MakeLane
from tests.support.command_line import complaint, environment, kafka_variables, vortex
from tests.support.lane import TIMEOUT_S, Lane, assert_one_outcome_each, slots, tick
from tests.support.vortex_run import COMMAND

pytestmark = pytest.mark.kafka


async def say(*arguments: str) -> str:
    done = await asyncio.to_thread(vortex, "worker", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def until_serving(socket: Path) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            await asyncio.sleep(0.2)
            done = await asyncio.to_thread(vortex, "worker", "status", "--socket", str(socket))
            if done.returncode == 0 and done.stdout.endswith("waiting\n"):  # and no problem
                return


async def test_worker_is_paused_resumed_and_drained(make_lane: MakeLane, tmp_path: Path) -> None:
    lane: Lane = await make_lane()
    socket = tmp_path / "w.sock"
    variables = {**kafka_variables(lane.config), "VORTEX__CONTROL__SOCKET": str(socket)}
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "prediction", env=environment(**variables), stderr=log
        )
    try:
        await until_serving(socket)
        assert "is paused" in await say("pause", "--socket", str(socket))
        emitted = await lane.emit([tick(1, 60.0), tick(2, 1.5)])
        (hopeless,) = await lane.outcomes(1)  # what can wait is not answered
        assert slots([hopeless], "deadline-missed") == {2}
        assert "1 waiting; worker is paused" in await say("status", "--socket", str(socket))
        assert "is serving" in await say("resume", "--socket", str(socket))
        results = await lane.outcomes(2)
        assert "is stopping" in await say("drain", "--socket", str(socket), "--wait", "30")
        assert await asyncio.wait_for(process.wait(), TIMEOUT_S) == 0
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == {1}
    gone = await asyncio.to_thread(vortex, "worker", "status", "--socket", str(socket))
    assert "no worker answers at" in complaint(gone, 3)


def test_without_a_socket_the_key_is_named() -> None:
    assert "control.socket is null" in complaint(vortex("worker", "pause"), 2)
