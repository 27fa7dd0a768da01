"""Hands waiting slots to the engine, the earliest deadline first."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import time
from collections import Counter
from collections.abc import Callable

from opentelemetry import trace

from consumer.admission import Admission
from consumer.engine.base import (
    Engine,
    EngineLostError,
    EngineResult,
    EngineStartError,
    SlotMade,
    SlotNotMade,
    SlotRequest,
)
from consumer.job import Job, TickKey
from consumer.slot_queue import SlotQueue
from consumer.telemetry import propagation, semconv
from schemas import MissReason, Stage

# Predictions change while slots wait, so all of them are looked at again at least this often.
SWEEP_INTERVAL_S = 1.0
# So many slots are looked at before the event loop may do something else.
LOOKS_AT_ONCE = 200

# An engine that is lost while it starts is started again so often, then it counts as broken.
MAX_STARTS = 3
# A slot is not tried again after this many engines were lost with it.
MAX_LOSSES_PER_SLOT = 2
MAX_BACKOFF_S = 30.0

OnResult = Callable[[Job, EngineResult, float | None], None]
OnJobStage = Callable[[Job, Stage], None]

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("vortex.consumer", schema_url=semconv.SCHEMA_URL)


class Dispatcher:
    """Owns the queue and the engine: one slot is made at a time, hopeless ones are answered.

    A slot that waits is answered at the very moment from which it could not be finished any more,
    also while the engine is busy or still starting.
    """

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        on_result: OnResult,
        on_stage: OnJobStage = lambda _job, _stage: None,
    ) -> None:
        """Be ready to queue; `run` serves.

        Args:
            engine: makes the slots; not yet started.
            admission: tells hopeless slots.
            on_result: called once for every slot, with what came of it and when its work began.
            on_stage: called whenever a stage of a slot begins.
        """
        self.queue = SlotQueue()
        self._engine = engine
        self._admission = admission
        self._on_result = on_result
        self._on_stage = on_stage
        self._starting: asyncio.Task[None] | None = None
        self._start_s = 0.0
        self._running: tuple[TickKey, asyncio.Task[None]] | None = None
        self._undecided: Job | None = None
        # Engines lost since a slot was last made, and how many of them with each slot.
        self._losses = 0
        self._losses_with: Counter[TickKey] = Counter()
        self._wake = asyncio.Event()
        # When to look again at each waiting slot, and at some that have left the queue.
        self._looks: list[tuple[float, TickKey]] = []
        self._closing_at_s = math.inf

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being made."""
        return not self.queue and self._running is None

    @property
    def engine_ready(self) -> bool:
        """Whether the engine is started and not lost."""
        return self._engine.ready

    def submit(self, job: Job) -> None:
        """Answer a slot that has just arrived immediately, or queue it for the engine."""
        refusal = self._admission.on_arrival(job)
        if refusal is None:
            self.queue.push(job)
            self._look_again(job, time.monotonic())
            self._wake.set()
        else:
            self._refuse(job, refusal)

    def drop(self, key: TickKey) -> None:
        """Forget a slot that is no longer ours to decide, and stop its work."""
        job = self.queue.remove(key)
        if job is not None:
            job.close()
        if self._undecided is not None and self._undecided.key == key and self._running:
            self._running[1].cancel()

    def finish_by(self, moment_s: float) -> None:
        """Start no more slots that would not be finished by a monotonic second."""
        self._closing_at_s = moment_s
        self._wake.set()

    async def start(self) -> None:
        """Start the engine; `run` does it itself whenever the engine is down.

        Raises:
            EngineStartError: the engine cannot start, or was lost each time it tried.
        """
        for attempt in range(1, MAX_STARTS + 1):
            await self._engine.stop()  # what is left of a lost one
            await asyncio.sleep(_backoff_s(self._losses))
            began_s = time.monotonic()
            try:
                await self._engine.start()
                break
            except EngineLostError as error:
                self._losses += 1
                logger.error(
                    "Engine lost while it started",
                    extra={"reason": str(error), "attempt": attempt},
                )
                if attempt == MAX_STARTS:
                    raise EngineStartError(
                        f"the engine was lost {MAX_STARTS} times while it started: {error}"
                    ) from error
        self._start_s = time.monotonic() - began_s
        self._wake.set()
        logger.info("Engine ready", extra={"seconds": round(self._start_s, 1)})

    async def run(self) -> None:
        """Serve until cancelled; a slot in the making is then stopped and left undecided.

        Raises:
            EngineStartError: the engine cannot start.
        """
        try:
            while True:
                self._wake.clear()
                self._answer_hopeless()
                self._start_engine_if_down()
                self._start_next()
                await self._until_something_changes()
        finally:
            for task in self._work():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            self._close_if_undecided()
            for job in self.queue:
                job.close()
            await self._engine.stop()

    # --- the queue --------------------------------------------------------------------------

    def _answer_hopeless(self) -> None:
        now_s = time.monotonic()
        for _ in range(LOOKS_AT_ONCE):
            if not self._looks or self._looks[0][0] > now_s:
                break
            _, key = heapq.heappop(self._looks)
            job = self.queue.get(key)
            if job is None:
                continue
            refusal = self._admission.before_start(job, now_s)
            if refusal is None:
                self._look_again(job, now_s)
            else:
                self.queue.remove(key)
                self._refuse(job, refusal)

    def _look_again(self, job: Job, now_s: float) -> None:
        """Look at the slot at its latest start, or with all others at the next full interval."""
        next_sweep_s = (now_s // SWEEP_INTERVAL_S + 1) * SWEEP_INTERVAL_S
        look_s = min(self._admission.latest_start_s(job), next_sweep_s)
        heapq.heappush(self._looks, (max(look_s, math.nextafter(now_s, math.inf)), job.key))

    def _refuse(self, job: Job, refusal: SlotNotMade) -> None:
        self._on_result(job, refusal, None)

    def _start_next(self) -> None:
        for _ in range(LOOKS_AT_ONCE):
            if not self._engine.ready or self._running is not None:
                return
            job = self.queue.pop()
            if job is None:
                return
            now_s = time.monotonic()
            refusal = self._admission.before_start(job, now_s)
            if refusal is not None:
                self._refuse(job, refusal)
            elif now_s + (self._engine.predict_s(job.recipe) or 0.0) > self._closing_at_s:
                job.close()  # left undecided, to whoever reads the partition next
            else:
                self._undecided = job
                self._running = job.key, asyncio.create_task(self._make(job))
        self._wake.set()  # there may be more

    async def _until_something_changes(self) -> None:
        waking = asyncio.create_task(self._wake.wait())
        look_s = self._looks[0][0] if self._looks else math.inf
        left_s = look_s - time.monotonic()
        try:
            done, _ = await asyncio.wait(
                {waking, *self._work()},
                timeout=min(max(0.0, left_s), SWEEP_INTERVAL_S),  # an idle engine may die
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            waking.cancel()
        for task in done - {waking}:
            if not task.cancelled():
                task.result()
        if self._running is not None and self._running[1] in done:
            self._close_if_undecided()
            self._running = None
        if self._starting in done:
            self._starting = None

    def _close_if_undecided(self) -> None:
        """Close the slot whose work has ended without a decision."""
        job, self._undecided = self._undecided, None
        if job is not None:
            job.close()

    def _work(self) -> set[asyncio.Task[None]]:
        running = None if self._running is None else self._running[1]
        return {task for task in (self._starting, running) if task is not None}

    # --- the engine -------------------------------------------------------------------------

    def _start_engine_if_down(self) -> None:
        if not self._engine.ready and self._running is None and self._starting is None:
            self._starting = asyncio.create_task(self.start())

    async def _make(self, job: Job) -> None:
        started_s = time.monotonic()
        tracer.start_span(
            "slot.queue",
            context=job.context,
            start_time=int(job.arrival.wall.timestamp() * 1e9),
            attributes={semconv.SLOT_ID: job.tick.slot_id},
        ).end()
        try:
            result = await self._engine.run(_request(job), lambda stage: self._on_stage(job, stage))
        except EngineLostError as error:
            if _being_cancelled():
                raise asyncio.CancelledError from error
            self._lose(error, job)
            if self._may_be_tried_again(job):
                self._undecided = None
                self.queue.push(job)
                self._look_again(job, time.monotonic())
                return
            semconv.record_failure(job.span, error)
            result = SlotNotMade(MissReason.ENGINE_LOST, None, str(error), {})
        if isinstance(result, SlotMade):
            self._losses = 0
        self._undecided = None
        self._losses_with.pop(job.key, None)
        self._on_result(job, result, started_s)
        try:
            await self._engine.settle()
        except EngineLostError as error:
            self._lose(error, job)

    def _lose(self, error: EngineLostError, job: Job) -> None:
        self._losses += 1
        self._losses_with[job.key] += 1
        logger.error(
            "Engine lost",
            extra={"slot_id": job.tick.slot_id, "losses": self._losses},
            exc_info=error,
        )

    def _may_be_tried_again(self, job: Job) -> bool:
        """Tell whether a slot whose engine was lost can be made by the next one."""
        if self._losses_with[job.key] >= MAX_LOSSES_PER_SLOT:
            return False
        ready_s = time.monotonic() + self._start_s + _backoff_s(self._losses)
        return self._admission.before_start(job, ready_s) is None


def _backoff_s(losses: int) -> float:
    """Return how long to wait before an engine is started after so many were lost in a row."""
    return 0.0 if losses < 2 else float(min(2 ** (losses - 2), MAX_BACKOFF_S))


def _request(job: Job) -> SlotRequest:
    return SlotRequest(
        key=job.key,
        slot_id=job.tick.slot_id,
        channel=job.tick.channel,
        recipe=job.recipe,
        seed=job.seed,
        deadline_s=job.deadline_s,
        admitted=True,
        trace=propagation.inject_carrier(job.context),
    )


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
