from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from consumer.dispatcher import Dispatcher, HandOver, OnStep
from consumer.engine.base import (
    Engine,
    EngineLostError,
    EngineResult,
    EngineStartError,
    OnStage,
    SlotMade,
    SlotNotMade,
    SlotRequest,
    ignore_stage,
)
from consumer.job import Hop, Job, Step
from consumer.planning.optimum import Known, most_on_time
from consumer.planning.planner import MOST_GIVEN_UP
from consumer.simulation.virtual_time import run_in_virtual_time
from schemas import MissReason, Recipe, Stage
from tests.support.engines import Script, ScriptedEngine
from tests.support.jobs import job
from vortex.rung import FULL, Rung
from vortex.utils.clock import now_s

FAILED = SlotNotMade(MissReason.FAILED, Stage.AUDIO, "no such voice", {"audio_ms": 1.0})
LOST = EngineLostError("the GPU is gone")


@dataclass(frozen=True)
class Decided:
    """One call of the dispatcher's `decide`."""

    made: EngineResult
    started_s: float | None
    at_s: float

    @property
    def reason(self) -> MissReason | None:
        return self.made.reason if isinstance(self.made, SlotNotMade) else None


@dataclass
class Bench:
    """A dispatcher at work, and what it decided by slot id."""

    dispatcher: Dispatcher
    decided: dict[int, Decided]
    serving: asyncio.Task[None] = field(init=False)

    def submit(self, *jobs: Job) -> None:
        for one in jobs:
            self.dispatcher.submit(one)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until a condition holds; an error of the dispatcher comes out here."""
        give_up_s = time.monotonic() + timeout_s
        while not condition():
            if self.serving.done():
                self.serving.result()
            assert time.monotonic() < give_up_s, "it did not happen"
            await asyncio.sleep(0.002)

    async def until_decided(self, *slot_ids: int) -> list[Decided]:
        """Wait until slots are decided; return what was decided."""
        await self.until(lambda: self.decided.keys() >= set(slot_ids))
        return [self.decided[slot_id] for slot_id in slot_ids]


@asynccontextmanager
async def serving(
    engine: Engine,
    on_step: OnStep = lambda _job, _step: None,
    hand_over: HandOver | None = None,
    idle_unload_s: float | None = None,
) -> AsyncIterator[Bench]:
    """Run a dispatcher around the engine until the block ends."""
    decided: dict[int, Decided] = {}

    def decide(one: Job, made: EngineResult, started_s: float | None) -> None:
        assert one.tick.slot_id not in decided, "a slot is decided once"
        decided[one.tick.slot_id] = Decided(made, started_s, time.monotonic())

    bench = Bench(Dispatcher(engine, decide, on_step, hand_over, idle_unload_s), decided)
    bench.serving = asyncio.create_task(bench.dispatcher.run())
    try:
        yield bench
    finally:
        bench.serving.cancel()
        with contextlib.suppress(asyncio.CancelledError, EngineStartError):
            await bench.serving


def with_script(script: str) -> Recipe:
    """Return a recipe whose script a test gives a meaning."""
    recipe = job(0).recipe
    return recipe.model_copy(
        update={"audio_track": recipe.audio_track.model_copy(update={"script": script})}
    )


def held() -> Script:
    """Return the script of a slot that is never finished."""
    return Script(hold=asyncio.Event())


# Making slots


async def test_earliest_deadline_is_made_first() -> None:
    engine = ScriptedEngine()
    engine.may_start.clear()
    async with serving(engine) as bench:
        bench.submit(*(job(slot_id, deadline_in_s=s) for slot_id, s in enumerate([30, 10, 20])))
        engine.may_start.set()
        await bench.until_decided(0, 1, 2)
    assert engine.started == [1, 2, 0]


async def test_slot_that_comes_later_overtakes_those_that_wait_but_not_the_running_one() -> None:
    engine = ScriptedEngine({0: Script(hold=(hold := asyncio.Event()))})
    async with serving(engine) as bench:
        bench.submit(job(0, deadline_in_s=40))
        await bench.until(lambda: engine.running == 0)
        bench.submit(job(1, deadline_in_s=30), job(2, deadline_in_s=20))
        hold.set()
        await bench.until_decided(0, 1, 2)
    assert engine.started == engine.finished == [0, 2, 1]


async def test_decision_holds_what_was_made_and_when_its_work_began() -> None:
    engine = ScriptedEngine({1: Script(work_s=0.05), 2: Script(result=FAILED)})
    before_s = time.monotonic()
    async with serving(engine) as bench:
        bench.submit(job(1), job(2))
        made, failed = await bench.until_decided(1, 2)
    assert isinstance(made.made, SlotMade)
    assert made.made.seed == engine.requests[0].seed
    assert made.started_s is not None
    assert before_s <= made.started_s <= made.at_s - 0.05
    assert failed.made == FAILED


async def test_engine_gets_the_slot_as_it_was_asked_for() -> None:
    engine = ScriptedEngine()
    async with serving(engine) as bench:
        asked = job(7)
        bench.submit(asked)
        await bench.until_decided(7)
    (request,) = engine.requests
    assert (request.key, request.slot_id, request.channel) == (asked.key, 7, "main")
    assert (request.recipe, request.seed) == (asked.recipe, asked.seed)
    assert request.deadline_s == asked.deadline_s


async def test_idle_means_that_nothing_waits_and_nothing_is_made() -> None:
    engine = ScriptedEngine({1: Script(hold=(hold := asyncio.Event()))})
    async with serving(engine) as bench:
        assert bench.dispatcher.idle
        bench.submit(job(1))
        assert not bench.dispatcher.idle
        await bench.until(lambda: engine.running == 1)
        assert not bench.dispatcher.idle
        hold.set()
        await bench.until(lambda: bench.dispatcher.idle)
        assert engine.finished == [1]


# Storing a slot while the next one is made


def storing_engine(*stored: asyncio.Event, room_s: float = 1.0) -> ScriptedEngine:
    """Return an engine whose first slots are stored until these are set."""
    engine = ScriptedEngine({slot_id: Script(store=event) for slot_id, event in enumerate(stored)})
    engine.room_s = room_s
    return engine


async def test_next_slot_is_made_while_one_is_stored() -> None:
    engine = storing_engine(stored := asyncio.Event())
    async with serving(engine) as bench:
        bench.submit(job(0, deadline_in_s=10), job(1, deadline_in_s=20))
        await bench.until_decided(1)
        assert engine.storing == {0}
        assert not bench.dispatcher.idle
        stored.set()
        await bench.until_decided(0)


@pytest.mark.parametrize("room_s", [math.inf, 15.0])
async def test_slot_that_has_less_left_than_the_room_for_overlap_is_stored_before_the_next(
    room_s: float,
) -> None:
    engine = storing_engine(stored := asyncio.Event(), room_s=room_s)
    async with serving(engine) as bench:
        bench.submit(job(0, deadline_in_s=10), job(1, deadline_in_s=20))
        await bench.until(lambda: engine.storing == {0})
        await asyncio.wait({bench.serving}, timeout=0.1)
        assert engine.started == [0]
        stored.set()
        await bench.until_decided(0, 1)
    assert engine.finished == [0, 1]


async def test_no_third_slot_begins_while_two_are_stored() -> None:
    engine = storing_engine(first := asyncio.Event(), second := asyncio.Event())
    async with serving(engine) as bench:
        bench.submit(*(job(slot_id, deadline_in_s=10 + slot_id) for slot_id in range(3)))
        await bench.until(lambda: engine.storing == {0, 1})
        await asyncio.wait({bench.serving}, timeout=0.1)
        assert engine.started == [0, 1]
        second.set()
        await bench.until_decided(1, 2)
        first.set()
        await bench.until_decided(0)


async def test_engine_lost_with_two_slots_is_one_loss_and_the_next_makes_both(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lost = asyncio.Event()
    engine = storing_engine(lost)
    engine.scripts = {0: Script(store=lost, error=LOST), 1: Script(hold=lost, error=LOST)}
    async with serving(engine) as bench:
        bench.submit(job(0, deadline_in_s=10), job(1, deadline_in_s=20))
        await bench.until(lambda: engine.running == 1)
        engine.scripts = {}
        lost.set()
        decided = await bench.until_decided(0, 1)
        assert all(isinstance(each.made, SlotMade) for each in decided)
    assert engine.starts == 2
    losses = [vars(each)["losses"] for each in caplog.records if each.message == "Engine lost"]
    assert losses == [1, 1]


async def test_dropping_a_slot_that_is_stored_leaves_the_running_one_alone() -> None:
    engine = storing_engine(asyncio.Event())
    engine.scripts[1] = Script(hold=(hold := asyncio.Event()))
    async with serving(engine) as bench:
        bench.submit(stored := job(0, deadline_in_s=10), job(1, deadline_in_s=20))
        await bench.until(lambda: engine.running == 1)
        bench.dispatcher.drop(stored.key)
        await bench.until(lambda: engine.cancelled == [0])
        hold.set()
        await bench.until_decided(1)
    assert bench.decided.keys() == {1}


# Speaking the next slot while one is rendered


def spoken() -> asyncio.Event:
    """Return the event of a speech that is over."""
    event = asyncio.Event()
    event.set()
    return event


def speaking_engine(*, first: Script | None = None) -> ScriptedEngine:
    """Return an engine that renders slot 0 until its script ends: 2 s, as it predicts."""
    hold = asyncio.Event()
    engine = ScriptedEngine({0: first or Script(speech=spoken(), hold=hold)}, predicted_s=3.0)
    engine.rest_s = {Stage.VIDEO: 2.0}
    engine.speech_s = 1.0
    return engine


@asynccontextmanager
async def rendering(engine: ScriptedEngine, deadline_in_s: float = 20.0) -> AsyncIterator[Bench]:
    """Serve until the video of slot 0 has begun."""
    told: list[Step] = []
    async with serving(engine, lambda _, step: told.append(step)) as bench:
        bench.submit(job(0, deadline_in_s=deadline_in_s))
        await bench.until(lambda: any(step.stage is Stage.VIDEO for step in told))
        yield bench


async def nothing_spoken(engine: ScriptedEngine, bench: Bench) -> bool:
    """Return whether nothing is spoken ahead within a few turns of the loop."""
    await asyncio.wait({bench.serving}, timeout=0.1)
    return engine.spoken == []


async def test_slot_that_goes_next_is_spoken_once_while_the_one_before_is_rendered() -> None:
    hold = asyncio.Event()
    engine = speaking_engine(first=Script(speech=spoken(), hold=hold))
    async with rendering(engine) as bench:
        later, sooner = job(1, deadline_in_s=60.0), job(2, deadline_in_s=40.0)
        bench.submit(later, sooner)
        await bench.until(lambda: engine.spoken != [])
        bench.submit(job(3, deadline_in_s=50.0))
        await asyncio.wait({bench.serving}, timeout=0.1)
        assert engine.spoken == [2]
        hold.set()
        await bench.until_decided(0, 1, 2, 3)
    assert engine.started == [0, 2, 3, 1]
    assert engine.silenced == []


async def test_nothing_is_spoken_ahead_before_the_video_of_the_one_in_the_making() -> None:
    engine = speaking_engine(first=Script(speech=asyncio.Event()))
    async with serving(engine) as bench:
        bench.submit(job(0, deadline_in_s=20.0), job(1, deadline_in_s=40.0))
        await bench.until(lambda: engine.running == 0)
        assert await nothing_spoken(engine, bench)


async def test_nothing_is_spoken_ahead_while_the_one_in_the_making_is_stored() -> None:
    engine = speaking_engine(first=Script(speech=spoken(), store=asyncio.Event()))
    async with serving(engine) as bench:
        bench.submit(job(0, deadline_in_s=20.0))
        await bench.until(lambda: engine.storing == {0})
        bench.submit(job(1, deadline_in_s=40.0))
        assert await nothing_spoken(engine, bench)


@pytest.mark.parametrize("seed_again", [Stage.AUDIO, Stage.IMAGE])
async def test_nothing_is_spoken_ahead_while_another_seed_is_tried(seed_again: Stage) -> None:
    class AnotherSeed(ScriptedEngine):
        async def run(self, request: SlotRequest, on_stage: OnStage = ignore_stage) -> EngineResult:
            if request.slot_id == 0:
                on_stage(Stage.VIDEO)
                on_stage(seed_again)
            return await super().run(request, ignore_stage)

    engine = AnotherSeed({0: held()}, predicted_s=3.0)
    engine.rest_s, engine.speech_s = {Stage.VIDEO: 2.0}, 1.0
    async with serving(engine) as bench:
        bench.submit(job(0, deadline_in_s=20.0), job(1, deadline_in_s=40.0))
        await bench.until(lambda: engine.running == 0)
        assert await nothing_spoken(engine, bench)


@pytest.mark.parametrize(
    ("deadline_in_s", "speech_s"), [(4.0, 2.5), (20.0, math.inf), (60.0, math.inf)]
)
async def test_nothing_is_spoken_that_could_make_the_one_in_the_making_late(
    deadline_in_s: float, speech_s: float
) -> None:
    engine = speaking_engine()
    engine.speech_s = speech_s
    async with rendering(engine, deadline_in_s) as bench:
        bench.submit(job(1, deadline_in_s=70.0))
        assert await nothing_spoken(engine, bench)


async def test_speech_that_just_leaves_the_one_in_the_making_its_time_is_spoken() -> None:
    engine = speaking_engine()
    engine.speech_s = 1.5
    async with rendering(engine, 4.0) as bench:
        bench.submit(job(1, deadline_in_s=70.0))
        await bench.until(lambda: engine.spoken == [1])


@pytest.mark.parametrize("how", ["paused", "closing"])
async def test_nothing_is_spoken_ahead_by_a_dispatcher_that_starts_nothing(how: str) -> None:
    engine = speaking_engine()
    async with rendering(engine) as bench:
        if how == "paused":
            bench.dispatcher.pause()
        else:
            bench.dispatcher.finish_by(time.monotonic() + 60.0)
        bench.submit(job(1, deadline_in_s=70.0))
        assert await nothing_spoken(engine, bench)


@pytest.mark.parametrize("how", ["dropped", "cancelled", "handed over"])
async def test_speech_of_a_slot_that_waits_no_more_is_stopped_and_the_next_one_is_spoken(
    how: str,
) -> None:
    engine = speaking_engine()
    engine.scripts[1] = Script(ahead=asyncio.Event())
    leaves = False

    def hand_over(one: Job, _seconds: float, _spare_s: float, _why: str) -> bool:
        return leaves and one.tick.slot_id == 1

    async with serving(engine, hand_over=hand_over) as bench:
        bench.submit(job(0, deadline_in_s=20.0), first := job(1, deadline_in_s=40.0))
        bench.submit(job(2, deadline_in_s=60.0))
        await bench.until(lambda: engine.speaking == 1)
        if how == "dropped":
            bench.dispatcher.drop(first.key)
        elif how == "cancelled":
            bench.dispatcher.cancel(lambda one: "not wanted" if one is first else None)
        else:
            leaves = True
            bench.dispatcher.pause()
            bench.submit(job(3, deadline_in_s=70.0))
            await bench.until(lambda: engine.silenced == [1])
            bench.dispatcher.resume()
        await bench.until(lambda: engine.spoken == [1, 2])
        assert engine.silenced == [1]


async def test_speech_of_another_slot_than_the_one_that_begins_is_stopped() -> None:
    hold = asyncio.Event()
    engine = speaking_engine(first=Script(speech=spoken(), hold=hold))
    engine.scripts[1] = Script(ahead=asyncio.Event())
    async with rendering(engine) as bench:
        bench.submit(job(1, deadline_in_s=60.0))
        await bench.until(lambda: engine.speaking == 1)
        engine.scripts[2] = Script(hold=(other := asyncio.Event()))
        bench.submit(job(2, deadline_in_s=30.0))
        hold.set()
        await bench.until(lambda: engine.running == 2)
        await bench.until(lambda: engine.silenced == [1])
        other.set()
        await bench.until_decided(0, 1, 2)
    assert engine.started == [0, 2, 1]


async def test_speech_goes_on_when_its_own_slot_begins() -> None:
    hold = asyncio.Event()
    engine = speaking_engine(first=Script(speech=spoken(), hold=hold))
    engine.scripts[1] = Script(ahead=(ahead := asyncio.Event()), hold=(second := asyncio.Event()))
    async with rendering(engine) as bench:
        bench.submit(job(1, deadline_in_s=60.0))
        await bench.until(lambda: engine.speaking == 1)
        hold.set()
        await bench.until(lambda: engine.running == 1)
        await asyncio.wait({bench.serving}, timeout=0.1)
        assert engine.speaking == 1
        ahead.set()
        second.set()
        await bench.until_decided(1)
    assert engine.silenced == []


async def test_engine_that_is_lost_while_it_speaks_ahead_is_replaced_and_both_slots_made() -> None:
    hold, ahead = asyncio.Event(), asyncio.Event()
    engine = speaking_engine(first=Script(speech=spoken(), hold=hold))
    engine.scripts[1] = Script(ahead=ahead, ahead_error=LOST)
    async with rendering(engine) as bench:
        bench.submit(job(1, deadline_in_s=60.0))
        await bench.until(lambda: engine.speaking == 1)
        ahead.set()
        await bench.until(lambda: not engine.up)
        hold.set()
        decided = await bench.until_decided(0, 1)
    assert all(isinstance(each.made, SlotMade) for each in decided)
    assert (engine.started, engine.starts) == ([0, 1], 2)


async def test_slot_that_an_engine_was_lost_with_is_not_spoken_ahead_again() -> None:
    """Else it could take the one in the making with it as often as that is tried."""
    hold, ahead = asyncio.Event(), spoken()
    engine = speaking_engine(first=Script(speech=spoken(), hold=hold, error=LOST))
    engine.scripts[1] = Script(ahead=ahead, ahead_error=LOST)
    async with rendering(engine) as bench:
        bench.submit(job(1, deadline_in_s=60.0))
        await bench.until(lambda: not engine.up)
        engine.scripts[0] = Script(speech=spoken(), hold=(again := asyncio.Event()))
        hold.set()
        await bench.until(lambda: engine.started == [0, 0])
        await asyncio.wait({bench.serving}, timeout=0.1)
        assert engine.spoken == [1]
        again.set()
        decided = await bench.until_decided(0, 1)
    assert all(isinstance(each.made, SlotMade) for each in decided)


# Hopeless slots


async def test_expired_slot_is_answered_without_an_engine() -> None:
    engine = ScriptedEngine()
    async with serving(engine) as bench:
        bench.submit(job(1, deadline_in_s=-1.0))
        assert bench.decided[1].reason is MissReason.EXPIRED
        assert bench.decided[1].started_s is None
    assert engine.started == []


async def test_slot_that_takes_longer_than_is_left_is_answered_at_once() -> None:
    engine = ScriptedEngine(predicted_s=10.0)
    async with serving(engine) as bench:
        bench.submit(waiting := job(1, deadline_in_s=9.0))
        (decided,) = await bench.until_decided(1)
        assert isinstance(decided.made, SlotNotMade)
        assert re.fullmatch(
            r"[89]\.\d{3} s are left, and the slot needs 10\.000 s", decided.made.detail
        )
        assert decided.made.reason is MissReason.PREDICTED
        assert decided.at_s < waiting.deadline_s - 8.0
    assert engine.started == []


async def test_slot_that_the_limits_rule_out_is_answered_at_once_in_words() -> None:
    engine = ScriptedEngine()
    engine.ruled_out = "the video would take about 65 s"
    async with serving(engine) as bench:
        bench.submit(job(1))
        assert bench.decided[1].made == SlotNotMade(
            MissReason.PREDICTED, None, "the video would take about 65 s", {}
        )
        assert bench.decided[1].started_s is None
    assert engine.started == []


async def test_waiting_slot_that_the_limits_come_to_rule_out_is_not_started() -> None:
    engine = ScriptedEngine({0: Script(hold=(hold := asyncio.Event()))})
    async with serving(engine) as bench:
        bench.submit(job(0))
        await bench.until(lambda: engine.running == 0)
        bench.submit(job(1))
        engine.ruled_out = "the video would take about 65 s"  # learnt from the running one
        hold.set()
        (decided,) = await bench.until_decided(1)
        assert decided.reason is MissReason.PREDICTED
    assert engine.started == [0]


async def test_slot_that_became_hopeless_is_answered_while_the_engine_is_busy() -> None:
    engine = ScriptedEngine({0: held()}, predicted_s=0.4)
    async with serving(engine) as bench:
        bench.submit(job(0, deadline_in_s=11.0))
        await bench.until(lambda: engine.running == 0)
        waiting = job(1, deadline_in_s=1.0)
        bench.submit(waiting, job(2, deadline_in_s=60.0))
        (decided,) = await bench.until_decided(1)
        assert decided.reason is MissReason.PREDICTED
        assert decided.started_s is None
        assert 0 <= decided.at_s - (waiting.deadline_s - 0.4) < 0.3
        assert engine.running == 0
        assert 2 not in bench.decided


async def test_slot_that_the_running_one_leaves_no_room_is_answered_at_once() -> None:
    engine = ScriptedEngine({0: held()}, predicted_s=10.0)
    async with serving(engine) as bench:
        bench.submit(job(0))
        await bench.until(lambda: engine.running == 0)
        waiting = job(1, deadline_in_s=12.0)
        bench.submit(waiting, job(2, deadline_in_s=60.0))
        (decided,) = await bench.until_decided(1)
        assert isinstance(decided.made, SlotNotMade)
        assert decided.made.reason is MissReason.PREDICTED
        assert "leave no room for it: it needs 10.000 s" in decided.made.detail
        assert decided.at_s < waiting.deadline_s - 10.0
        assert bench.decided.keys() == {1}


async def test_long_slot_that_is_due_first_waits_for_those_that_it_would_make_late() -> None:
    engine = ScriptedEngine()
    engine.may_start.clear()
    engine.predict_s = lambda recipe, _=FULL: float(recipe.audio_track.script)  # type: ignore[method-assign]
    async with serving(engine) as bench:
        bench.submit(
            *(
                job(slot_id, deadline_in_s=due_s, recipe=with_script(str(seconds)))
                for slot_id, (due_s, seconds) in enumerate([(40, 39), (41, 10), (42, 10)])
            )
        )
        engine.may_start.set()
        await bench.until_decided(0, 1, 2)
    assert engine.started == [1, 2, 0]


async def test_time_that_an_engine_takes_to_start_again_counts() -> None:
    engine = ScriptedEngine(predicted_s=0.6)
    engine.start_s = 1.5
    async with serving(engine) as bench:
        await bench.until(lambda: bench.dispatcher.engine_ready)
        engine.may_start.clear()
        engine.up = False
        await bench.until(lambda: engine.starts == 2)
        waiting = job(1, deadline_in_s=1.4)
        bench.submit(waiting, job(2, deadline_in_s=10.0))
        (decided,) = await bench.until_decided(1)
        assert decided.reason is MissReason.PREDICTED
        assert decided.at_s < waiting.deadline_s - 0.6  # when it would be hopeless by itself
        assert 2 not in bench.decided


async def test_slot_that_became_hopeless_is_answered_while_the_engine_starts() -> None:
    engine = ScriptedEngine()
    engine.may_start.clear()
    async with serving(engine) as bench:
        waiting = job(1, deadline_in_s=0.1)
        bench.submit(waiting)
        (decided,) = await bench.until_decided(1)
        assert decided.reason is MissReason.PREDICTED
        assert 0 <= decided.at_s - waiting.deadline_s < 0.5
        assert not bench.dispatcher.engine_ready
    assert engine.started == []


async def test_prediction_that_grew_is_noticed_while_the_engine_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("consumer.dispatcher.LOOK_INTERVAL_S", 0.05)
    engine = ScriptedEngine({0: held()}, predicted_s=1.0)
    async with serving(engine) as bench:
        bench.submit(job(0))
        await bench.until(lambda: engine.running == 0)
        bench.submit(job(1, deadline_in_s=30.0))
        engine.predicted_s = 40.0
        (decided,) = await bench.until_decided(1)
        assert decided.reason is MissReason.PREDICTED


async def test_slot_is_not_answered_by_a_prediction_that_shrank() -> None:
    engine = ScriptedEngine({0: Script(hold=(hold := asyncio.Event()))}, predicted_s=2.0)
    async with serving(engine) as bench:
        bench.submit(job(0))
        await bench.until(lambda: engine.running == 0)
        waiting = job(1, deadline_in_s=3.5)
        bench.submit(waiting)
        engine.predicted_s = 0.1
        hopeless_s = waiting.deadline_s - 2.0
        await bench.until(lambda: time.monotonic() > hopeless_s + 0.05)
        hold.set()
        (decided,) = await bench.until_decided(1)
        assert isinstance(decided.made, SlotMade)


async def test_slot_that_no_longer_fits_behind_one_whose_speech_took_long_is_answered_early() -> (
    None
):
    """Slot 0 should end after 2 s; when its video begins, that becomes 20 s."""
    speech = asyncio.Event()
    engine = ScriptedEngine({0: Script(speech=speech, hold=asyncio.Event())}, predicted_s=2.0)
    engine.rest_s = {Stage.VIDEO: 20.0}
    async with serving(engine) as bench:
        bench.submit(job(0, deadline_in_s=60.0))
        await bench.until(lambda: engine.running == 0)
        bench.submit(job(1, deadline_in_s=15.0), job(2, deadline_in_s=40.0))
        assert bench.dispatcher.ahead_s <= 2.0
        speech.set()
        (decided,) = await bench.until_decided(1)
        assert decided.reason is MissReason.PREDICTED
        assert 15.0 < bench.dispatcher.ahead_s <= 20.0
        assert 2 not in bench.decided


# Operators


def cancelled(*slot_ids: int) -> Callable[[Job], str | None]:
    return lambda one: "cancelled, says a test" if one.tick.slot_id in slot_ids else None


async def test_cancelled_slots_are_answered_at_once_and_the_next_one_is_made() -> None:
    engine = ScriptedEngine({0: held()})
    async with serving(engine) as bench:
        bench.submit(*(job(slot_id) for slot_id in range(3)))
        await bench.until(lambda: engine.running == 0)
        bench.dispatcher.cancel(cancelled(0, 1))
        running, waiting, made = await bench.until_decided(0, 1, 2)
    assert isinstance(running.made, SlotNotMade)
    assert running.made.cancelled
    assert running.made.stage is Stage.AUDIO
    assert running.started_s is not None
    assert waiting.made == SlotNotMade(
        MissReason.PREDICTED, None, "cancelled, says a test", {}, cancelled=True
    )
    assert waiting.started_s is None
    assert isinstance(made.made, SlotMade)
    assert (engine.started, engine.cancelled) == ([0, 2], [0])


async def test_cancel_that_comes_after_the_decision_changes_nothing() -> None:
    engine = ScriptedEngine()
    async with serving(engine) as bench:
        bench.submit(job(0))
        await bench.until_decided(0)
        bench.dispatcher.cancel(cancelled(0))  # `serving` fails if it is decided twice
        bench.submit(job(1))
        (made,) = await bench.until_decided(1)
    assert isinstance(made.made, SlotMade)
    assert engine.cancelled == []


async def test_slot_that_was_cancelled_before_it_arrived_is_never_started() -> None:
    engine = ScriptedEngine()
    async with serving(engine) as bench:
        bench.dispatcher.submit(job(0), "cancelled before")
        bench.dispatcher.submit(job(1, deadline_in_s=-1.0), "cancelled before")
        early, late = await bench.until_decided(0, 1)
    assert isinstance(early.made, SlotNotMade)
    assert early.made.cancelled
    assert late.reason is MissReason.EXPIRED
    assert engine.started == []


async def test_engine_lost_while_it_stops_a_cancelled_slot_is_replaced() -> None:
    engine = ScriptedEngine({0: Script(hold=asyncio.Event(), lost_when_cancelled=True)})
    async with serving(engine) as bench:
        bench.submit(job(0))
        await bench.until(lambda: engine.running == 0)
        bench.dispatcher.cancel(cancelled(0))
        bench.submit(job(1))
        lost, made = await bench.until_decided(0, 1)
    assert isinstance(lost.made, SlotNotMade)
    assert lost.made.cancelled
    assert isinstance(made.made, SlotMade)
    assert engine.starts == 2


async def test_paused_dispatcher_finishes_what_runs_answers_what_is_hopeless_and_goes_on() -> None:
    engine = ScriptedEngine({0: Script(hold=(hold := asyncio.Event()))}, predicted_s=1.0)
    async with serving(engine) as bench:
        bench.submit(job(0))
        await bench.until(lambda: engine.running == 0)
        bench.dispatcher.pause()
        bench.submit(job(1), job(2, deadline_in_s=1.2))
        hold.set()
        finished, hopeless = await bench.until_decided(0, 2)
        assert isinstance(finished.made, SlotMade)
        assert hopeless.reason is MissReason.PREDICTED
        assert (engine.started, bench.dispatcher.waiting) == ([0], 1)
        bench.dispatcher.resume()
        (made,) = await bench.until_decided(1)
    assert isinstance(made.made, SlotMade)


async def test_paused_dispatcher_that_closes_leaves_what_waits_undecided() -> None:
    engine = ScriptedEngine({0: Script(hold=(hold := asyncio.Event()))})
    async with serving(engine) as bench:
        bench.submit(job(0))
        await bench.until(lambda: engine.running == 0)
        bench.dispatcher.pause()
        bench.submit(job(1))
        bench.dispatcher.finish_by(time.monotonic() + 60.0)
        hold.set()
        await bench.until_decided(0)
        await bench.until(lambda: bench.dispatcher.idle)
    assert bench.decided.keys() == {0}


# What watchers are told


async def test_watchers_are_told_the_planned_start_the_rung_and_each_stages_start_and_end() -> None:
    speech = asyncio.Event()
    engine = ScriptedEngine({0: Script(speech=speech)}, predicted_s=4.0)
    engine.rest_s = {Stage.VIDEO: 3.0}
    told: list[tuple[int, Step]] = []
    async with serving(engine, lambda one, step: told.append((one.tick.slot_id, step))) as bench:
        bench.submit(job(0, deadline_in_s=60.0))
        await bench.until(lambda: engine.running == 0)
        bench.submit(job(1, deadline_in_s=61.0), job(2, deadline_in_s=62.0))
        speech.set()
        await bench.until_decided(0, 1, 2)
    planned = {one: step.planned_start_s for one, step in told if step.stage is None}
    assert planned[0] is not None
    assert planned[1] == pytest.approx(planned[0] + 4.0, abs=1.0)
    assert planned[2] == pytest.approx(planned[1] + 4.0, abs=0.1)
    began, ended, video = [step for one, step in told if one == 0 and step.stage is not None]
    assert (began.stage, ended.stage, video.stage) == (Stage.AUDIO, Stage.AUDIO, Stage.VIDEO)
    assert (began.ended_s, began.rung) == (None, FULL.name)
    assert ended.began_s == began.began_s
    assert ended.ended_s is not None
    assert video.began_s is not None
    assert video.finish_s == pytest.approx(video.began_s + 3.0)


async def test_slot_that_the_plan_has_no_room_for_is_told_without_a_planned_start() -> None:
    engine = ScriptedEngine({0: held()}, predicted_s=10.0)
    told: list[tuple[int, Step]] = []
    async with serving(engine, lambda one, step: told.append((one.tick.slot_id, step))) as bench:
        bench.submit(job(0, deadline_in_s=60.0))
        await bench.until(lambda: engine.running == 0)
        bench.submit(job(1, deadline_in_s=12.0))
        await bench.until_decided(1)
    assert (1, Step(needed_s=10.0)) in told


# Overload


def test_overloaded_engine_makes_all_but_as_many_slots_as_can_be_made() -> None:
    arrivals = [Known(5.0 * n, 5.0 * n + 45.0, 6.0 + n % 5) for n in range(150)]
    engine = ScriptedEngine({n: Script(work_s=slot.seconds) for n, slot in enumerate(arrivals)})
    engine.predict_s = lambda recipe, _=FULL: float(recipe.audio_track.script)  # type: ignore[method-assign]

    async def serve() -> set[int]:
        async with serving(engine) as bench:
            for n, slot in enumerate(arrivals):
                await asyncio.sleep(slot.arrived_s - now_s())
                recipe = with_script(str(slot.seconds))
                bench.submit(job(n, deadline_in_s=45.0, arrived_s=now_s(), recipe=recipe))
            while not bench.dispatcher.idle:
                await asyncio.sleep(1.0)
        assert bench.decided.keys() == set(range(len(arrivals)))
        return {n for n, one in bench.decided.items() if isinstance(one.made, SlotMade)}

    made = run_in_virtual_time(serve())
    assert set(engine.finished) == made  # nothing was begun in vain
    assert len(made) >= 0.95 * most_on_time(arrivals)
    assert len(made) < 0.8 * len(arrivals)


# Very many slots that wait


class CountingEngine(ScriptedEngine):
    """Counts how often it is asked for a prediction."""

    predictions = 0

    def predict_s(self, recipe: Recipe, rung: Rung = FULL) -> float | None:
        self.predictions += 1
        return super().predict_s(recipe, rung)


@asynccontextmanager
async def most_decided_in_one_turn(bench: Bench) -> AsyncIterator[Callable[[], int]]:
    """Watch the event loop; the context's value tells the most slots decided within one turn."""
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            before = len(bench.decided)
            await asyncio.sleep(0)
            most = max(most, len(bench.decided) - before)

    watching = asyncio.create_task(watch())
    try:
        yield lambda: most
    finally:
        watching.cancel()


