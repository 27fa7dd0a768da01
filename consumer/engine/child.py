"""The engine process: a slot maker that takes its orders from a socket.

Run by `ProcessEngine` as `python -m consumer.engine.child DESCRIPTOR PARENT_PID`.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

from consumer.config import WorkerConfig
from consumer.engine.base import (
    EngineLostError,
    EngineResult,
    EngineStartError,
    SlotMade,
    SlotRequest,
)
from consumer.engine.messages import (
    AttemptBegan,
    AttemptEnded,
    Beat,
    Cancel,
    Line,
    Load,
    Lost,
    Made,
    Make,
    Message,
    NotMade,
    Observed,
    Restored,
    Speak,
    Spoken,
    Started,
    StartFailed,
    Starting,
    StepBegan,
    StepEnded,
    Stopped,
)
from consumer.telemetry.logs import configure_logging
from consumer.telemetry.tracing import configure_tracing
from schemas import Stage
from vortex.config import OrchestrationConfig
from vortex.orchestration import StageEstimates
from vortex.slot import SlotListener

BEAT_INTERVAL_S = 0.25
TRACING_SHUTDOWN_S = 2.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

logger = logging.getLogger(__name__)


class Maker(Protocol):
    """What an engine process hosts; a `SlotMaker`."""

    async def make(self, request: SlotRequest, listener: SlotListener) -> EngineResult:
        """Make a slot; cancelling the call stops its work."""

    async def speak_ahead(self, request: SlotRequest, listener: SlotListener) -> None:
        """Speak a slot that should be made next; cancelling the call stops it."""


LoadMaker = Callable[[WorkerConfig, StageEstimates, Callable[[str], None]], Awaitable[Maker]]


def main(load: LoadMaker) -> None:
    """Serve the worker at the other end of the socket, until it is gone."""
    descriptor, parent_pid = map(int, sys.argv[1:3])
    _die_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides when its engine ends
    asyncio.run(_serve(socket.socket(fileno=descriptor), load))


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when the worker dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before that
        os._exit(0)


async def _serve(end: socket.socket, load: LoadMaker) -> None:
    line = await Line.over(end)
    order = await line.receive()
    if not isinstance(order, Load):
        return
    config = WorkerConfig.model_validate(order.config)
    configure_logging(config.logging.level, config.logging.format)
    tracing = configure_tracing(config.telemetry)
    try:
        maker = await load(
            config,
            ReportingEstimates(config.orchestration, line),
            lambda step: line.send(Starting(step)),
        )
    except (EngineStartError, ModuleNotFoundError) as error:
        line.send(StartFailed(_in_a_line(error)))
        await line.drain()
        return
    configure_logging(config.logging.level, config.logging.format)  # libraries add handlers
    line.send(Started())
    await _take_orders(line, maker)
    tracing.shutdown(TRACING_SHUTDOWN_S)
    os._exit(0)  # whatever is still at work: its thread may hang


async def _take_orders(line: Line, maker: Maker) -> None:
    works: dict[int, asyncio.Task[None]] = {}

    def begin(number: int, work: Coroutine[Any, Any, Message]) -> None:
        works[number] = asyncio.create_task(_tell_end(line, work))
        works[number].add_done_callback(
            lambda _: _tell_if_cancelled(line, number, works.pop(number))
        )

    while (order := await line.receive()) is not None:
        match order:
            case Make(number, request):
                begin(number, _make(line, maker, number, request))
            case Speak(number, request):
                begin(number, _speak(line, maker, number, request))
            case Cancel(number) if number in works:
                works[number].cancel()


async def _make(line: Line, maker: Maker, number: int, request: SlotRequest) -> Message:
    result = await maker.make(request, LineListener(line, number))
    return Made(number, result) if isinstance(result, SlotMade) else NotMade(number, result)


async def _speak(line: Line, maker: Maker, number: int, request: SlotRequest) -> Message:
    await maker.speak_ahead(request, LineListener(line, number))
    return Spoken(number)


async def _tell_end(line: Line, work: Coroutine[Any, Any, Message]) -> None:
    try:
        line.send(await work)
    except EngineLostError as error:
        line.send(Lost(str(error)))
    await line.drain()


def _tell_if_cancelled(line: Line, number: int, done: asyncio.Task[None]) -> None:
    if done.cancelled():
        line.send(Stopped(number))


class LineListener(SlotListener):
    """Tells the worker how a slot comes along."""

    def __init__(self, line: Line, number: int) -> None:
        self._line = line
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._next_beat_s = 0.0

    def step_began(self, step: str) -> None:
        """See `StepBegan`."""
        self._line.send(StepBegan(self._number, Stage(step)))

    def step_ended(self, step: str) -> None:
        """See `StepEnded`."""
        self._line.send(StepEnded(self._number, Stage(step)))

    def attempt_began(self, stage: str) -> None:
        """See `AttemptBegan`."""
        self._line.send(AttemptBegan(self._number, Stage(stage)))

    def attempt_ended(self, stage: str) -> None:
        """See `AttemptEnded`."""
        self._line.send(AttemptEnded(self._number, Stage(stage)))

    def beat(self) -> None:
        """See `Beat`; from the work's own thread, a few times a second at the most."""
        now_s = time.monotonic()
        if now_s >= self._next_beat_s:
            self._next_beat_s = now_s + BEAT_INTERVAL_S
            self._loop.call_soon_threadsafe(self._line.send, Beat(self._number))


class ReportingEstimates(StageEstimates):
    """Estimates that pass on what they learn, as the worker plans with its own."""

    def __init__(self, config: OrchestrationConfig, line: Line) -> None:
        super().__init__(config.timeouts.by_stage(), config.priors.by_stage())
        self._line = line

    def observe(self, stage: str, seconds: float, units: float = 1.0) -> float:
        """Learn from one finished attempt of a stage."""
        self._line.send(Observed(stage, seconds, units, "finished"))
        return super().observe(stage, seconds, units)

    def observe_stopped(self, stage: str, seconds: float, units: float = 1.0) -> None:
        """Learn from an attempt that was stopped at the stage's limit."""
        self._line.send(Observed(stage, seconds, units, "at its limit"))
        super().observe_stopped(stage, seconds, units)

    def observe_at_least(self, stage: str, seconds: float, units: float = 1.0) -> None:
        """Learn from an attempt that was stopped for another reason."""
        self._line.send(Observed(stage, seconds, units, "stopped"))
        super().observe_at_least(stage, seconds, units)

    def restore(self, saved: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from what was learned before this start."""
        super().restore(saved)
        self._line.send(Restored(saved))


def _in_a_line(error: EngineStartError | ModuleNotFoundError) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"the engine needs the package {error.name}; install vortex-slots[pipeline]"
    return str(error)


async def load_slot_maker(
    config: WorkerConfig, estimates: StageEstimates, report: Callable[[str], None]
) -> Maker:
    """Load the models and warm up.

    Raises:
        EngineStartError: one line that says what to do.
    """
    report("loading models")
    from consumer.engine.slot_maker import SlotMaker

    maker = await asyncio.to_thread(SlotMaker.load, config, estimates)
    maker.restore_estimates()
    if config.pipeline.warmup:
        report("warming up")
        await maker.warm_up()
    return maker


if __name__ == "__main__":
    main(load_slot_maker)
