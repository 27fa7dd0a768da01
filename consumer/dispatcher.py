"""Hands waiting slots to the engine, the earliest deadline first."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import time
from collections.abc import Callable

from opentelemetry import trace

from consumer.admission import Admission
from consumer.engine.base import Engine, EngineLostError, EngineResult, SlotNotMade, SlotRequest
from consumer.job import Job, TickKey
from consumer.slot_queue import SlotQueue
from consumer.telemetry import propagation, semconv
from schemas import MissReason, Stage

# Predictions change while slots wait, so all of them are looked at again at least this often.
SWEEP_INTERVAL_S = 1.0
# So many slots are looked at before the event loop may do something else.
LOOKS_AT_ONCE = 200

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
        self._engine_ready = False
        self._starting: asyncio.Task[None] | None = None
        self._running: tuple[Job, asyncio.Task[None]] | None = None
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
        """Whether a slot could be started now."""
        return self._engine_ready

    def submit(self, job: Job) -> None:
        """Take a slot that has just arrived: answer it at once, or let it wait for the engine."""
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
        if self._running is not None and self._running[0].key == key:
            self._running[1].cancel()

    def finish_by(self, moment_s: float) -> None:
        """Start no more slots that would not be finished by a monotonic second."""
        self._closing_at_s = moment_s
        self._wake.set()

    async def start(self) -> None:
        """Start the engine; `run` does it itself whenever the engine is down.

        Raises:
            EngineStartError: the engine cannot start.
        """
        await self._engine.stop()  # what is left of a lost one
        await self._engine.start()
        self._engine_ready = True
        logger.info("Engine ready")

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
            if not self._engine_ready or self._running is not None:
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
                self._running = job, asyncio.create_task(self._make(job))
        self._wake.set()  # there may be more

    async def _until_something_changes(self) -> None:
        waking = asyncio.create_task(self._wake.wait())
        look_s = self._looks[0][0] if self._looks else math.inf
        left_s = look_s - time.monotonic()
        try:
            done, _ = await asyncio.wait(
                {waking, *self._work()},
                timeout=None if math.isinf(left_s) else max(0.0, left_s),
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
        if self._running is not None:
            job, task = self._running
            if not task.done() or task.cancelled() or task.exception() is not None:
                job.close()

    def _work(self) -> set[asyncio.Task[None]]:
        running = None if self._running is None else self._running[1]
        return {task for task in (self._starting, running) if task is not None}

    # --- the engine -------------------------------------------------------------------------

    def _start_engine_if_down(self) -> None:
        if not self._engine_ready and self._running is None and self._starting is None:
            self._starting = asyncio.create_task(self.start())

    async def _make(self, job: Job) -> None:
        started_s = time.monotonic()
        tracer.start_span(
            "slot.queue",
            context=job.context,
            start_time=int(job.arrival.wall.timestamp() * 1e9),
            attributes={semconv.SLOT_ID: job.tick.slot_id},
        ).end()
        result: EngineResult
        try:
            result = await self._engine.run(_request(job), lambda stage: self._on_stage(job, stage))
        except EngineLostError as error:
            self._engine_ready = False
            if _being_cancelled():
                raise asyncio.CancelledError from error
            logger.exception("Engine lost", extra={"slot_id": job.tick.slot_id})
            semconv.record_failure(job.span, error)
            result = SlotNotMade(MissReason.ENGINE_LOST, None, str(error), {})
        self._on_result(job, result, started_s)


def _request(job: Job) -> SlotRequest:
    return SlotRequest(
        key=job.key,
        slot_id=job.tick.slot_id,
        channel=job.tick.channel,
        recipe=job.recipe,
        seed=job.seed,
        deadline_s=job.deadline_s,
        trace=propagation.inject_carrier(job.context),
    )


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