async def test_each_of_many_slots_is_looked_at_a_few_times_until_it_is_hopeless() -> None:
    slots = 1_000
    engine = CountingEngine({0: held()})
    async with serving(engine) as bench:
        bench.submit(job(0))
        await bench.until(lambda: engine.running == 0)
        waiting = [job(n, deadline_in_s=0.3 + 0.5 * n / slots) for n in range(1, slots + 1)]
        bench.submit(*waiting)
        decided = await bench.until_decided(*range(1, slots + 1))
        assert {one.reason for one in decided} == {MissReason.PREDICTED}
        for one, asked in zip(decided, waiting, strict=True):
            assert one.at_s >= asked.deadline_s
    # Two on arrival, two in every sweep, one at the end; a machine that lags adds none.
    assert engine.predictions < 10 * slots


async def test_slots_that_become_hopeless_all_at_once_do_not_hold_the_loop() -> None:
    engine = ScriptedEngine({0: held()})
    async with serving(engine) as bench:
        bench.submit(job(0))
        await bench.until(lambda: engine.running == 0)
        waiting = [job(n) for n in range(1, 3_001)]
        moment_s = time.monotonic() + 0.3
        bench.submit(*(dataclasses.replace(one, deadline_s=moment_s) for one in waiting))
        async with most_decided_in_one_turn(bench) as most:
            await bench.until_decided(*range(1, 3_001))
            assert 0 < most() <= MOST_GIVEN_UP


