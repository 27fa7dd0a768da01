from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.pipelines import CONFIG, RECIPE, PlainPipeline, PlainStage, TorchPipeline, config
from vortex.errors import InvalidRecipeError, StageHungError
from vortex.models.kokoro import Speech
from vortex.orchestration import (
    DeadlineMissError,
    GenerationBreakdown,
    SlotMetadata,
    SlotResult,
    SlotScheduler,
    StageEstimates,
)
from vortex.orchestration.estimates import STAGES, work_units
from vortex.orchestration.scheduler import _SlotRun
from vortex.rung import FULL, LADDER, Rung
from vortex.slot import SlotContext, SlotListener, SpokenAhead, as_recipe, slot_seed

LONG_S = 60.0  # a stage that must be stopped: the test would run into its own limit

Waits = list[float]


def measured(**seconds: float) -> StageEstimates:
    """Return estimates that predict these seconds for one unit of work."""
    estimates = StageEstimates()
    for stage, cost in seconds.items():
        estimates.observe(stage, cost)
    return estimates


def context() -> SlotContext:
    return SlotContext(recipe=as_recipe(RECIPE), slot_id=1, seed=1)


class Clock:
    """Monotonic seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class PlainPipelineWithLatePortrait(PlainPipeline):
    """Its portrait takes some seconds of the clock; all else takes none, the speech comes first."""

    def __init__(self, clock: Clock, late_s: float) -> None:
        super().__init__(image=PlainStage(delay_s=0.01))
        self.clock = clock
        self.late_s = late_s

    async def _generate_actor(self, recipe: Mapping[str, Any]) -> torch.Tensor:
        portrait = await super()._generate_actor(recipe)
        self.clock.now_s += self.late_s
        return portrait


@pytest.fixture
def backoffs(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """Make backoffs take no time, and return their lengths in seconds."""
    waits: Waits = []
    sleep = asyncio.sleep

    async def record(delay: float) -> None:
        waits.append(delay)
        await sleep(0)

    monkeypatch.setattr("vortex.orchestration.scheduler.asyncio.sleep", record)
    return waits


@pytest.fixture
def short_backoffs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make backoffs take next to no time; stages take theirs."""
    monkeypatch.setattr("vortex.orchestration.scheduler.BACKOFF_S", 0.001)


def failing(*errors: BaseException) -> tuple[Callable[[], Awaitable[str]], list[int]]:
    """Return a maker of coroutines that raise these errors in turn and then succeed."""
    left = list(errors)
    attempts: list[int] = []

    async def attempt() -> str:
        attempts.append(len(attempts))
        if left:
            raise left.pop(0)
        return "made"

    return attempt, attempts


# What is returned


def test_slot_result_dataclass() -> None:
    video = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    audio = torch.zeros(48_000)
    embedding = torch.ones(512) / 512**0.5
    metadata = SlotMetadata(slot_id=1, start_time=100.0, end_time=110.0, deadline=145.0)
    breakdown = GenerationBreakdown(
        audio_ms=2000.0, image_ms=3000.0, video_ms=6000.0, clip_ms=500.0, total_ms=9500.0
    )
    result = SlotResult(
        video_frames=video,
        audio_waveform=audio,
        clip_embedding=embedding,
        metadata=metadata,
        breakdown=breakdown,
        deadline_met=True,
    )
    assert result.video_frames is video
    assert result.audio_waveform is audio
    assert result.clip_embedding is embedding
    assert (result.metadata, result.breakdown) == (metadata, breakdown)
    assert result.deadline_met is True
    assert result.verification is None


