"""Hands waiting slots to the engine as the planner says, and answers those that it gives up."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from opentelemetry import trace

from consumer.engine.base import (
    Engine,
    EngineLostError,
    EngineResult,
    EngineStartError,
    SlotMade,
    SlotNotMade,
    SlotRequest,
)
from consumer.job import Job, Step, TickKey
from consumer.planning import Planner, Start, Waiting
from consumer.telemetry import propagation, semconv
from schemas import MissReason, Stage
from vortex.rung import Rung
from vortex.utils.cancellation import being_cancelled
from vortex.utils.clock import now_s

# Predictions change while slots wait, and an idle engine may die, so both are looked at this often.
LOOK_INTERVAL_S = 1.0
# A look exactly at its moment would find that the slot still just fits.
AFTER_LOOK_S = 0.001
# So many plans are followed before the event loop may do something else.
PLANS_AT_ONCE = 20

# So many of the slots that the plan leaves out are offered to others at a time.
MOST_OFFERED = 32
LEFT_OUT = "the plan has no room for it"
# A slot that is kept with so little time to spare goes to a worker that has so much: shares of the
# usual time from tick to deadline. docs/handover.md tells what that is worth.
TIGHT_SHARE = 10 / 45
SPARE_SHARE = 15 / 45
TIGHT = "the plan keeps it with little time to spare"
PAUSED = "this worker is paused"

# An engine that is lost while it starts is started again so often, then it counts as broken.
MAX_STARTS = 3
# A slot is not tried again after this many engines were lost with it.
MAX_LOSSES_PER_SLOT = 2
MAX_BACKOFF_S = 30.0
# In these, a slot needs the speech and the text encoders no more, unless another seed is tried.
RENDERING = {Stage.VIDEO, Stage.CLIP}
# From these on, a slot needs no model any more.
STORING = {Stage.ENCODE, Stage.STORE}
# One that needs the models, and one that is being stored.
MOST_AT_WORK = 2

OnResult = Callable[[Job, EngineResult, float | None], None]
OnStep = Callable[[Job, Step], None]
HandOver = Callable[[Job, float, float, str], bool]
"""Asked to hand over a slot of so many seconds to a worker that has so many more to spare before
its deadline, and told why; returns whether it was."""

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("vortex.consumer", schema_url=semconv.SCHEMA_URL)


@dataclass(eq=False)
class _Work:
    """A slot in the making."""

    job: Job
    start: Start[TickKey]
    end_s: float
    """When it should end, in monotonic seconds; predicted again when a stage begins."""
    stage: Stage | None = None
    """The stage that began last."""
    decided: bool = False
    started_s: float = field(default_factory=now_s)
    began_s: dict[Stage, float] = field(default_factory=dict)
    """When each stage last began."""

    @property
    def rendering(self) -> bool:
        """Whether the next slot may be spoken meanwhile."""
        return self.stage in RENDERING

    @property
    def storing(self) -> bool:
        """Whether it is encoded to its end and stored, and needs no model any more."""
        return self.stage in STORING

    def leaves_room(self, room_s: float) -> bool:
        """Return whether the next slot may begin and not delay this one."""
        return self.storing and self.job.deadline_s - now_s() >= room_s


class Dispatcher:
    """Owns the waiting slots and the engine: one slot is made at a time, as the planner says.

    The next one may begin while one is being stored, and be spoken while one is rendered; see
    `Engine.overlap_room_s` and `Engine.speech_room_s`. Nothing is planned with either.

    A slot that waits is answered as soon as the plan has no room for it, at the latest when it
    could not be finished any more, also while the engine is busy or still starting.
    """

    def __init__(
        self,
        engine: Engine,
        on_result: OnResult,
        on_step: OnStep = lambda _job, _step: None,
        hand_over: HandOver | None = None,
        idle_unload_s: float | None = None,
    ) -> None:
        """Be ready to queue; `run` serves.

        Args:
            engine: makes the slots; not yet started.
            on_result: called once for every slot, with what came of it and when its work began.
            on_step: called when a slot begins to wait, and when a stage of it begins or ends.
            hand_over: called with slots that the plan leaves out; by default they stay here.
            idle_unload_s: after so many seconds without a slot, the engine is stopped, and started
                again for the next one; None: never.
        """
        self._engine = engine
        self._planner: Planner[TickKey, Job] = Planner(
            self._needed_s, lambda: engine.spread, engine.ladder
        )
        # The slots that wait in the planner.
        self._jobs: dict[TickKey, Job] = {}
        self._on_result = on_result
        self._on_step = on_step
        self._hand_over = hand_over
        self._starting: asyncio.Task[None] | None = None
        self._idle_unload_s = math.inf if idle_unload_s is None else idle_unload_s
        # Since when a started engine has had nothing to do.
        self._idle_since_s: float | None = None
        self._unloading: asyncio.Task[None] | None = None
        # Whether the engine is down because nothing needed it, and not yet up again.
        self._unloaded = False
        # How long the engine last took to start; not known before the first time.
        self._start_s = 0.0
        # When it should be ready.
        self._ready_s = -math.inf
        self._works: dict[asyncio.Task[None], _Work] = {}
        # The slot that waits and is spoken ahead, or was.
        self._ahead: Job | None = None
        self._speaking: asyncio.Task[None] | None = None
        # Engines lost since a slot was last made, and how many of them with each slot.
        self._losses = 0
        self._losses_with: Counter[TickKey] = Counter()
        # Whether the loss of this engine was counted: it may be told by two slots.
        self._loss_counted = False
        self._wake = asyncio.Event()
        self._closing_at_s = math.inf
        self._paused = False

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being made."""
        return not self._jobs and not self._works

    @property
    def waiting(self) -> int:
        """How many slots wait."""
        return len(self._jobs)

    @property
    def making(self) -> int:
        """How many slots are being made, or stored."""
        return len(self._works)

    @property
    def paused(self) -> bool:
        """Whether no slot is started."""
        return self._paused

    @property
    def ahead_s(self) -> float:
        """Predicted seconds until the models are free of the slots in the making."""
        ends_s = [work.end_s for work in self._works.values() if not work.storing]
        return max(0.0, max(ends_s, default=now_s()) - now_s())

    @property
    def usual_s(self) -> float:
        """Predicted seconds of a usual slot; 0 while nothing was measured."""
        return self._planner.expected.mean_s

    @property
    def load(self) -> float:
        """Seconds of work that arrive in a second, as far as is known."""
        return self._planner.expected.load(now_s())

    @property
    def free_in_s(self) -> float:
        """Predicted seconds until all slots that the plan keeps are made."""
        starting_s = 0.0 if self._engine.ready else max(0.0, self._ready_s - now_s())
        if self._unloaded and self._starting is None:
            starting_s = self._start_s
        return max(self.ahead_s, starting_s) + self._planner.kept_s

    @property
    def engine_ready(self) -> bool:
        """Whether the engine is started and not lost, or only down until a slot needs it."""
        return self._engine.ready or self._unloaded

    def submit(self, job: Job, cancelled: str | None = None) -> None:
        """Answer a slot that has just arrived immediately, or have it planned.

        Args:
            job: the slot.
            cancelled: why an operator has cancelled it already, in words.
        """
        late_s = job.arrival.monotonic_s - job.deadline_s
        if late_s >= 0:
            why = f"the deadline had passed {late_s:.3f} s before the tick arrived"
            self._refuse(job, why, MissReason.EXPIRED)
        elif cancelled is not None:
            self._on_result(job, _cancelled(cancelled), None)
        elif (ruled_out := self._engine.rule_out(job.recipe)) is not None:
            self._let_go(job, ruled_out)
        else:
            self._wait_for_engine(job)

    def drop(self, key: TickKey) -> None:
        """Forget a slot that is no longer ours to decide, and stop its work."""
        self._planner.remove(key)
        self._losses_with.pop(key, None)
        job = self._jobs.pop(key, None)
        if job is not None:
            job.close()
        for task, work in self._works.items():
            if work.job.key == key and not work.decided:
                task.cancel()
        self._wake.set()

    def cancel(self, why: Callable[[Job], str | None]) -> None:
        """Answer the slots that an operator has cancelled, and stop their work.

        Args:
            why: returns in words why a slot is cancelled, None if it is not.
        """
        for job in list(self._jobs.values()):
            if (words := why(job)) is not None:
                del self._jobs[job.key]
                self._planner.remove(job.key)
                self._losses_with.pop(job.key, None)
                self._on_result(job, _cancelled(words), None)
        for task, work in self._works.items():
            if not work.decided and (words := why(work.job)) is not None:
                work.decided = True
                self._losses_with.pop(work.job.key, None)
                self._on_result(work.job, _cancelled(words, work), work.started_s)
                task.cancel()
        self._wake.set()

    def pause(self) -> None:
        """Start no slot until `resume`; those that can wait no longer are still answered."""
        self._paused = True

    def resume(self) -> None:
        """Start slots again."""
        self._paused = False
        self._wake.set()

    def finish_by(self, moment_s: float) -> None:
        """Start no more slots that would not be finished by a monotonic second; paused, none."""
        self._closing_at_s = moment_s
        if self._paused:
            for job in self._jobs.values():
                self._planner.remove(job.key)
                job.close()  # left undecided, to whoever reads the partition next
            self._jobs.clear()
        self._wake.set()

    async def start(self) -> None:
        """Start the engine; `run` does it itself whenever the engine is down.

        Raises:
            EngineStartError: the engine cannot start, or was lost each time it tried.
        """
        for attempt in range(1, MAX_STARTS + 1):
            await self._engine.stop()  # what is left of a lost one
            self._ready_s = self._next_ready_s()
            await asyncio.sleep(_backoff_s(self._losses))
            began_s = now_s()
            try:
                await self._engine.start()
                self._loss_counted = False
                break
            except EngineLostError as error:
                self._losses += 1
                self._unloaded = False
                logger.error(
                    "Engine lost while it started",
                    extra={"reason": str(error), "attempt": attempt},
                )
                if attempt == MAX_STARTS:
                    raise EngineStartError(
                        f"the engine was lost {MAX_STARTS} times while it started: {error}"
                    ) from error
        self._start_s = now_s() - began_s
        self._unloaded = False
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
                self._start_engine_if_down()
                self._unload_engine_if_idle()
                look_s = self._follow_plan()
                self._look_ahead()
                await self._until_something_changes(look_s)
        finally:
            tasks = self._tasks()
            for task in tasks - {self._unloading}:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for work in self._works.values():
                _close_if_undecided(work)
            for job in self._jobs.values():
                job.close()
            await self._engine.stop()

    # --- the plan ---------------------------------------------------------------------------

    def _follow_plan(self) -> float:
        """Do what the planner says; return the monotonic second at which to ask it again."""
        look_s = math.inf
        for _ in range(PLANS_AT_ONCE):
            now = now_s()
            plan = self._planner.plan(now, self._free_s())
            for victim in plan.give_up:
                self._let_go(self._jobs.pop(victim.key), victim.why)
            self._hand_over_what_others_can_do_better()
            look_s = plan.look_again_s
            if plan.start is not None:
                self._begin(self._jobs.pop(plan.start.key), plan.start, now)
            if plan.give_up or plan.start is None or self._busy:
                break
        else:
            look_s = -math.inf  # there may be more
        return look_s

    def _hand_over_what_others_can_do_better(self) -> None:
        """Offer slots that the plan has no room for, and those with little time to spare."""
        if self._hand_over is None:
            return
        for slot, seconds in self._planner.left_out(MOST_OFFERED):
            # Where it cannot go, one of ours may, and leave it room.
            for each in [(slot, seconds), *self._planner.in_its_way(slot.key, MOST_OFFERED)]:
                if self._leaves(*each, LEFT_OUT):
                    break
        if self._paused:
            for slot, seconds in self._planner.tight(math.inf, MOST_OFFERED):
                self._leaves(slot, seconds, PAUSED)
            return
        usual_s = self._planner.expected.offset_s
        for slot, seconds in self._planner.tight(TIGHT_SHARE * usual_s, MOST_OFFERED):
            self._leaves(slot, seconds, TIGHT, SPARE_SHARE * usual_s)

    def _leaves(
        self, slot: Waiting[TickKey, Job], seconds: float, why: str, spare_s: float = 0.0
    ) -> bool:
        """Hand a waiting slot over to a worker that would have so much time to spare."""
        leaves = self._handed_over(slot.work, seconds, why, spare_s)
        if leaves:
            self._planner.remove(slot.key)
            del self._jobs[slot.key]
        return leaves

    def _handed_over(self, job: Job, seconds: float, why: str, spare_s: float = 0.0) -> bool:
        """Return whether another worker gets the slot, which may happen once to each."""
        return (
            self._hand_over is not None
            and job.hop is None
            and job.key not in self._losses_with
            and self._hand_over(job, seconds, spare_s, why)
        )

    @property
    def _busy(self) -> bool:
        """Whether the slots in the making leave no room for another."""
        works = self._works.values()
        room_s = self._engine.overlap_room_s
        return len(works) >= MOST_AT_WORK or not all(work.leaves_room(room_s) for work in works)

    def _free_s(self) -> float | None:
        """Return when the engine can begin with the next slot; None: now."""
        if self._busy:
            # Those that are being stored are not waited for by the one that needs the models.
            ends_s = [work.end_s for work in self._works.values() if not work.storing]
            return max(ends_s) if ends_s else min(work.end_s for work in self._works.values())
        if self._unloading is not None:
            return self._next_ready_s()
        return None if self._engine.ready and not self._paused else self._ready_s

    def _begin(self, job: Job, start: Start[TickKey], now: float) -> None:
        end_s = now + start.seconds
        ruled_out = self._engine.rule_out(job.recipe)
        if ruled_out is not None:
            self._let_go(job, ruled_out)
        elif end_s > self._closing_at_s:
            job.close()  # left undecided, to whoever reads the partition next
        else:
            if self._ahead is not job:
                self._drop_ahead()
            self._ahead = None  # its own work from here on
            work = _Work(job, start, end_s)
            self._works[asyncio.create_task(self._make(work))] = work

    def _look_ahead(self) -> None:
        """Have the next slot spoken while one is rendered, if that one is on time all the same."""
        ready = self._engine.ready
        if self._ahead is not None and (self._ahead.key not in self._jobs or not ready):
            self._drop_ahead()
        starts_none = self._paused or self._closing_at_s < math.inf or not ready
        rendered = next((work for work in self._works.values() if work.rendering), None)
        if self._ahead or self._speaking or starts_none or rendered is None:
            return
        free_s = max(now_s(), rendered.end_s)
        job = self._planner.next_up(free_s)
        if job is None or job.key in self._losses_with:
            return
        if free_s + self._engine.speech_room_s(job.recipe) <= rendered.job.deadline_s:
            self._ahead = job
            self._speaking = asyncio.create_task(self._speak(job))

    def _drop_ahead(self) -> None:
        self._ahead = None
        if self._speaking is not None:
            self._speaking.cancel()

    def _let_go(self, job: Job, why: str) -> None:
        """Hand a slot over that cannot be made here, or answer it."""
        if not self._handed_over(job, self._lowest_s(job), why):
            self._refuse(job, why)

    def _refuse(self, job: Job, why: str, reason: MissReason = MissReason.PREDICTED) -> None:
        self._on_result(job, SlotNotMade(reason, None, why, {}), None)

    def _wait_for_engine(self, job: Job) -> None:
        self._jobs[job.key] = job
        now = now_s()
        self._planner.arrive(Waiting(job.key, job, job.emitted_s, job.deadline_s), now)
        free_s = max(now, self._free_s() or now)
        needed_s = self._engine.predict_s(job.recipe, self._engine.ladder[-1])
        start_s = self._planner.start_s(job.key, free_s)
        self._on_step(job, Step(needed_s=needed_s, planned_start_s=start_s))
        self._wake.set()

    def _lowest_s(self, job: Job) -> float:
        return self._needed_s(job, self._engine.ladder[-1])

    def _needed_s(self, job: Job, rung: Rung) -> float:
        """Return the predicted seconds; none while nothing was measured: the slot may be tried."""
        return self._engine.predict_s(job.recipe, rung) or 0.0

    async def _until_something_changes(self, look_s: float) -> None:
        waking = asyncio.create_task(self._wake.wait())
        left_s = look_s - now_s() + AFTER_LOOK_S
        # With nothing waiting, the end of the slot in the making is all that can come.
        interval_s = LOOK_INTERVAL_S if self._jobs or not self._works else None
        try:
            done, _ = await asyncio.wait(
                {waking, *self._tasks()},
                timeout=interval_s and min(max(0.0, left_s), interval_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            waking.cancel()
        for task in done - {waking}:
            if not task.cancelled():
                task.result()
        for task in self._works.keys() & done:
            _close_if_undecided(self._works.pop(task))
        if self._starting in done:
            self._starting = None
        if self._unloading in done:
            self._unloading = None
        if self._speaking in done:
            self._speaking = None

    def _tasks(self) -> set[asyncio.Task[None]]:
        others = (self._starting, self._unloading, self._speaking)
        return {*self._works, *(task for task in others if task is not None)}

    # --- the engine -------------------------------------------------------------------------

    def _start_engine_if_down(self) -> None:
        if self._unloading is not None or (self._unloaded and not self._jobs):
            return
        at_work = self._works or self._speaking
        if not self._engine.ready and not at_work and self._starting is None:
            self._ready_s = self._next_ready_s()
            self._starting = asyncio.create_task(self.start())

    def _unload_engine_if_idle(self) -> None:
        needless = self.idle and self._speaking is None and self._engine.ready
        if not needless or self._unloading is not None:
            self._idle_since_s = None
            return
        now = now_s()
        if self._idle_since_s is None:
            self._idle_since_s = now
        if now - self._idle_since_s >= self._idle_unload_s:
            logger.info("Engine unloaded", extra={"idle_s": round(now - self._idle_since_s, 1)})
            self._unloaded = True
            self._unloading = asyncio.create_task(self._engine.stop())

    async def _make(self, work: _Work) -> None:
        job = work.job
        work.started_s = now_s()
        tracer.start_span(
            "slot.queue",
            context=job.context,
            start_time=int(job.arrival.wall.timestamp() * 1e9),
            attributes={semconv.SLOT_ID: job.tick.slot_id},
        ).end()
        try:
            start, ladder = work.start, self._engine.ladder
            request = _request(job, ladder[ladder.index(start.rung) :], start.held_back)
            result = await self._engine.run(request, partial(self._note_stage, work))
        except EngineLostError as error:
            if being_cancelled():
                raise asyncio.CancelledError from error
            self._lose(error, job)
            self._losses_with[job.key] += 1
            if self._may_be_tried_again(job):
                work.decided = True
                self._wait_for_engine(job)
                return
            semconv.record_failure(job.span, error)
            result = SlotNotMade(MissReason.ENGINE_LOST, None, str(error), {})
        if work.decided:  # cancelled at the last moment
            return
        if isinstance(result, SlotMade):
            self._losses = 0
        work.decided = True
        self._losses_with.pop(job.key, None)
        self._on_result(job, result, work.started_s)
        try:
            await self._engine.settle()
        except EngineLostError as error:
            self._lose(error, job)

    async def _speak(self, job: Job) -> None:
        try:
            await self._engine.speak_ahead(_request(job, self._engine.ladder))
        except EngineLostError as error:
            if being_cancelled():
                raise asyncio.CancelledError from error
            self._lose(error, job)
            if self._ahead is job:  # else it has begun, and its own work tells
                self._losses_with[job.key] += 1

    def _note_stage(self, work: _Work, stage: Stage, *, ended: bool = False) -> None:
        now, finish_s = now_s(), work.end_s
        if not ended:
            work.began_s[stage] = now
            work.stage = stage
            if stage not in STORING:
                recipe, rung = work.job.recipe, work.start.rung
                rest_s = self._engine.predict_rest_s(recipe, rung, stage)
                if rest_s is not None:
                    finish_s = now + rest_s
                    work.end_s = min(finish_s, work.job.deadline_s)
            self._wake.set()
        step = Step(
            stage,
            began_s=work.began_s.get(stage, now),
            ended_s=now if ended else None,
            finish_s=finish_s,
            rung=work.start.rung.name,
            rung_why=work.start.held_back,
        )
        self._on_step(work.job, step)

    def _lose(self, error: EngineLostError, job: Job) -> None:
        if not self._loss_counted:
            self._losses += 1
            self._loss_counted = True
        logger.error(
            "Engine lost",
            extra={"slot_id": job.tick.slot_id, "losses": self._losses},
            exc_info=error,
        )

    def _may_be_tried_again(self, job: Job) -> bool:
        """Tell whether a slot whose engine was lost can be made by the next one."""
        if self._losses_with[job.key] >= MAX_LOSSES_PER_SLOT:
            return False
        return self._next_ready_s() + self._lowest_s(job) < job.deadline_s

    def _next_ready_s(self) -> float:
        """Return when an engine that is started now should be ready."""
        return now_s() + _backoff_s(self._losses) + self._start_s


def _backoff_s(losses: int) -> float:
    """Return how long to wait before an engine is started after so many were lost in a row."""
    return 0.0 if losses < 2 else float(min(2 ** (losses - 2), MAX_BACKOFF_S))


def _request(job: Job, rungs: tuple[Rung, ...], rung_why: str = "") -> SlotRequest:
    return SlotRequest(
        key=job.source,
        slot_id=job.tick.slot_id,
        channel=job.tick.channel,
        recipe=job.recipe,
        seed=job.seed,
        deadline_s=job.deadline_s,
        admitted=True,
        rungs=rungs,
        rung_why=rung_why,
        trace=propagation.inject_carrier(job.context),
    )


def _cancelled(why: str, work: _Work | None = None) -> SlotNotMade:
    """Return the outcome of a slot that an operator has cancelled, in the making or before."""
    stage = None if work is None else work.stage
    return SlotNotMade(MissReason.PREDICTED, stage, why, {}, cancelled=True)


def _close_if_undecided(work: _Work) -> None:
    """Close a slot whose work has ended without a decision."""
    if not work.decided:
        work.job.close()