async def test_slots_found_hopeless_by_a_free_engine_do_not_hold_the_loop() -> None:
    engine = ScriptedEngine({0: Script(hold=(hold := asyncio.Event()))}, predicted_s=1.0)
    async with serving(engine) as bench:
        bench.submit(job(0, deadline_in_s=60.0))
        await bench.until(lambda: engine.running == 0)
        bench.submit(*(job(n, deadline_in_s=60.0) for n in range(1, 3_001)))
        async with most_decided_in_one_turn(bench) as most:
            engine.predicted_s = 100.0
            hold.set()
            await bench.until_decided(*range(3_001))
            assert 0 < most() <= MOST_GIVEN_UP + 1  # and the one made


# A lost engine


async def test_slot_that_lost_two_engines_is_answered_and_the_next_one_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedEngine({1: Script(error=LOST)})
    async with serving(engine) as bench:
        bench.submit(job(1, deadline_in_s=20), job(2, deadline_in_s=30))
        lost, made = await bench.until_decided(1, 2)
    assert lost.made == SlotNotMade(MissReason.ENGINE_LOST, None, "the GPU is gone", {})
    assert lost.started_s is not None
    assert isinstance(made.made, SlotMade)
    assert (engine.started, engine.starts) == ([1, 1, 2], 3)
    said = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert [one.exc_info is not None for one in said] == [True, True]