def test_generation_breakdown_dataclass() -> None:
    breakdown = GenerationBreakdown(
        audio_ms=2000.0, image_ms=3000.0, video_ms=6000.0, clip_ms=500.0, total_ms=9500.0
    )
    assert dataclasses.asdict(breakdown) == {
        "audio_ms": 2000.0,
        "image_ms": 3000.0,
        "video_ms": 6000.0,
        "clip_ms": 500.0,
        "total_ms": 9500.0,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        breakdown.audio_ms = 1.0  # type: ignore[misc]  # the claim of this line


def test_slot_metadata_dataclass() -> None:
    metadata = SlotMetadata(slot_id=12345, start_time=100.0, end_time=110.0, deadline=145.0)
    assert dataclasses.asdict(metadata) == {
        "slot_id": 12345,
        "start_time": 100.0,
        "end_time": 110.0,
        "deadline": 145.0,
    }


def test_fields_beyond_the_contract_have_defaults() -> None:
    required = [
        each.name
        for each in dataclasses.fields(SlotResult)
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    ]
    assert required == [
        "video_frames",
        "audio_waveform",
        "clip_embedding",
        "metadata",
        "breakdown",
        "deadline_met",
    ]


# Setting up


def test_scheduler_init() -> None:
    pipeline = PlainPipeline()
    scheduler = SlotScheduler(pipeline, CONFIG)
    assert scheduler.pipeline is pipeline
    assert scheduler.timeouts == CONFIG["timeouts"]
    assert scheduler.retry_policy == CONFIG["retry_policy"]
    assert scheduler.deadline_buffer_s == CONFIG["deadline_buffer_s"]


@pytest.mark.parametrize("key", ["timeouts", "retry_policy", "deadline_buffer_s"])
def test_missing_key_is_named(key: str) -> None:
    incomplete = {name: value for name, value in CONFIG.items() if name != key}
    with pytest.raises(ValueError, match=rf"^Config missing required keys: \['{key}'\]$"):
        SlotScheduler(PlainPipeline(), incomplete)


def test_missing_limit_of_a_stage_is_named_before_the_first_slot() -> None:
    incomplete = {**CONFIG, "timeouts": {"audio_s": 15.0, "image_s": 12.0, "clip_s": 5.0}}
    with pytest.raises(ValueError, match=r"missing required keys: \['timeouts\.video_s'\]"):
        SlotScheduler(PlainPipeline(), incomplete)


def test_further_keys_are_allowed() -> None:
    SlotScheduler(PlainPipeline(), {**CONFIG, "ladder": []})


# Speech ahead


class SpeakingPipeline(PlainPipeline):
    """Leaves the speech in the slot's context, as the real one does."""

    takes_slot_context = True

    async def _generate_audio(self, recipe: Any, slot: SlotContext) -> torch.Tensor:  # type: ignore[override]
        waveform = await super()._generate_audio(recipe)
        slot.speech = Speech(waveform.numpy(), (), "a voice", truncated=False)
        return waveform

    async def _generate_actor(self, recipe: Any, slot: SlotContext) -> torch.Tensor:  # type: ignore[override]
        return await super()._generate_actor(recipe)

    async def _generate_video(  # type: ignore[override]
        self, image: torch.Tensor, audio: torch.Tensor, slot: SlotContext
    ) -> torch.Tensor:
        return await super()._generate_video(image, audio)

    async def _verify_semantic(self, video: torch.Tensor, recipe: Any, slot: SlotContext) -> Any:  # type: ignore[override]
        return await super()._verify_semantic(video, recipe)


def far_s() -> float:
    return time.monotonic() + LONG_S


async def test_speech_that_was_made_ahead_is_the_slots_and_is_learned_from_once() -> None:
    pipeline = SpeakingPipeline(audio=PlainStage(delay_s=0.05))
    scheduler = SlotScheduler(pipeline, CONFIG)
    slot = context()
    slot.ahead = asyncio.create_task(scheduler.speak_ahead(context()))
    spoken = await slot.ahead
    learned = scheduler.estimates.to_json()["audio"]
    for _ in range(2):  # another seed has the same speech
        result = await scheduler.execute(RECIPE, 1, far_s(), slot=slot)
        assert result.audio_waveform is spoken.waveform
        assert slot.speech is spoken.speech is not None
        assert result.breakdown.audio_ms == spoken.took_ms >= 50
    assert pipeline.audio.started == 1
    assert pipeline.video.finished == 2
    assert scheduler.estimates.to_json()["audio"] == learned


async def test_speech_that_is_being_made_is_awaited_and_not_begun_again() -> None:
    pipeline = SpeakingPipeline(audio=PlainStage(delay_s=0.1))
    scheduler = SlotScheduler(pipeline, CONFIG)
    slot = context()
    slot.ahead = asyncio.create_task(scheduler.speak_ahead(context()))
    await asyncio.sleep(0)
    result = await scheduler.execute(RECIPE, 1, far_s(), slot=slot)
    assert (pipeline.audio.started, pipeline.audio.finished) == (1, 1)
    assert result.breakdown.audio_ms >= 100


async def test_slot_whose_speech_failed_ahead_speaks_with_its_retries(backoffs: Waits) -> None:
    errors: list[Exception] = [RuntimeError("ahead"), RuntimeError("its own")]
    pipeline = SpeakingPipeline(audio=PlainStage(errors=errors))
    scheduler = SlotScheduler(pipeline, config(retry_policy={"audio": 1}))
    slot = context()
    slot.ahead = asyncio.create_task(scheduler.speak_ahead(context()))
    await scheduler.execute(RECIPE, 1, far_s(), slot=slot)
    assert (pipeline.audio.started, pipeline.audio.finished) == (3, 1)
    assert slot.speech is not None


async def made_while_spoken_ahead(
    pipeline: SpeakingPipeline,
) -> tuple[asyncio.Task[SlotResult], asyncio.Task[SpokenAhead]]:
    """Begin a slot that waits for its speech ahead, which has begun."""
    scheduler = SlotScheduler(pipeline, CONFIG)
    slot = context()
    slot.ahead = asyncio.create_task(scheduler.speak_ahead(context()))
    making = asyncio.create_task(scheduler.execute(RECIPE, 1, far_s(), slot=slot))
    while not pipeline.audio.started:
        await asyncio.sleep(0)
    return making, slot.ahead


async def test_slot_whose_speech_was_stopped_ahead_speaks_by_itself() -> None:
    pipeline = SpeakingPipeline(audio=PlainStage(delay_s=0.1))
    making, ahead = await made_while_spoken_ahead(pipeline)
    ahead.cancel()
    assert (await making).deadline_met
    assert (pipeline.audio.cancelled, pipeline.audio.finished) == (1, 1)


async def test_slot_that_is_cancelled_stops_its_speech_ahead() -> None:
    pipeline = SpeakingPipeline(audio=PlainStage(delay_s=LONG_S))
    making, _ = await made_while_spoken_ahead(pipeline)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert (pipeline.audio.started, pipeline.audio.cancelled) == (1, 1)


async def test_speech_that_hangs_ahead_is_not_tried_again() -> None:
    hung = StageHungError("a cancelled stage was still running")
    pipeline = SpeakingPipeline(audio=PlainStage(errors=[hung]))
    scheduler = SlotScheduler(pipeline, config(retry_policy={"audio": 1}))
    slot = context()
    slot.ahead = asyncio.create_task(scheduler.speak_ahead(context()))
    with pytest.raises(StageHungError):
        await scheduler.execute(RECIPE, 1, far_s(), slot=slot)
    assert pipeline.audio.started == 1


async def test_speech_ahead_has_the_stages_limit() -> None:
    pipeline = SpeakingPipeline(audio=PlainStage(delay_s=LONG_S))
    scheduler = SlotScheduler(pipeline, config(timeouts={"audio_s": 0.05}))
    with pytest.raises(TimeoutError, match="the audio did not end within its limit"):
        await scheduler.speak_ahead(context())
    assert pipeline.audio.cancelled == 1


# Deadlines


def test_deadline_check_sufficient_time() -> None:
    scheduler = SlotScheduler(PlainPipeline(), config(deadline_buffer_s=5.0))
    assert scheduler._check_deadline(current_time=100.0, deadline=145.0, remaining_work_s=30.0)
    assert scheduler._check_deadline(current_time=100.0, deadline=145.0, remaining_work_s=40.0)


def test_deadline_check_insufficient_time() -> None:
    scheduler = SlotScheduler(PlainPipeline(), config(deadline_buffer_s=5.0))
    assert not scheduler._check_deadline(current_time=100.0, deadline=145.0, remaining_work_s=40.1)
    assert not scheduler._check_deadline(current_time=100.0, deadline=104.0, remaining_work_s=0.0)


async def test_deadline_defaults_to_45_seconds_from_the_start() -> None:
    result = await SlotScheduler(PlainPipeline(), CONFIG).execute(RECIPE, slot_id=1)
    assert result.metadata.deadline == result.metadata.start_time + 45.0


async def test_unmeasured_stages_may_be_tried_whatever_their_timeouts() -> None:
    timeouts = {f"{stage}_s": 300.0 for stage in STAGES}
    scheduler = SlotScheduler(PlainPipeline(), config(timeouts=timeouts))
    result = await scheduler.execute(RECIPE, slot_id=1, deadline=time.monotonic() + 10.0)
    assert result.deadline_met


def on_rungs(rungs: tuple[Rung, ...]) -> SlotContext:
    return SlotContext(recipe=as_recipe(RECIPE), slot_id=1, seed=1, rungs=rungs)


def stages_of(video_s: float) -> StageEstimates:
    """Return estimates of a slot that is nearly all video, which takes so long on the full rung."""
    units = work_units(as_recipe(RECIPE))["video"]
    return measured(audio=0.001, image=0.001, video=video_s / units, clip=0.001)


@pytest.mark.parametrize(
    ("left_s", "rung"), [(9.5, FULL), (7.0, LADDER[1]), (5.5, LADDER[2]), (3.0, None)]
)
async def test_slot_begins_on_the_best_rung_that_fits(left_s: float, rung: Rung | None) -> None:
    """Its video takes 8 s, 5.7 s or 4.9 s; 1 s is kept back."""
    clock, pipeline = Clock(), PlainPipeline()
    scheduler = SlotScheduler(pipeline, CONFIG, estimates=stages_of(8.0), clock=clock)
    slot = on_rungs(LADDER)
    making = scheduler.execute(RECIPE, 1, clock.now_s + left_s, slot=slot)
    if rung is None:
        with pytest.raises(DeadlineMissError, match="Deadline miss predicted"):
            await making
        assert pipeline.audio.started == 0
        return
    await making
    assert slot.rung is rung
    assert ("before the audio and image, rung full needed" in slot.rung_why) is (rung is not FULL)


async def test_slot_whose_portrait_was_late_steps_down_before_its_video() -> None:
    clock = Clock()
    pipeline = PlainPipelineWithLatePortrait(clock, late_s=2.5)
    scheduler = SlotScheduler(pipeline, CONFIG, estimates=stages_of(8.0), clock=clock)
    slot = on_rungs(LADDER[:2])
    await scheduler.execute(RECIPE, 1, clock.now_s + 9.5, slot=slot)
    assert slot.rung is LADDER[1]
    assert slot.rung_why.startswith("before the video, rung full needed")


async def test_slot_whose_lower_rungs_are_forbidden_is_a_miss_instead() -> None:
    clock = Clock()
    scheduler = SlotScheduler(PlainPipeline(), CONFIG, estimates=stages_of(8.0), clock=clock)
    with pytest.raises(DeadlineMissError, match="Deadline miss predicted"):
        await scheduler.execute(RECIPE, 1, clock.now_s + 7.0, slot=on_rungs((FULL,)))


async def test_slot_without_a_deadline_is_never_a_predicted_miss() -> None:
    estimates = measured(**dict.fromkeys(STAGES, 1e6))
    scheduler = SlotScheduler(PlainPipeline(), CONFIG, estimates=estimates)
    result = await scheduler.execute(RECIPE, slot_id=1, deadline=math.inf)
    assert result.deadline_met


async def test_slot_that_measured_stages_cannot_finish_is_not_started() -> None:
    estimates = measured(audio=1.0, image=8.0, video=0.5, clip=2.0)  # 8 + 8 frames * 0.5 + 2 = 14
    pipeline = PlainPipeline()
    scheduler = SlotScheduler(pipeline, CONFIG, estimates=estimates)
    with pytest.raises(DeadlineMissError, match=r"14\.000 s of work are ahead"):
        await scheduler.execute(RECIPE, slot_id=1, deadline=time.monotonic() + 14.5)
    assert pipeline.audio.started == pipeline.image.started == 0
    await scheduler.execute(RECIPE, slot_id=1, deadline=time.monotonic() + 35.0)


async def test_video_that_cannot_finish_is_not_started() -> None:
    clock = Clock()
    pipeline = PlainPipelineWithLatePortrait(clock, late_s=20.0)
    estimates = measured(audio=0.1, image=0.1, video=5.0, clip=0.1)  # 8 frames take 40 s
    scheduler = SlotScheduler(pipeline, CONFIG, estimates=estimates, clock=clock)
    slot = context()
    with pytest.raises(DeadlineMissError, match=r"^Deadline miss predicted in phase 'video'"):
        await scheduler.execute(RECIPE, 1, deadline=clock() + 45.0, slot=slot)
    assert pipeline.video.started == 0
    assert set(slot.breakdown) == {"audio_ms", "image_ms"}


async def test_slot_that_the_limits_rule_out_is_refused_before_any_work() -> None:
    pipeline = PlainPipeline()
    scheduler = SlotScheduler(pipeline, CONFIG)
    scheduler.estimates.observe("video", 5.0)  # 8 frames take 40 s, of 15 s
    slot = context()
    with pytest.raises(
        DeadlineMissError,
        match=r"^Deadline miss predicted before any work: the video would take about 40 s, over its"
        r" limit of 15 s \(orchestration\.timeouts\.video_s\)$",
    ):
        await scheduler.execute(RECIPE, 1, slot=slot)
    assert pipeline.audio.started == pipeline.image.started == 0
    assert (slot.stage, slot.breakdown) == (None, {})


async def test_slow_short_slot_does_not_rule_out_every_longer_one() -> None:
    scheduler = SlotScheduler(PlainPipeline(), CONFIG)
    for stage in STAGES:
        scheduler.estimates.observe(stage, 4.0)  # a frame would take 4 s, so 1,080 of them an hour
    long_recipe = {**RECIPE, "slot_params": {"duration_sec": 45.0, "fps": 24}}
    for _ in range(40):
        with contextlib.suppress(DeadlineMissError):
            await scheduler.execute(long_recipe, slot_id=1)
            break
    result = await scheduler.execute(long_recipe, slot_id=2)
    assert result.deadline_met


@given(
    costs=st.dictionaries(st.sampled_from(STAGES), st.floats(0.0, 60.0)),
    now=st.floats(0.0, 1e6),
    deadline_in_s=st.floats(-10.0, 120.0),
    longer_s=st.floats(0.0, 60.0),
    phase=st.sampled_from(
        [(("audio", "image"), ("video", "clip")), (("video",), ("clip",)), (("clip",), ())]
    ),
)
def test_a_later_deadline_never_makes_a_slot_a_predicted_miss(
    costs: dict[str, float],
    now: float,
    deadline_in_s: float,
    longer_s: float,
    phase: tuple[tuple[str, ...], tuple[str, ...]],
) -> None:
    scheduler = SlotScheduler(
        PlainPipeline(), CONFIG, estimates=measured(**costs), clock=lambda: now
    )

    async def may_start(deadline: float) -> bool:
        stages, then = phase
        try:
            async with _SlotRun(scheduler, RECIPE, context(), deadline).phase(*stages, then=then):
                return True
        except DeadlineMissError:
            return False

    earlier = now + deadline_in_s
    assert asyncio.run(may_start(earlier)) <= asyncio.run(may_start(earlier + longer_s))


# Timeouts


async def test_timeout_enforcement_audio() -> None:
    pipeline = PlainPipeline(audio=PlainStage(delay_s=LONG_S))
    scheduler = SlotScheduler(pipeline, config(timeouts={"audio_s": 0.05}))
    started = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        await scheduler._generate_audio_with_timeout(RECIPE)
    assert 0.05 <= time.monotonic() - started < LONG_S / 2
    assert pipeline.audio.cancelled == 1


async def test_siblings_of_the_audio_timeout_have_limits_of_their_own() -> None:
    slow = {stage: PlainStage(delay_s=LONG_S) for stage in STAGES}
    limits = {f"{stage}_s": 0.02 for stage in STAGES}
    scheduler = SlotScheduler(PlainPipeline(**slow), config(timeouts=limits))
    image, audio = torch.zeros(1, 3, 32, 32), torch.zeros(24_000)
    for attempt in (
        scheduler._generate_image_with_timeout(RECIPE),
        scheduler._generate_video_with_timeout(image, audio),
        scheduler._verify_with_clip(torch.zeros(1, 3, 32, 32), RECIPE),
    ):
        with pytest.raises(asyncio.TimeoutError):
            await attempt


async def test_stage_that_the_deadline_stops_teaches_that_it_takes_at_least_so_long() -> None:
    estimates = measured(audio=0.01, image=0.01, video=0.01, clip=0.01)
    pipeline = PlainPipeline(video=PlainStage(delay_s=30.0))
    scheduler = SlotScheduler(pipeline, config(deadline_buffer_s=0.0), estimates=estimates)
    units = work_units(as_recipe(RECIPE))["video"]
    before_s = estimates.predict("video", units)
    assert before_s is not None
    with pytest.raises(DeadlineMissError):
        await scheduler.execute(RECIPE, slot_id=1, deadline=time.monotonic() + 2 * before_s + 0.3)
    after_s = estimates.predict("video", units)
    assert after_s is not None
    assert after_s > 1.2 * before_s


async def test_rest_of_a_slot_is_predicted_from_its_finished_stages() -> None:
    # Whenever the speech took long, the video did too; so a slot whose speech takes long ends here.
    clock = Clock()
    pace = [1.0]

    class Pipeline(PlainPipeline):
        async def _generate_audio(self, *given: Any) -> torch.Tensor:
            clock.now_s += pace[0]
            return await super()._generate_audio(*given)

        async def _generate_actor(self, *given: Any) -> torch.Tensor:
            clock.now_s += pace[0]
            return await super()._generate_actor(*given)

        async def _generate_video(self, *given: Any) -> torch.Tensor:
            clock.now_s += 10.0 * pace[0]
            return await super()._generate_video(*given)

        async def _verify_semantic(self, *given: Any) -> Any:
            clock.now_s += pace[0]
            return await super()._verify_semantic(*given)

    scheduler = SlotScheduler(Pipeline(), config(deadline_buffer_s=0.0), clock=clock)
    for number in range(24):
        pace[0] = 1.15 if number % 2 else 0.87
        await scheduler.execute(RECIPE, number, deadline=math.inf)
    slot = scheduler.estimates.slot(as_recipe(RECIPE))
    plain_s = slot.predict("video")
    assert plain_s is not None
    pace[0] = 1.25
    with pytest.raises(DeadlineMissError, match="in phase 'video'"):
        await scheduler.execute(RECIPE, 24, deadline=clock() + 2.5 + 1.05 * plain_s + 1.0)


async def test_timeout_error_of_the_stage_itself_is_not_a_deadline_miss() -> None:
    error = TimeoutError("the phonemizer did not answer")
    scheduler = SlotScheduler(PlainPipeline(audio=PlainStage(errors=[error])), CONFIG)
    with pytest.raises(TimeoutError) as caught:
        await scheduler.execute(RECIPE, slot_id=1)
    assert caught.value is error


# Retries


async def test_retry_logic_success_on_retry(backoffs: Waits) -> None:
    make, attempts = failing(RuntimeError("first"), RuntimeError("second"))
    scheduler = SlotScheduler(PlainPipeline(), CONFIG)
    assert await scheduler._with_retry(make, 2) == "made"
    assert len(attempts) == 3
    assert backoffs == [0.5, 1.0]


async def test_retry_logic_exhausted(backoffs: Waits) -> None:
    last = RuntimeError("third")
    make, attempts = failing(RuntimeError("first"), RuntimeError("second"), last)
    scheduler = SlotScheduler(PlainPipeline(), CONFIG)
    with pytest.raises(RuntimeError) as caught:
        await scheduler._with_retry(make, 2)
    assert caught.value is last
    assert len(attempts) == 3
    assert backoffs == [0.5, 1.0]


@given(retries=st.integers(min_value=0, max_value=8))
def test_backoff_doubles_from_half_a_second(retries: int) -> None:
    waits: Waits = []
    make, attempts = failing(*[OSError("again")] * retries)

    async def record(delay: float) -> None:
        waits.append(delay)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vortex.orchestration.scheduler.asyncio.sleep", record)
        scheduler = SlotScheduler(PlainPipeline(), CONFIG)
        assert asyncio.run(scheduler._with_retry(make, retries)) == "made"
    assert waits == [0.5 * 2**attempt for attempt in range(retries)]
    assert len(attempts) == retries + 1


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        DeadlineMissError("Deadline miss predicted"),
        InvalidRecipeError("no such voice"),
        StageHungError("still running"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_another_attempt_cannot_mend_is_never_retried(
    error: BaseException, backoffs: Waits
) -> None:
    make, attempts = failing(error)
    with pytest.raises(type(error)) as caught:
        await SlotScheduler(PlainPipeline(), CONFIG)._with_retry(make, 5)
    assert caught.value is error
    assert len(attempts) == 1
    assert backoffs == []


async def test_deadline_ends_the_backoff_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vortex.orchestration.scheduler.BACKOFF_S", LONG_S)
    pipeline = PlainPipeline(audio=PlainStage(errors=[OSError("gone")]))
    scheduler = SlotScheduler(
        pipeline,
        config(retry_policy={"audio": 1}, deadline_buffer_s=0.0),
        estimates=measured(video=0.0, clip=0.0),
    )
    with pytest.raises(DeadlineMissError):
        await scheduler.execute(RECIPE, slot_id=1, deadline=time.monotonic() + 0.5)
    assert pipeline.audio.started == 1


@pytest.mark.usefixtures("short_backoffs")
async def test_stage_that_timed_out_is_not_tried_again_where_it_would_overrun_again() -> None:
    pipeline = PlainPipeline(video=PlainStage(delay_s=LONG_S))
    limits = {"video_s": 0.05}
    scheduler = SlotScheduler(pipeline, config(timeouts=limits, retry_policy={"video": 3}))
    scheduler.estimates.observe("video", 0.02, units=1.0)  # 0.16 s for 8 frames
    while scheduler.rule_out(as_recipe(RECIPE)) is not None:
        pass
    with pytest.raises(asyncio.TimeoutError):
        await scheduler.execute(RECIPE, slot_id=1)
    assert pipeline.video.started == 1


@pytest.mark.usefixtures("short_backoffs")
async def test_stage_that_timed_out_is_tried_again_where_it_usually_fits() -> None:
    pipeline = PlainPipeline(video=PlainStage(delay_s=LONG_S))
    limits = {"video_s": 0.05}
    scheduler = SlotScheduler(pipeline, config(timeouts=limits, retry_policy={"video": 2}))
    scheduler.estimates.observe("video", 0.001, units=1.0)
    with pytest.raises(asyncio.TimeoutError):
        await scheduler.execute(RECIPE, slot_id=1)
    assert pipeline.video.started == 3


@pytest.mark.usefixtures("short_backoffs")
async def test_stage_that_was_never_finished_teaches_when_it_is_stopped() -> None:
    pipeline = PlainPipeline(video=PlainStage(delay_s=LONG_S))
    limits = {"video_s": 0.05}
    scheduler = SlotScheduler(pipeline, config(timeouts=limits, retry_policy={"video": 1}))
    with pytest.raises(asyncio.TimeoutError):
        await scheduler.execute(RECIPE, slot_id=1)
    with pytest.raises(DeadlineMissError, match=r"the video would not end within its limit of 0"):
        await scheduler.execute(RECIPE, slot_id=2)
    assert pipeline.video.started == 2


async def test_timeout_error_of_the_stage_itself_teaches_nothing() -> None:
    error = TimeoutError("the phonemizer did not answer")
    scheduler = SlotScheduler(PlainPipeline(audio=PlainStage(errors=[error])), CONFIG)
    with pytest.raises(TimeoutError):
        await scheduler.execute(RECIPE, slot_id=1)
    assert scheduler.estimates.predict("audio") is None


# Side by side


async def test_parallel_execution_timing() -> None:
    pipeline = PlainPipeline(audio=PlainStage(delay_s=0.4), image=PlainStage(delay_s=0.4))
    result = await SlotScheduler(pipeline, CONFIG).execute(RECIPE, slot_id=1)
    breakdown = result.breakdown
    assert min(breakdown.audio_ms, breakdown.image_ms) >= 390
    in_turn_ms = breakdown.audio_ms + breakdown.image_ms + breakdown.video_ms + breakdown.clip_ms
    assert breakdown.total_ms < 0.8 * in_turn_ms


async def test_time_of_a_stage_is_its_own() -> None:
    clock = Clock()
    pipeline = PlainPipelineWithLatePortrait(clock, late_s=20.0)
    result = await SlotScheduler(pipeline, CONFIG, clock=clock).execute(RECIPE, slot_id=1)
    assert dataclasses.asdict(result.breakdown) == {
        "audio_ms": 0.0,
        "image_ms": 20_000.0,
        "video_ms": 0.0,
        "clip_ms": 0.0,
        "total_ms": 20_000.0,
    }


async def test_time_of_a_stage_includes_its_retries() -> None:
    pipeline = PlainPipeline(image=PlainStage(errors=[OSError("again")]))
    scheduler = SlotScheduler(pipeline, config(retry_policy={"image": 1}))
    result = await scheduler.execute(RECIPE, slot_id=1)
    assert result.breakdown.image_ms >= 490  # one backoff of 0.5 s
    predicted_s = scheduler.estimates.predict("image")
    assert predicted_s is not None
    assert predicted_s * 1000 <= result.breakdown.image_ms - 490  # learnt from the attempt alone


@pytest.mark.parametrize(("failed", "sibling"), [("audio", "image"), ("image", "audio")])
async def test_failing_stage_stops_its_sibling_and_waits_for_its_end(
    failed: str, sibling: str
) -> None:
    stages = {
        failed: PlainStage(delay_s=0.02, errors=[ValueError("broken")]),
        sibling: PlainStage(delay_s=LONG_S, cleanup_s=0.1),
    }
    slot = context()
    with pytest.raises(ValueError, match="broken"):
        await SlotScheduler(PlainPipeline(**stages), CONFIG).execute(RECIPE, 1, slot=slot)
    assert stages[sibling].cancelled == 1  # counted at the end of its cleanup
    assert slot.stage == failed
    assert set(slot.breakdown) == {"audio_ms", "image_ms"}


async def test_listener_is_told_when_each_stage_begins_and_ends_also_of_one_that_fails() -> None:
    class Listener(SlotListener):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def step_began(self, step: str) -> None:
            self.heard.append(f"{step} began")

        def step_ended(self, step: str) -> None:
            self.heard.append(f"{step} ended")

    slot = context()
    slot.listener = listener = Listener()
    pipeline = PlainPipeline(video=PlainStage(errors=[ValueError("broken")] * 9))
    with pytest.raises(ValueError, match="broken"):
        await SlotScheduler(pipeline, CONFIG).execute(RECIPE, 1, slot=slot)
    first = {"audio began", "audio ended", "image began", "image ended"}
    assert set(listener.heard[:4]) == first
    assert listener.heard[4:] == ["video began", "video ended"]


async def test_error_of_a_stage_passes_unchanged_with_its_cause() -> None:
    cause = OSError("disk gone")
    error = RuntimeError("no voice")
    error.__cause__ = cause
    pipeline = PlainPipeline(audio=PlainStage(errors=[error]))
    with pytest.raises(RuntimeError) as caught:
        await SlotScheduler(pipeline, CONFIG).execute(RECIPE, slot_id=1)
    assert caught.value is error
    assert caught.value.__cause__ is cause


async def test_hung_sibling_is_what_is_raised() -> None:
    class HangsWhenCancelled(PlainPipeline):
        async def _generate_actor(self, recipe: Mapping[str, Any]) -> torch.Tensor:
            try:
                return await super()._generate_actor(recipe)
            except asyncio.CancelledError:
                raise StageHungError("still running") from None

    pipeline = HangsWhenCancelled(
        audio=PlainStage(errors=[ValueError("broken")]), image=PlainStage(delay_s=LONG_S)
    )
    with pytest.raises(StageHungError):
        await SlotScheduler(pipeline, CONFIG).execute(RECIPE, slot_id=1)


async def test_failed_slot_leaves_its_task_uncancelled() -> None:
    pipeline = PlainPipeline(
        audio=PlainStage(errors=[ValueError("broken")]), image=PlainStage(delay_s=0.01)
    )
    with pytest.raises(ValueError, match="broken"):
        await SlotScheduler(pipeline, CONFIG).execute(RECIPE, slot_id=1)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_cancelling_a_slot_stops_its_stages() -> None:
    pipeline = PlainPipeline(
        audio=PlainStage(delay_s=LONG_S), image=PlainStage(delay_s=LONG_S, cleanup_s=0.05)
    )
    task = asyncio.create_task(SlotScheduler(pipeline, CONFIG).execute(RECIPE, slot_id=1))
    while not pipeline.image.started:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (pipeline.audio.cancelled, pipeline.image.cancelled) == (1, 1)


# What a pipeline gets


def test_plain_pipeline_has_the_four_methods_and_nothing_more() -> None:
    methods = {name for name, _ in inspect.getmembers(PlainPipeline, inspect.isfunction)}
    assert methods == {
        "__init__",
        "_generate_audio",
        "_generate_actor",
        "_generate_video",
        "_verify_semantic",
    }


async def test_plain_pipeline_never_gets_a_context() -> None:
    # One more argument would be a TypeError of its methods.
    slot = context()
    result = await SlotScheduler(PlainPipeline(), CONFIG).execute(RECIPE, 1, slot=slot)
    assert set(slot.breakdown) == {"audio_ms", "image_ms", "video_ms", "clip_ms"}
    assert result.breakdown.audio_ms == slot.breakdown["audio_ms"]


async def test_pipeline_that_takes_the_context_gets_the_callers_in_every_stage() -> None:
    pipeline = TorchPipeline()
    slot = context()
    await SlotScheduler(pipeline, CONFIG).execute(RECIPE, 1, slot=slot)
    pipeline.threads.close()
    for stage in (pipeline.audio, pipeline.image, pipeline.video, pipeline.clip):
        assert len(stage.contexts) == 1
        assert stage.contexts[0] is slot


async def test_pipeline_that_takes_the_context_gets_one_when_the_caller_has_none() -> None:
    pipeline = TorchPipeline()
    await SlotScheduler(pipeline, CONFIG).execute({**RECIPE, "seed": 7}, slot_id=12)
    pipeline.threads.close()
    slot = pipeline.audio.contexts[0]
    assert (slot.slot_id, slot.seed) == (12, 7)


def test_seed_is_the_recipes_or_derived_from_channel_and_slot() -> None:
    seeded, seedless = (as_recipe({**RECIPE, "seed": seed}) for seed in (0, None))
    assert slot_seed(seeded, slot_id=5) == 0
    assert slot_seed(seedless, slot_id=5) == slot_seed(seedless, slot_id=5, channel="main")
    seeds = {slot_seed(seedless, 5), slot_seed(seedless, 6), slot_seed(seedless, 5, "late show")}
    assert len(seeds) == 3


async def test_times_of_the_caller_in_the_context_do_no_harm() -> None:
    slot = context()
    slot.breakdown["queue_ms"] = 3.0
    result = await SlotScheduler(PlainPipeline(), CONFIG).execute(RECIPE, 1, slot=slot)
    assert result.breakdown.total_ms > 0


# Traces


async def test_every_stage_and_attempt_is_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr("vortex.orchestration.scheduler.tracer", tracer)
    monkeypatch.setattr("vortex.orchestration.scheduler.BACKOFF_S", 0.001)
    pipeline = PlainPipeline(audio=PlainStage(delay_s=0.05, errors=[OSError("the script itself")]))
    scheduler = SlotScheduler(pipeline, config(retry_policy={"audio": 1}))

    with tracer.start_as_current_span("process slot.ticks") as process:
        await scheduler.execute(RECIPE, slot_id=3)

    spans = exporter.get_finished_spans()
    by_id = {span.context.span_id: span for span in spans}
    stages = {span.name: span for span in spans if span.parent and "attempt" not in span.name}
    assert set(stages) == {"slot.audio", "slot.image", "slot.video", "slot.clip"}
    for span in stages.values():
        assert span.parent is not None
        assert span.parent.span_id == process.get_span_context().span_id
        assert span.attributes is not None
        assert span.attributes["slot.id"] == 3

    attempts = [span for span in spans if span.name == "slot.audio attempt"]
    assert [(span.attributes or {})["slot.attempt"] for span in attempts] == [1, 2]
    assert [(span.attributes or {}).get("error.type") for span in attempts] == ["OSError", None]
    assert {by_id[span.parent.span_id].name for span in attempts if span.parent} == {"slot.audio"}
    assert "the script itself" not in str([span.to_json() for span in spans])

    audio, image = stages["slot.audio"], stages["slot.image"]
    assert None not in (audio.start_time, audio.end_time, image.start_time, image.end_time)
    assert max(audio.start_time or 0, image.start_time or 0) < min(
        audio.end_time or 0, image.end_time or 0
    )
    process_span = next(span for span in spans if span.name == "process slot.ticks")
    assert [event.name for event in process_span.events] == [
        "Parallel phase complete",
        "Video generation complete",
        "CLIP verification complete",
    ]
