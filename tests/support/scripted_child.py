"""An engine process for tests: its slots do what their scripts say, down to a segfault.

Run as the real one is, by `ProcessEngine`. Slots are told apart by their script:

`make`             a slot that is made
`hang`             a stage that ignores that it is cancelled
`hang-silently`    the same, with the event loop blocked too
`stop`             a stage that works until it is cancelled
`segfault`         reads from address zero
`eat`              takes memory until it is killed
`sticky`           reports a CUDA error that only a new process clears
`exit`             ends the process with code 7
`spawn`            starts a process of its own, then hangs
`mute`             a stage that gives no sign of life
`teach`            teaches its estimates something of every kind
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable

from consumer.config import WorkerConfig
from consumer.engine.base import EngineLostError, EngineResult, EngineStartError, SlotRequest
from consumer.engine.child import Maker, main
from tests.support.engines import slot_made
from vortex.orchestration import StageEstimates
from vortex.slot import SlotListener

COMMAND = (sys.executable, "-m", "tests.support.scripted_child")
FOREVER_S = 3600.0
EATEN_AT_ONCE = 128 * 1024 * 1024


class ScriptedMaker:
    """Follows the script of each slot."""

    def __init__(self, estimates: StageEstimates) -> None:
        self._estimates = estimates
        self._eaten: list[bytearray] = []

    async def make(self, request: SlotRequest, listener: SlotListener) -> EngineResult:
        """Be in the video stage and follow the script."""
        await self._play("video", request, listener)
        return slot_made(request)

    async def speak_ahead(self, request: SlotRequest, listener: SlotListener) -> None:
        """Be in the audio stage and follow the script."""
        await self._play("audio", request, listener)

    async def _play(self, stage: str, request: SlotRequest, listener: SlotListener) -> None:
        listener.step_began(stage)
        listener.attempt_began(stage)
        try:
            await self._follow(request.recipe.audio_track.script, listener)
        finally:
            listener.attempt_ended(stage)
            listener.step_ended(stage)
        self._estimates.observe(stage, 0.25, units=2.0)

    async def _follow(self, script: str, listener: SlotListener) -> None:
        match script:
            case "hang" | "hang-silently" | "spawn":
                if script == "spawn":
                    child = subprocess.Popen(["sleep", str(FOREVER_S)])  # noqa: ASYNC220
                    print(child.pid, file=sys.stderr, flush=True)
                if script == "hang-silently":
                    time.sleep(FOREVER_S)  # noqa: ASYNC251
                while True:
                    try:
                        while True:
                            listener.beat()
                            await asyncio.sleep(0.05)
                    except asyncio.CancelledError:
                        continue
            case "stop":
                while True:
                    listener.beat()
                    await asyncio.sleep(0.05)
            case "mute":
                await asyncio.sleep(FOREVER_S)
            case "segfault":
                ctypes.string_at(0)
            case "eat":
                while True:
                    self._eaten.append(bytearray(os.urandom(1) * EATEN_AT_ONCE))
                    await asyncio.sleep(0.05)
            case "exit":
                os._exit(7)
            case "teach":
                teach(self._estimates)
            case "sticky":
                raise EngineLostError("CUDA error: device-side assert triggered")


def teach(estimates: StageEstimates) -> None:
    """Have estimates learn in every way that there is."""
    estimates.restore(
        {"audio": {"fixed_s": 0.1, "per_unit_s": 0.2, "count": 3, "spread": 0.1}},
    )
    estimates.observe("video", 0.2, 2.0)
    estimates.observe_stopped("video", 1.0, 2.0)
    estimates.observe_at_least("audio", 0.9, 3.0)


async def load(
    config: WorkerConfig, estimates: StageEstimates, report: Callable[[str], None]
) -> Maker:
    """Load nothing; misbehave as the name of the service says."""
    report("loading nothing")
    match config.telemetry.service_name:
        case "fails":
            raise EngineStartError("the models are missing")
        case "hangs":
            await asyncio.sleep(FOREVER_S)
        case "dies":
            os._exit(9)
    return ScriptedMaker(estimates)


if __name__ == "__main__":
    main(load)