async def test_slot_that_lost_one_engine_is_made_by_the_next() -> None:
    engine = ScriptedEngine({1: Script(error=LOST)})
    async with serving(engine) as bench:
        await bench.until(lambda: bench.dispatcher.engine_ready)
        engine.may_start.clear()
        bench.submit(job(1, deadline_in_s=20))
        await bench.until(lambda: engine.starts == 2)
        engine.scripts.clear()
        engine.may_start.set()
        (made,) = await bench.until_decided(1)
    assert isinstance(made.made, SlotMade)
    assert engine.starts == 2


async def test_slot_that_lost_an_engine_is_answered_at_once_where_no_time_is_left() -> None:
    engine = ScriptedEngine({1: Script(error=LOST)}, predicted_s=0.5)
    engine.start_s = 0.6
    async with serving(engine) as bench:
        await bench.until(lambda: bench.dispatcher.engine_ready)
        bench.submit(job(1, deadline_in_s=1.0))
        (lost,) = await bench.until_decided(1)
    assert lost.reason is MissReason.ENGINE_LOST
    assert engine.started == [1]


async def test_work_that_does_not_stop_after_its_answer_costs_the_engine_and_no_other_slot() -> (
    None
):
    engine = ScriptedEngine()
    engine.settle_error = EngineLostError("stage video did not stop within 5 s")
    async with serving(engine) as bench:
        bench.submit(job(1, deadline_in_s=20))
        await bench.until_decided(1)
        bench.submit(job(2, deadline_in_s=30))
        await bench.until_decided(2)
    assert (engine.started, engine.starts) == ([1, 2], 2)


