"""The engine as a child process, which can be killed and replaced."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from consumer.config import WorkerConfig
from consumer.engine.base import (
    EngineLostError,
    EngineResult,
    EngineStartError,
    OnStage,
    SlotNotMade,
    SlotRequest,
    ignore_stage,
)
from consumer.engine.child_process import ChildProcess
from consumer.engine.messages import (
    AttemptBegan,
    AttemptEnded,
    Beat,
    Cancel,
    Load,
    Lost,
    Made,
    Make,
    Message,
    NotMade,
    Observed,
    OfWork,
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
from consumer.engine.predictions import Predictions
from schemas import MissReason, Recipe, Stage
from vortex.orchestration import StageEstimates
from vortex.rung import FULL, Rung

CHILD_COMMAND = (sys.executable, "-m", "consumer.engine.child")
# A stage that stops when it is told to says so well within this time after its limit.
OVERRUN_GRACE_S = 0.5
WATCH_INTERVAL_S = 0.1
STOP_GRACE_S = 3.0

logger = logging.getLogger(__name__)


@dataclass
class _Work:
    """One slot in the making, or one that is spoken ahead, as the worker sees it."""

    number: int
    child: ChildProcess
    request: SlotRequest
    on_stage: OnStage
    last_sign_s: float
    result: asyncio.Future[EngineResult | None]
    """Its result; an error if the process is lost; cancelled once its work has stopped.

    None of one that is spoken ahead.
    """
    given_up: bool = False
    """Whether it was told to stop, and nobody waits for its result."""
    stage: Stage | None = None
    attempts: dict[Stage, float] = field(default_factory=dict)
    """The stages that are being tried, and since which monotonic second."""


class ProcessEngine:
    """Hosts a slot maker in a process of its own, and answers for it when it does not answer.

    A slot is answered within a second of a stage's limit, of the work's silence or of the slot's
    deadline, whether or not its work stops. A process whose work does not stop within
    `pipeline.cancel_grace_s`, that dies or that holds too much memory is killed with its whole
    process group; `start` makes the next one.
    """

    def __init__(self, config: WorkerConfig, command: Sequence[str] = CHILD_COMMAND) -> None:
        self._config = config
        self._command = command
        self._limits_s = config.orchestration.timeouts.by_stage()
        self._estimates = StageEstimates(self._limits_s, config.orchestration.priors.by_stage())
        self._predictions = Predictions(config.orchestration, self._estimates)
        self._child: ChildProcess | None = None
        self._listening: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] | None = None
        self._lost = False
        self._works: dict[int, _Work] = {}
        self._numbers = itertools.count()

    @property
    def ready(self) -> bool:
        """Whether the process has started, lives, and has not been given up."""
        started = self._started
        if self._child is None or started is None or self._lost:
            return False
        return self._child.alive and started.done() and not started.cancelled()

    async def start(self) -> None:
        """Start a process and wait until it is warm; see `Engine`."""
        timeout_s = self._config.engine.start_timeout_s
        self._lost = False
        self._started = asyncio.get_running_loop().create_future()
        self._child = await ChildProcess.spawn(self._command)
        self._listening = asyncio.create_task(self._listen(self._child))
        self._child.line.send(Load(without_secrets_of_kafka(self._config)))
        try:
            async with asyncio.timeout(timeout_s):
                await self._started
        except TimeoutError:
            await self._child.kill()
            raise EngineLostError(
                f"the engine did not start within {timeout_s:g} s (engine.start_timeout_s)"
            ) from None
        except BaseException:
            await self._child.kill()
            raise

    async def run(self, request: SlotRequest, on_stage: OnStage = ignore_stage) -> EngineResult:
        """Make the slot; see `Engine`."""
        result = await self._end_of(self._begin(Make, request, on_stage))
        if result is None:
            raise AssertionError("only what is spoken ahead ends without a result")
        return result

    async def speak_ahead(self, request: SlotRequest) -> None:
        """Speak the slot; see `Engine`."""
        work = self._begin(Speak, request, ignore_stage)
        await self._end_of(work)
        await self._settle(work)

    def _begin(self, order: type[Make | Speak], request: SlotRequest, on_stage: OnStage) -> _Work:
        if self._child is None or not self.ready:
            raise EngineLostError("the engine is not started")
        result: asyncio.Future[EngineResult | None] = asyncio.get_running_loop().create_future()
        number, now_s = next(self._numbers), time.monotonic()
        work = _Work(number, self._child, request, on_stage, now_s, result)
        self._works[work.number] = work
        self._child.line.send(order(work.number, request))
        return work

    async def _end_of(self, work: _Work) -> EngineResult | None:
        """Return what comes of a work, or give it up once it cannot be waited for any longer."""
        try:
            while not work.result.done():
                await asyncio.wait({work.result}, timeout=WATCH_INTERVAL_S)
                self._watch_memory(work)
                overdue = self._overdue(work, time.monotonic())
                if overdue is not None and not work.result.done():
                    self._give_up(work)
                    return overdue
        except asyncio.CancelledError:
            self._give_up(work)
            await self.settle()
            raise
        del self._works[work.number]
        return work.result.result()

    async def settle(self) -> None:
        """Wait for the work of all slots that were given up, and kill the process if it goes on."""
        for work in [work for work in self._works.values() if work.given_up]:
            await self._settle(work)

    async def _settle(self, work: _Work) -> None:
        grace_s = self._config.pipeline.cancel_grace_s
        await asyncio.wait({work.result}, timeout=grace_s)
        self._works.pop(work.number, None)
        if self._child is None:
            return
        if not work.result.done():
            work.result.cancel()
            await self._child.kill()
            stage = "the slot" if work.stage is None else f"stage {work.stage.value}"
            raise EngineLostError(f"{stage} did not stop within {grace_s:g} s")
        if not work.result.cancelled() and (error := work.result.exception()) is not None:
            raise error

    def _give_up(self, work: _Work) -> None:
        work.given_up = True
        work.child.line.send(Cancel(work.number))

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The configured rungs; see `Engine`."""
        return self._config.orchestration.rungs

    def predict_s(self, recipe: Recipe, rung: Rung = FULL) -> float | None:
        """Return the predicted critical path, with what is kept back for encoding and storing."""
        return self._predictions.slot_s(recipe, rung)

    def predict_rest_s(self, recipe: Recipe, rung: Rung, stage: Stage) -> float | None:
        """Return the predicted stages ahead, with what is kept back for encoding and storing."""
        return self._predictions.rest_s(recipe, rung, stage)

    @property
    def spread(self) -> float:
        """How far predictions are off; see `Engine`."""
        return self._estimates.spread

    @property
    def overlap_room_s(self) -> float:
        """How long before a slot's deadline another may be begun; see `Engine`."""
        return self._config.orchestration.overlap_room_s

    def speech_room_s(self, recipe: Recipe) -> float:
        """Return how long before its deadline another slot must end; see `Engine`."""
        return self._predictions.speech_room_s(recipe)

    def rule_out(self, recipe: Recipe) -> str | None:
        """Return why a stage would exceed its limit; see `Engine`."""
        return self._predictions.rule_out(recipe)

    def most_work(self) -> Mapping[str, float]:
        """See `Engine`."""
        return self._predictions.most_work()

    @property
    def memory_bytes(self) -> int:
        """Main memory of the process; see `Engine`."""
        return 0 if self._child is None else self._child.memory_bytes()

    async def stop(self) -> None:
        """Let an idle process export its last spans, then kill it and all that it started."""
        child, self._child = self._child, None
        listening, self._listening = self._listening, None
        if child is not None:
            if not self._works:
                await child.ask_to_end(STOP_GRACE_S)
            await child.kill()
        if listening is not None:
            await asyncio.wait({listening})
        self._works.clear()

    # --- what the process says --------------------------------------------------------------

    async def _listen(self, child: ChildProcess) -> None:
        try:
            while (message := await child.line.receive()) is not None:
                self._hear(message)
            reason = f"the engine process ended ({await child.end()})"
        except ValueError as error:
            reason = f"the engine process says what is not a message: {error}"
        self._fail(EngineLostError(reason))

    def _fail(self, error: EngineLostError | EngineStartError) -> None:
        """Give the process up, and let whoever waits for it know."""
        self._lost = True
        for waiting in (self._started, *(work.result for work in self._works.values())):
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # seen: it may be that nobody asks any more

    def _hear(self, message: Message) -> None:
        match message:
            case Starting(step):
                logger.info("Engine starting", extra={"step": step})
            case Started() if self._started is not None and not self._started.done():
                self._started.set_result(None)
            case StartFailed(text):
                self._fail(EngineStartError(text))
            case Observed():
                self._learn(message)
            case Restored(stages):
                self._estimates.restore(stages)
            case Lost(text):
                self._fail(EngineLostError(text))
            case _ if isinstance(message, OfWork) and message.work in self._works:
                self._hear_of_work(self._works[message.work], message)

    def _learn(self, observed: Observed) -> None:
        match observed.end:
            case "finished":
                learn: Callable[[str, float, float], object] = self._estimates.observe
            case "at its limit":
                learn = self._estimates.observe_stopped
            case "stopped":
                learn = self._estimates.observe_at_least
        learn(observed.stage, observed.seconds, observed.units)

    def _hear_of_work(self, work: _Work, message: OfWork) -> None:
        work.last_sign_s = time.monotonic()
        match message:
            case StepBegan(stage=stage):
                work.stage = stage
                work.on_stage(stage)
            case StepEnded(stage=stage):
                work.on_stage(stage, ended=True)
            case AttemptBegan(stage=stage):
                work.attempts[stage] = work.last_sign_s
            case AttemptEnded(stage=stage):
                work.attempts.pop(stage, None)
            case Beat():
                pass
            case Made(slot=slot) | NotMade(slot=slot) if not work.result.done():
                work.result.set_result(slot)
            case Spoken() if not work.result.done():
                work.result.set_result(None)
            case Stopped() if not work.result.done():
                work.result.cancel()

    # --- what the worker does about silence -------------------------------------------------

    def _overdue(self, work: _Work, now_s: float) -> SlotNotMade | None:
        """Return the miss of a slot that cannot be waited for any longer, or None."""
        for stage, began_s in work.attempts.items():
            limit_s = self._limits_s[stage.value]
            if now_s > began_s + limit_s + OVERRUN_GRACE_S:
                detail = f"stage {stage.value} exceeded its time limit of {limit_s:g} s"
                return _timeout(stage, f"{detail} and did not stop", work, now_s)
        silence_s = self._config.engine.heartbeat_timeout_s
        if work.attempts and now_s > work.last_sign_s + silence_s:
            detail = f"no sign of work for {silence_s:g} s (engine.heartbeat_timeout_s)"
            return _timeout(next(iter(work.attempts)), detail, work, now_s)
        if now_s > work.request.deadline_s + OVERRUN_GRACE_S:
            return _timeout(work.stage, "the deadline passed, and the work went on", work, now_s)
        return None

    def _watch_memory(self, work: _Work) -> None:
        limit_gb = self._config.engine.memory_limit_gb
        if limit_gb is None or work.result.done():
            return
        held_gb = work.child.memory_bytes() / 1e9
        if held_gb > limit_gb:
            work.child.send_kill()
            self._fail(
                EngineLostError(
                    f"the engine process held {held_gb:.2f} GB of memory, above its limit of"
                    f" {limit_gb:g} GB (engine.memory_limit_gb)"
                )
            )


def without_secrets_of_kafka(config: WorkerConfig) -> dict[str, Any]:
    """Return a configuration as JSON that an engine can be given; it never connects to Kafka."""
    values = config.model_dump(mode="json")
    values["artifacts"]["storage_options"] = config.artifacts.storage_options
    return values


def _timeout(stage: Stage | None, detail: str, work: _Work, now_s: float) -> SlotNotMade:
    times_ms = {
        f"{each.value}_ms": (now_s - began_s) * 1000 for each, began_s in work.attempts.items()
    }
    return SlotNotMade(MissReason.TIMEOUT, stage, detail, times_ms)
