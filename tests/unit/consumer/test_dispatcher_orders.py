"""Whatever happens to a dispatcher's slots, in whatever order; in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.dispatcher import Dispatcher
from consumer.engine.base import EngineLostError, EngineResult, OnStage, SlotRequest, ignore_stage
from consumer.job import Job
from consumer.simulation.virtual_time import run_in_virtual_time
from schemas import Stage
from tests.support.engines import Script, ScriptedEngine
from tests.support.jobs import job
from vortex.rung import LADDER
from vortex.utils.clock import now_s

FULL_S = 8.0
SPEECH_S = 3.0
SPOKEN = asyncio.Event()
SPOKEN.set()
LONGEST_S = 400.0

EVENTS = st.one_of(
    st.tuples(st.just("arrive"), st.floats(-2.0, 120.0), st.floats(0.3, 2.0)),
    st.tuples(st.just("wait"), st.floats(0.0, 30.0), st.just(0.0)),
    st.tuples(st.just("cancel"), st.floats(0.0, 0.99), st.just(0.0)),
    st.tuples(st.just("rebalance"), st.floats(0.0, 0.99), st.just(0.0)),
    st.tuples(st.just("jump"), st.floats(0.0, 60.0), st.just(0.0)),
    st.tuples(st.just("order"), st.floats(0.0, 0.99), st.just(0.0)),
    st.tuples(st.just("pause"), st.just(0.0), st.just(0.0)),
    st.tuples(st.just("resume"), st.just(0.0), st.just(0.0)),
)


class CheckingEngine(ScriptedEngine):
    """Takes on its rung as long as predicted times a factor; refuses what cannot be in time."""

    def __init__(self) -> None:
        super().__init__(predicted_s=FULL_S)
        self.ladder = LADDER[:2]
        self.rest_s = {Stage.VIDEO: FULL_S}
        self.speech_s = self.ahead_s = SPEECH_S

    async def run(self, request: SlotRequest, on_stage: OnStage = ignore_stage) -> EngineResult:
        seconds = FULL_S * request.rungs[0].work_share
        # A plan is made a few loop turns before; no virtual time passes in between.
        assert now_s() + seconds <= request.deadline_s + 1e-6, "started although it cannot finish"
        script = self.scripts.get(request.slot_id, Script())
        self.scripts[request.slot_id] = dataclasses.replace(
            script, work_s=seconds * script.work_s, speech=SPOKEN
        )
        return await super().run(request, on_stage)


async def _play(events: list[tuple[str, float, float]]) -> None:
    engine = CheckingEngine()
    decided: Counter[int] = Counter()
    dispatcher = Dispatcher(engine, lambda one, _made, _began: decided.update([one.tick.slot_id]))
    serving = asyncio.create_task(dispatcher.run())
    owned: dict[int, Job] = {}
    gone: set[int] = set()

    def arrive(deadline_in_s: float, factor: float) -> None:
        slot_id = len(owned) + len(gone) + 1
        error = EngineLostError("gone") if factor > 1.9 else None
        lost_ahead = EngineLostError("gone ahead") if 1.7 < factor < 1.8 else None
        engine.scripts[slot_id] = Script(factor, error=error, ahead_error=lost_ahead)
        owned[slot_id] = job(slot_id, deadline_in_s=deadline_in_s, arrived_s=now_s())
        dispatcher.submit(owned[slot_id])

    for what, amount, factor in events:
        undecided = [slot_id for slot_id in owned if not decided[slot_id]]
        if what == "arrive":
            arrive(amount, factor)
        elif what == "wait":
            await asyncio.sleep(amount)
        elif what == "jump":
            asyncio.get_running_loop()._virtual.now_s += amount  # type: ignore[attr-defined]
        elif what == "cancel" and undecided:
            slot_id = undecided[int(amount * len(undecided))]
            dispatcher.drop(owned.pop(slot_id).key)
            gone.add(slot_id)
        elif what == "order" and undecided:
            ordered = undecided[int(amount * len(undecided))]
            dispatcher.cancel(
                lambda one, ordered=ordered: "cancelled" if one.tick.slot_id == ordered else None
            )
            assert decided[ordered] == 1
        elif what == "pause":
            dispatcher.pause()
        elif what == "resume":
            dispatcher.resume()
        elif what == "rebalance":
            for slot_id in undecided:
                dispatcher.drop(owned.pop(slot_id).key)
                gone.add(slot_id)
            for _ in undecided:
                arrive(60.0 * amount, 1.0)
        assert not serving.done(), serving.result()

    dispatcher.resume()
    async with asyncio.timeout(LONGEST_S + FULL_S * len(owned) * 4):
        while not dispatcher.idle:
            await asyncio.sleep(1.0)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    assert {slot_id: decided[slot_id] for slot_id in owned} == dict.fromkeys(owned, 1)
    assert max(Counter(engine.finished).values(), default=1) == 1
    assert engine.speaking is None


@given(st.lists(EVENTS, max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_slot_disappears_runs_twice_or_starts_when_infeasible(
    events: list[tuple[str, float, float]],
) -> None:
    run_in_virtual_time(_play(events))