async def test_engine_that_dies_while_it_is_idle_is_replaced_before_the_next_slot() -> None:
    engine = ScriptedEngine()
    async with serving(engine) as bench:
        await bench.until(lambda: bench.dispatcher.engine_ready)
        engine.up = False
        await bench.until(lambda: engine.starts == 2)
        bench.submit(job(1))
        (made,) = await bench.until_decided(1)
    assert isinstance(made.made, SlotMade)


async def test_engine_that_is_lost_at_each_start_ends_the_dispatcher() -> None:
    engine = ScriptedEngine()
    engine.start_error = LOST
    async with serving(engine) as bench:
        with pytest.raises(
            EngineStartError, match=r"lost 3 times while it started: the GPU is gone"
        ):
            await bench.serving
    assert engine.starts == 3


async def test_nothing_starts_before_a_lost_engine_is_replaced() -> None:
    engine = ScriptedEngine({1: Script(error=LOST)})
    async with serving(engine) as bench:
        await bench.until(lambda: bench.dispatcher.engine_ready)
        engine.may_start.clear()
        bench.submit(job(1, deadline_in_s=20), job(2, deadline_in_s=30))
        await bench.until(lambda: engine.starts == 2)
        assert not bench.dispatcher.engine_ready
        assert engine.started == [1]
        engine.may_start.set()
        await bench.until_decided(1, 2)


