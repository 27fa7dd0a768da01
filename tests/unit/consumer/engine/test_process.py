"""The engine process: whatever it does, its slot is answered in time and it can be replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from consumer.config import WorkerConfig
from consumer.dispatcher import Dispatcher
from consumer.engine.base import (
    EngineLostError,
    EngineResult,
    EngineStartError,
    SlotMade,
    SlotNotMade,
    SlotRequest,
)
from consumer.engine.child import ReportingEstimates
from consumer.engine.messages import Line
from consumer.engine.process import ProcessEngine, without_secrets_of_kafka
from consumer.job import TickKey
from schemas import AudioTrack, MissReason, Recipe, Stage, VisualTrack
from tests.support.jobs import job
from tests.support.scripted_child import COMMAND, teach
from vortex.config import PriorConfig, PriorsConfig
from vortex.orchestration import StageEstimates
from vortex.rung import FULL

pytestmark = pytest.mark.timeout(120)

LIMIT_S = 1.0
GRACE_S = 0.5


def config(limit_s: float = LIMIT_S, **engine: object) -> WorkerConfig:
    """Return a configuration under which the video and the speech may take so long."""
    loaded = WorkerConfig.load()
    limits_s = {"video_s": limit_s, "audio_s": limit_s}
    timeouts = loaded.orchestration.timeouts.model_copy(update=limits_s)
    return loaded.model_copy(
        update={
            "engine": loaded.engine.model_copy(update=engine),
            "pipeline": loaded.pipeline.model_copy(update={"cancel_grace_s": GRACE_S}),
            "orchestration": loaded.orchestration.model_copy(update={"timeouts": timeouts}),
        }
    )


def named(config: WorkerConfig, service_name: str) -> WorkerConfig:
    telemetry = config.telemetry.model_copy(update={"service_name": service_name})
    return config.model_copy(update={"telemetry": telemetry})


def request(script: str, deadline_in_s: float = 60.0) -> SlotRequest:
    return SlotRequest(
        key=TickKey("slot.ticks", 0, 5),
        slot_id=5,
        channel="main",
        recipe=Recipe(
            audio_track=AudioTrack(script=script), visual_track=VisualTrack(prompt="a newsreader")
        ),
        seed=7,
        deadline_s=time.monotonic() + deadline_in_s,
    )


@asynccontextmanager
async def started(config: WorkerConfig) -> AsyncIterator[ProcessEngine]:
    engine = ProcessEngine(config, COMMAND)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def replaced(engine: ProcessEngine) -> None:
    """Show that another process takes over."""
    await engine.stop()
    await engine.start()
    assert isinstance(await engine.run(request("make")), SlotMade)


def pid_of(engine: ProcessEngine) -> int:
    assert engine._child is not None
    return engine._child.pid


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        await asyncio.sleep(0.02)


async def test_slot_is_made_in_the_process_and_its_stages_and_times_are_told() -> None:
    stages: list[tuple[Stage, bool]] = []

    def note(stage: Stage, *, ended: bool = False) -> None:
        stages.append((stage, ended))

    async with started(config()) as engine:
        asked = request("make")
        assert engine.predict_s(asked.recipe) is None
        made = await engine.run(asked, note)
        assert isinstance(made, SlotMade)
        assert made.seed == 7
        assert stages == [(Stage.VIDEO, False), (Stage.VIDEO, True)]
        assert engine._estimates.predict("video", units=2.0) == 0.25
        await engine.settle()
        assert engine.ready
        assert pid_of(engine) != os.getpid()


PRIOR = PriorConfig(fixed_s=1.0, per_unit_s=0.5)
PRIORS = PriorsConfig(audio=PRIOR, image=PRIOR, video=PRIOR, clip=PRIOR)


def believing(config: WorkerConfig) -> WorkerConfig:
    orchestration = config.orchestration.model_copy(update={"priors": PRIORS})
    return config.model_copy(update={"orchestration": orchestration})


async def test_slot_is_predicted_from_configured_priors_before_anything_was_measured() -> None:
    recipe = request("make").recipe
    engine = ProcessEngine(believing(config()))
    buffer_s = config().orchestration.deadline_buffer_s
    # The speech and the portrait take 1.5 s, the video is cut off at its limit.
    assert engine.predict_s(recipe) == 1.5 + LIMIT_S + 1.5 + buffer_s
    assert engine.predict_rest_s(recipe, FULL, Stage.CLIP) == 1.5 + buffer_s


async def test_estimates_of_the_process_know_the_configured_priors() -> None:
    one_end, other_end = socket.socketpair()
    line = await Line.over(one_end)
    try:
        estimates = ReportingEstimates(believing(config()).orchestration, line)
        assert estimates.predict("clip") == 1.5
    finally:
        line.close()
        other_end.close()


async def test_worker_learns_all_that_the_process_learns() -> None:
    estimates = StageEstimates(config().orchestration.timeouts.by_stage())
    teach(estimates)
    estimates.observe("video", 0.25, 2.0)  # of the slot
    async with started(config()) as engine:
        await engine.run(request("teach"))
        assert engine._estimates.to_json() == estimates.to_json()
        assert engine.spread == estimates.spread > 0


@pytest.mark.parametrize("script", ["hang", "hang-silently"])
async def test_hung_stage_is_answered_within_a_second_of_its_limit_and_its_process_replaced(
    script: str,
) -> None:
    async with started(config()) as engine:
        pid = pid_of(engine)
        began_s = time.monotonic()
        missed = await engine.run(request(script))
        assert time.monotonic() - began_s < LIMIT_S + 1.0
        assert isinstance(missed, SlotNotMade)
        assert (missed.reason, missed.stage) == (MissReason.TIMEOUT, Stage.VIDEO)
        with pytest.raises(EngineLostError, match=r"stage video did not stop within 0\.5 s"):
            await engine.settle()
        assert not lives(pid)
        await replaced(engine)


async def test_stage_that_stops_late_but_stops_keeps_its_process() -> None:
    async with started(config()) as engine:
        pid = pid_of(engine)
        missed = await engine.run(request("stop"))
        assert isinstance(missed, SlotNotMade)
        assert missed.reason is MissReason.TIMEOUT
        await engine.settle()
        assert isinstance(await engine.run(request("make")), SlotMade)
        assert pid_of(engine) == pid


async def test_slot_is_answered_at_its_deadline_whatever_its_stages_may_take() -> None:
    async with started(config(60.0)) as engine:
        began_s = time.monotonic()
        missed = await engine.run(request("hang", deadline_in_s=0.5))
        assert time.monotonic() - began_s < 1.5
        assert isinstance(missed, SlotNotMade)
        assert missed.reason is MissReason.TIMEOUT


async def test_work_without_a_sign_of_life_is_answered_as_a_timeout() -> None:
    async with started(config(60.0, heartbeat_timeout_s=0.5)) as engine:
        missed = await engine.run(request("mute"))
        assert isinstance(missed, SlotNotMade)
        assert "no sign of work for 0.5 s (engine.heartbeat_timeout_s)" in missed.detail


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("segfault", r"ended \(SIGSEGV\)"),
        ("exit", r"ended \(exit code 7\)"),
        ("sticky", "device-side assert"),
    ],
)
async def test_process_that_dies_is_lost_and_replaced(script: str, how: str) -> None:
    async with started(config()) as engine:
        with pytest.raises(EngineLostError, match=how):
            await engine.run(request(script))
        assert not engine.ready  # whoever hosts it must start another
        await replaced(engine)


async def test_process_that_takes_too_much_memory_is_killed_and_replaced() -> None:
    async with started(config(60.0, memory_limit_gb=0.6)) as engine:
        pid = pid_of(engine)
        with pytest.raises(EngineLostError, match=r"above its limit of 0\.6 GB"):
            await engine.run(request("eat"))
        await until(lambda: not lives(pid))
        await replaced(engine)


async def test_cancelled_slot_is_stopped_and_the_process_makes_the_next() -> None:
    async with started(config()) as engine:
        running = asyncio.create_task(engine.run(request("stop")))
        await until(lambda: any(work.attempts for work in engine._works.values()))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert isinstance(await engine.run(request("make")), SlotMade)


async def test_of_two_slots_each_gets_its_own_result_and_one_can_be_stopped() -> None:
    async with started(config()) as engine:
        stopped = asyncio.create_task(engine.run(request("stop")))
        await until(lambda: any(work.attempts for work in engine._works.values()))
        assert isinstance(await engine.run(request("make")), SlotMade)
        other = asyncio.create_task(engine.run(request("stop")))
        await until(lambda: len([w for w in engine._works.values() if w.attempts]) == 2)
        stopped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopped
        assert not other.done()
        assert engine.ready
        other.cancel()
        await asyncio.wait({other})


async def test_slot_is_spoken_ahead_while_another_is_made_and_the_worker_learns_from_it() -> None:
    async with started(config(60.0)) as engine:
        stages: list[Stage] = []
        making = asyncio.create_task(
            engine.run(request("stop"), lambda stage, ended=False: stages.append(stage))
        )
        await until(lambda: any(work.attempts for work in engine._works.values()))
        await engine.speak_ahead(request("make"))
        assert engine._estimates.predict("audio", units=2.0) == 0.25
        assert stages == [Stage.VIDEO]  # those ahead are not this slot's
        assert not making.done()
        making.cancel()
        await asyncio.wait({making})
        assert engine.ready
        assert engine._works == {}


async def test_speech_ahead_that_is_cancelled_stops_and_leaves_the_slot_in_the_making_alone() -> (
    None
):
    async with started(config(60.0)) as engine:
        making = asyncio.create_task(engine.run(request("stop")))
        speaking = asyncio.create_task(engine.speak_ahead(request("stop")))
        await until(lambda: len([w for w in engine._works.values() if w.attempts]) == 2)
        speaking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await speaking
        assert not making.done()
        assert engine.ready
        assert len(engine._works) == 1
        making.cancel()
        await asyncio.wait({making})


async def test_speech_ahead_that_hangs_costs_the_process_after_its_limit() -> None:
    async with started(config()) as engine:
        pid = pid_of(engine)
        began_s = time.monotonic()
        with pytest.raises(EngineLostError, match=r"stage audio did not stop within 0\.5 s"):
            await engine.speak_ahead(request("hang"))
        assert time.monotonic() - began_s < LIMIT_S + GRACE_S + 1.5
        assert not lives(pid)
        await replaced(engine)


async def test_process_that_dies_of_speech_ahead_is_lost_to_the_slot_in_the_making_too() -> None:
    async with started(config(60.0)) as engine:
        making = asyncio.create_task(engine.run(request("stop")))
        await until(lambda: any(work.attempts for work in engine._works.values()))
        with pytest.raises(EngineLostError, match=r"ended \(SIGSEGV\)"):
            await engine.speak_ahead(request("segfault"))
        with pytest.raises(EngineLostError, match=r"ended \(SIGSEGV\)"):
            await making
        await replaced(engine)


async def test_slot_cancelled_before_its_work_began_does_not_cost_the_process() -> None:
    async with started(config()) as engine:
        running = asyncio.create_task(engine.run(request("stop")))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert engine.ready
        assert isinstance(await engine.run(request("make")), SlotMade)


async def test_process_that_dies_while_idle_is_not_ready() -> None:
    async with started(config()) as engine:
        os.kill(pid_of(engine), signal.SIGKILL)
        await until(lambda: not engine.ready)
        with pytest.raises(EngineLostError, match="not started"):
            await engine.run(request("make"))


async def test_process_that_is_unloaded_ends_and_the_next_tick_starts_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("consumer.dispatcher.LOOK_INTERVAL_S", 0.05)
    engine = ProcessEngine(config(), COMMAND)
    made: list[EngineResult] = []
    dispatcher = Dispatcher(
        engine, lambda _job, result, _began_s: made.append(result), idle_unload_s=0.2
    )
    serving = asyncio.create_task(dispatcher.run())
    try:
        await until(lambda: engine.ready)
        first = pid_of(engine)
        await until(lambda: not lives(first))
        assert dispatcher.engine_ready
        assert engine.memory_bytes == 0
        plain = job(1)
        track = plain.recipe.audio_track.model_copy(update={"script": "make"})
        recipe = plain.recipe.model_copy(update={"audio_track": track})
        dispatcher.submit(job(1, recipe=recipe))
        await until(lambda: bool(made))
        assert isinstance(made[0], SlotMade)
    finally:
        serving.cancel()
        await asyncio.wait({serving})


async def test_start_that_cannot_succeed_says_so_in_one_line() -> None:
    with pytest.raises(EngineStartError, match=r"^the models are missing$"):
        async with started(named(config(), "fails")):
            pass


@pytest.mark.parametrize(
    ("name", "timeout_s", "how"),
    [("hangs", 2.0, r"did not start within 2 s"), ("dies", 60.0, r"exit code 9")],
)
async def test_start_that_hangs_or_dies_is_a_lost_engine(
    name: str, timeout_s: float, how: str
) -> None:
    with pytest.raises(EngineLostError, match=how):
        async with started(named(config(start_timeout_s=timeout_s), name)):
            pass


async def test_all_that_the_process_started_ends_with_it(capfd: pytest.CaptureFixture[str]) -> None:
    async with started(config()) as engine:
        await engine.run(request("spawn"))
        grandchild = int(capfd.readouterr().err.split()[-1])
        assert lives(grandchild)
        with pytest.raises(EngineLostError):
            await engine.settle()
        await until(lambda: not lives(grandchild))


PARENT = """
import asyncio, sys
from tests.unit.consumer.engine.test_process import config, pid_of, request, started

async def hold():
    async with started(config()) as engine:
        print(pid_of(engine), flush=True)
        await engine.run(request(sys.argv[1], deadline_in_s=3600.0))

asyncio.run(hold())
"""


@pytest.mark.parametrize("script", ["stop", "hang-silently"])
def test_process_dies_with_a_killed_parent(script: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, script], stdout=subprocess.PIPE, cwd=Path.cwd()
    ) as parent:
        assert parent.stdout is not None
        engine_pid = int(parent.stdout.readline())
        try:
            assert lives(engine_pid)
        finally:
            parent.kill()
            parent.wait(10)
    asyncio.run(until(lambda: not lives(engine_pid)))


def test_secrets_of_kafka_stay_with_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VORTEX__KAFKA__SECURITY__PASSWORD", "hunter2")
    monkeypatch.setenv("VORTEX__ARTIFACTS__STORAGE_OPTIONS", '{"secret": "needed"}')
    given = without_secrets_of_kafka(WorkerConfig.load())
    assert "hunter2" not in str(given)
    assert WorkerConfig.model_validate(given).artifacts.storage_options == {"secret": "needed"}