async def test_engine_that_cannot_start_ends_the_dispatcher() -> None:
    engine = ScriptedEngine()
    engine.start_error = EngineStartError("the models are missing")
    async with serving(engine) as bench:
        bench.submit(job(1))
        with pytest.raises(EngineStartError, match="models are missing"):
            await bench.serving
        assert bench.decided == {}


# Idle unload


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the dispatcher notice within milliseconds that nothing is to be done."""
    monkeypatch.setattr("consumer.dispatcher.LOOK_INTERVAL_S", 0.02)


@pytest.mark.usefixtures("quick_looks")
async def test_idle_engine_is_unloaded_and_the_next_slot_loads_it_again() -> None:
    engine = ScriptedEngine()
    async with serving(engine, idle_unload_s=0.1) as bench:
        await bench.until(lambda: engine.up)
        await bench.until(lambda: not engine.up)
        await asyncio.sleep(0.1)  # several looks
        assert engine.starts == 1
        bench.submit(job(1))
        (made,) = await bench.until_decided(1)
        assert isinstance(made.made, SlotMade)
        assert engine.starts == 2
        await bench.until(lambda: not engine.up)


@pytest.mark.usefixtures("quick_looks")
async def test_engine_is_not_unloaded_while_a_slot_is_made() -> None:
    engine = ScriptedEngine({1: Script(hold=(hold := asyncio.Event()))})
    async with serving(engine, idle_unload_s=0.1) as bench:
        bench.submit(job(1))
        await bench.until(lambda: engine.running == 1)
        await asyncio.sleep(0.3)
        assert engine.up
        hold.set()
        await bench.until_decided(1)
    assert engine.starts == 1


@pytest.mark.usefixtures("quick_looks")
async def test_without_idle_unload_an_idle_engine_stays() -> None:
    engine = ScriptedEngine()
    async with serving(engine) as bench:
        await bench.until(lambda: bench.dispatcher.engine_ready)
        await asyncio.sleep(0.2)
        assert engine.up


@pytest.mark.usefixtures("quick_looks")
async def test_time_that_an_unloaded_engine_takes_to_load_counts() -> None:
    engine = ScriptedEngine(predicted_s=0.6)
    engine.start_s = 1.5
    async with serving(engine, idle_unload_s=0.1) as bench:
        await bench.until(lambda: engine.starts == 1 and engine.up)
        await bench.until(lambda: not engine.up)
        waiting = job(1, deadline_in_s=1.4)
        bench.submit(waiting, job(2, deadline_in_s=20.0))
        (decided,) = await bench.until_decided(1)
        assert decided.reason is MissReason.PREDICTED
        assert decided.at_s < waiting.deadline_s - 0.6  # when it would be hopeless by itself
        (made,) = await bench.until_decided(2)
        assert isinstance(made.made, SlotMade)


@pytest.mark.usefixtures("quick_looks")
async def test_engine_counts_as_ready_while_it_is_unloaded_and_loaded_again() -> None:
    engine = ScriptedEngine()
    async with serving(engine, idle_unload_s=0.1) as bench:
        await bench.until(lambda: engine.stops == 1)
        assert bench.dispatcher.engine_ready
        engine.may_start.clear()
        bench.submit(job(1))
        await bench.until(lambda: engine.starts == 2)
        assert not engine.up
        assert bench.dispatcher.engine_ready
        engine.may_start.set()
        await bench.until_decided(1)


@pytest.mark.usefixtures("quick_looks")
async def test_engine_that_is_lost_while_it_is_loaded_again_is_not_ready() -> None:
    engine = ScriptedEngine()
    async with serving(engine, idle_unload_s=0.1) as bench:
        await bench.until(lambda: engine.stops == 1)
        engine.start_error = LOST
        bench.submit(job(1))
        await bench.until(lambda: not bench.dispatcher.engine_ready)
        engine.start_error = None
        await bench.until_decided(1)


class SlowlyStopped(ScriptedEngine):
    """Takes its time to stop, as a process does that exports its last spans."""

    def __init__(self) -> None:
        super().__init__()
        self.may_stop = asyncio.Event()

    async def stop(self) -> None:
        if not self.up:
            return
        self.up = False
        await self.may_stop.wait()


@pytest.mark.usefixtures("quick_looks")
async def test_slot_that_arrives_while_the_engine_stops_is_made_by_the_next() -> None:
    engine = SlowlyStopped()
    async with serving(engine, idle_unload_s=0.1) as bench:
        await bench.until(lambda: engine.up)
        await bench.until(lambda: not engine.up)
        bench.submit(job(1))
        await asyncio.sleep(0.1)
        assert engine.starts == 1
        engine.may_stop.set()
        (made,) = await bench.until_decided(1)
        assert isinstance(made.made, SlotMade)
    assert engine.starts == 2


# Slots that are no longer ours


async def test_dropped_slot_is_stopped_undecided_and_the_next_one_served() -> None:
    engine = ScriptedEngine({1: held()})
    async with serving(engine) as bench:
        dropped = job(1)
        bench.submit(dropped)
        await bench.until(lambda: engine.running == 1)
        bench.submit(job(2))
        bench.dispatcher.drop(dropped.key)
        await bench.until_decided(2)
        assert bench.decided.keys() == {2}
    assert (engine.cancelled, engine.finished) == ([1], [2])
    assert engine.starts == 1


async def test_dropped_slot_that_waits_is_never_started() -> None:
    engine = ScriptedEngine()
    engine.may_start.clear()
    async with serving(engine) as bench:
        dropped = job(1, deadline_in_s=20)
        bench.submit(dropped, job(2, deadline_in_s=30))
        bench.dispatcher.drop(dropped.key)
        engine.may_start.set()
        await bench.until_decided(2)
        assert bench.decided.keys() == {2}
    assert engine.started == [2]


async def test_dropping_another_slot_leaves_the_running_one_alone() -> None:
    engine = ScriptedEngine({1: Script(hold=(hold := asyncio.Event()))})
    async with serving(engine) as bench:
        bench.submit(job(1))
        await bench.until(lambda: engine.running == 1)
        bench.dispatcher.drop(job(9).key)
        hold.set()
        await bench.until_decided(1)
    assert engine.finished == [1]


async def test_engine_lost_while_it_stops_a_dropped_slot_is_replaced() -> None:
    engine = ScriptedEngine({1: Script(hold=asyncio.Event(), lost_when_cancelled=True)})
    async with serving(engine) as bench:
        dropped = job(1)
        bench.submit(dropped)
        await bench.until(lambda: engine.running == 1)
        bench.submit(job(2))
        bench.dispatcher.drop(dropped.key)
        await bench.until_decided(2)
        assert bench.decided.keys() == {2}
    assert engine.starts == 2


# Closing


async def test_closing_makes_what_fits_and_leaves_the_rest_undecided() -> None:
    engine = ScriptedEngine({0: Script(hold=(hold := asyncio.Event()))}, predicted_s=5.0)
    async with serving(engine) as bench:
        bench.submit(job(0))
        await bench.until(lambda: engine.running == 0)
        bench.submit(job(1, deadline_in_s=30))
        bench.dispatcher.finish_by(time.monotonic() + 10.0)
        hold.set()
        await bench.until_decided(0, 1)
        bench.dispatcher.finish_by(time.monotonic() + 4.0)
        bench.submit(job(2, deadline_in_s=20), job(3, deadline_in_s=30))
        await bench.until(lambda: bench.dispatcher.idle)
        assert bench.decided.keys() == {0, 1}
    assert engine.started == [0, 1]


async def test_hopeless_slot_is_answered_while_closing() -> None:
    engine = ScriptedEngine(predicted_s=5.0)
    async with serving(engine) as bench:
        await bench.until(lambda: bench.dispatcher.engine_ready)
        bench.dispatcher.finish_by(time.monotonic())
        bench.submit(job(1, deadline_in_s=4.0))
        (decided,) = await bench.until_decided(1)
        assert decided.reason is MissReason.PREDICTED


async def test_end_stops_the_running_slot_undecided_and_then_the_engine() -> None:
    engine = ScriptedEngine({1: held()})
    async with serving(engine) as bench:
        bench.submit(job(1), job(2))
        await bench.until(lambda: engine.running == 1)
    assert engine.cancelled == [1]
    assert not engine.up
    assert bench.decided == {}
    assert bench.serving.cancelled()


# Handing over


class Neighbour:
    """Takes every slot that it is offered, but for those that a test names."""

    def __init__(self, *refused: int) -> None:
        self.refused = set(refused)
        self.taken: list[int] = []
        self.asked: list[int] = []

    def take(self, one: Job, seconds: float, spare_s: float, why: str) -> bool:
        slot_id = one.tick.slot_id
        self.asked.append(slot_id)
        if slot_id in self.refused:
            return False
        self.taken.append(slot_id)
        return True


def handed_over(slot_id: int, deadline_in_s: float) -> Job:
    """Return the job of a tick that another worker has read."""
    own = job(slot_id, deadline_in_s=deadline_in_s)
    hop = Hop(own.key, "other", own.arrival.wall, "no room", own.arrival.wall, None)
    return dataclasses.replace(own, hop=hop)


async def test_slots_beyond_this_workers_time_are_handed_over_and_not_decided() -> None:
    engine = ScriptedEngine(default=held(), predicted_s=10.0)
    neighbour = Neighbour()
    async with serving(engine, hand_over=neighbour.take) as bench:
        bench.submit(*(job(slot_id, deadline_in_s=25.0) for slot_id in range(5)))
        await bench.until(lambda: len(neighbour.taken) >= 3 and engine.started != [])
        assert len(set(neighbour.taken)) == len(neighbour.taken)
        assert engine.started[0] not in neighbour.taken
        assert bench.dispatcher.waiting == 5 - 1 - len(neighbour.taken)
        assert bench.decided == {}


async def test_slot_that_nobody_takes_is_answered_here() -> None:
    engine = ScriptedEngine(default=held(), predicted_s=10.0)
    async with serving(engine, hand_over=Neighbour(2).take) as bench:
        bench.submit(job(1, deadline_in_s=15.0), job(2, deadline_in_s=5.0))
        [missed] = await bench.until_decided(2)
        assert missed.reason is MissReason.PREDICTED
        assert engine.started == [1]


async def test_slot_beyond_this_machines_limits_is_offered_to_others_first() -> None:
    engine = ScriptedEngine(predicted_s=10.0)
    engine.ruled_out = "the video would take too long"
    neighbour = Neighbour(2)
    async with serving(engine, hand_over=neighbour.take) as bench:
        bench.submit(job(1, deadline_in_s=45.0), job(2, deadline_in_s=45.0))
        [missed] = await bench.until_decided(2)
        assert missed.made == SlotNotMade(MissReason.PREDICTED, None, engine.ruled_out, {})
        assert neighbour.taken == [1]
        assert bench.dispatcher.idle


async def test_slot_that_was_handed_over_once_is_answered_here() -> None:
    engine = ScriptedEngine(default=held(), predicted_s=10.0)
    neighbour = Neighbour()
    async with serving(engine, hand_over=neighbour.take) as bench:
        bench.submit(job(1, deadline_in_s=15.0), handed_over(2, deadline_in_s=5.0))
        await bench.until_decided(2)
        assert 2 not in neighbour.asked


async def test_own_slot_goes_where_one_that_came_from_elsewhere_could_not() -> None:
    engine = ScriptedEngine(default=held(), predicted_s=10.0)
    neighbour = Neighbour()
    async with serving(engine, hand_over=neighbour.take) as bench:
        await bench.until(lambda: engine.up)
        bench.submit(job(1, deadline_in_s=11.0))
        await bench.until(lambda: engine.started == [1])
        bench.submit(handed_over(2, deadline_in_s=25.0), job(3, deadline_in_s=25.0))
        await bench.until(lambda: neighbour.taken == [3])
        await asyncio.sleep(0.05)
        assert bench.dispatcher.waiting == 1
        assert bench.decided == {}


async def test_paused_worker_hands_over_all_that_waits() -> None:
    neighbour = Neighbour()
    async with serving(ScriptedEngine(predicted_s=1.0), hand_over=neighbour.take) as bench:
        bench.dispatcher.pause()
        bench.submit(*(job(slot_id, deadline_in_s=45.0) for slot_id in range(5)))
        await bench.until(lambda: len(neighbour.taken) == 5)
        assert bench.dispatcher.idle


async def test_slot_with_plenty_of_time_stays() -> None:
    engine = ScriptedEngine(default=held(), predicted_s=1.0)
    neighbour = Neighbour()
    async with serving(engine, hand_over=neighbour.take) as bench:
        bench.submit(*(job(slot_id, deadline_in_s=45.0) for slot_id in range(5)))
        await bench.until(lambda: bool(engine.started))
        await asyncio.sleep(0.1)
        assert neighbour.asked == []
