"""Whole slots: the scheduler with a plain pipeline, and with one that does torch work in threads.

No GPU and no weights are needed: the plain pipeline's stages wait, the other's multiply matrices.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.support.pipelines import (
    CONFIG,
    FPS,
    RECIPE,
    SAMPLE_RATE_HZ,
    SIZE,
    PlainPipeline,
    PlainStage,
    TorchPipeline,
    TorchStage,
    config,
    working_threads,
)
from vortex.errors import MemoryPressureError, StageHungError
from vortex.orchestration import DeadlineMissError, SlotResult, SlotScheduler, StageEstimates
from vortex.orchestration.estimates import STAGES, work_units
from vortex.slot import SlotContext, as_recipe
from vortex.utils.vram import VRAMMonitor

LONG_S = 60.0  # a stage that must be stopped: the test would run into its own limit
LIMIT_S = 20.0  # for what takes milliseconds on an idle machine

MakeTorchPipeline = Callable[..., TorchPipeline]


def quick_estimates() -> StageEstimates:
    """Return estimates of stages that take next to no time."""
    estimates = StageEstimates()
    for stage in STAGES:
        estimates.observe(stage, 0.0)
    return estimates


@pytest.fixture
def torch_pipeline() -> Iterator[MakeTorchPipeline]:
    """Make pipelines whose threads are closed at the end, and must not work any more by then."""
    torch.full((256, 256), 1 / 256) @ torch.ones(256, 256)  # the first product is slow
    pipelines: list[TorchPipeline] = []

    def make(kind: type[TorchPipeline] = TorchPipeline, **stages: Any) -> TorchPipeline:
        pipelines.append(kind(**stages))
        return pipelines[-1]

    yield make
    for pipeline in pipelines:
        pipeline.threads.close()
    assert working_threads() == []


async def assert_work_has_stopped(pipeline: TorchPipeline) -> None:
    """Check that no thread works now, and that no step is made in the time of several."""
    assert working_threads() == []
    done = pipeline.steps_done
    longest_s = max(getattr(pipeline, stage).longest_step_s for stage in STAGES)
    await asyncio.sleep(max(0.05, 3 * longest_s))
    assert pipeline.steps_done == done
    assert working_threads() == []


def assert_is_whole(result: SlotResult, slot_id: int) -> None:
    duration_s = RECIPE["slot_params"]["duration_sec"]
    assert result.video_frames.shape == (duration_s * FPS, 3, SIZE, SIZE)
    assert result.video_frames.dtype == torch.uint8
    assert result.audio_waveform.shape == (duration_s * SAMPLE_RATE_HZ,)
    assert result.clip_embedding.shape == (512,)
    assert float(result.clip_embedding.norm()) == pytest.approx(1.0, abs=1e-5)
    assert result.metadata.slot_id == slot_id
    assert result.verification is not None
    assert result.verification.embedding is result.clip_embedding


@pytest.mark.parametrize("kind", ["plain", "torch"])
async def test_successful_slot_generation_e2e(kind: str, torch_pipeline: MakeTorchPipeline) -> None:
    pipeline = PlainPipeline() if kind == "plain" else torch_pipeline()
    scheduler = SlotScheduler(pipeline, CONFIG)
    before = time.monotonic()
    deadline = before + 45.0
    result = await scheduler.execute(RECIPE, slot_id=12345, deadline=deadline)

    assert_is_whole(result, slot_id=12345)
    metadata, breakdown = result.metadata, result.breakdown
    assert before <= metadata.start_time <= metadata.end_time <= time.monotonic()
    assert metadata.deadline == deadline
    assert result.deadline_met
    assert breakdown.total_ms == pytest.approx((metadata.end_time - metadata.start_time) * 1000)
    critical_path_ms = (
        max(breakdown.audio_ms, breakdown.image_ms) + breakdown.video_ms + breakdown.clip_ms
    )
    assert 0 < critical_path_ms <= breakdown.total_ms


async def test_deadline_abort_prediction() -> None:
    pipeline = PlainPipeline(
        audio=PlainStage(delay_s=LONG_S), image=PlainStage(delay_s=LONG_S, cleanup_s=0.05)
    )
    # Video and self-check take 0.3 s, the buffer is 0.2 s: after 0.5 s it is too late for them.
    scheduler = SlotScheduler(pipeline, config(deadline_buffer_s=0.2))
    scheduler.estimates.observe("video", 0.2, work_units(as_recipe(RECIPE))["video"])
    scheduler.estimates.observe("clip", 0.1)
    slot = SlotContext(recipe=as_recipe(RECIPE), slot_id=1, seed=1)
    deadline = time.monotonic() + 1.0
    with pytest.raises(RuntimeError, match=r"^Deadline miss predicted") as caught:
        await scheduler.execute(RECIPE, 1, deadline=deadline, slot=slot)
    assert isinstance(caught.value, DeadlineMissError)
    assert time.monotonic() >= deadline - 0.5 - 0.02
    assert (pipeline.audio.started, pipeline.image.started) == (1, 1)
    assert (pipeline.audio.cancelled, pipeline.image.cancelled) == (1, 1)
    assert pipeline.video.started == pipeline.clip.started == 0
    assert slot.breakdown.keys() == {"audio_ms", "image_ms"}


@pytest.mark.parametrize("stage", ["image", "video", "clip"])
async def test_predicted_miss_stops_torch_work_of_the_running_stage(
    stage: str, torch_pipeline: MakeTorchPipeline
) -> None:
    pipeline = torch_pipeline(**{stage: TorchStage(overruns=1)})
    scheduler = SlotScheduler(pipeline, config(deadline_buffer_s=0.1), estimates=quick_estimates())
    with pytest.raises(DeadlineMissError, match=f"^Deadline miss predicted in phase '.*{stage}'"):
        await scheduler.execute(RECIPE, slot_id=1, deadline=time.monotonic() + 1.0)
    assert getattr(pipeline, stage).steps_done > 0
    await assert_work_has_stopped(pipeline)


async def test_clip_self_check_failure() -> None:
    pipeline = PlainPipeline()
    pipeline.scores = 0.81, 0.71
    result = await SlotScheduler(pipeline, CONFIG).execute(RECIPE, slot_id=1)
    assert_is_whole(result, slot_id=1)
    assert result.deadline_met
    assert result.verification is not None
    assert result.verification.self_check_passed is False
    assert result.verification.ensemble_score == pytest.approx(0.4 * 0.81 + 0.6 * 0.71)


async def test_progress_checkpoint_logging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="vortex.orchestration"):
        scheduler = SlotScheduler(PlainPipeline(), CONFIG)
        deadline = time.monotonic() + 45.0
        result = await scheduler.execute(RECIPE, slot_id=7, deadline=deadline)

    usual = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
    lines = [
        (record.getMessage(), {k: v for k, v in vars(record).items() if k not in usual})
        for record in caplog.records
    ]
    breakdown = result.breakdown
    deadline_s = deadline - result.metadata.start_time
    assert lines == [
        ("SlotScheduler initialized", {"buffer_s": 1.0}),
        (
            "Starting slot generation",
            {"slot_id": 7, "deadline_s": pytest.approx(deadline_s, abs=0.001), "buffer_s": 1.0},
        ),
        (
            "Parallel phase complete",
            {
                "slot_id": 7,
                "audio_ms": pytest.approx(breakdown.audio_ms, abs=0.1),
                "image_ms": pytest.approx(breakdown.image_ms, abs=0.1),
            },
        ),
        (
            "Video generation complete",
            {"slot_id": 7, "video_ms": pytest.approx(breakdown.video_ms, abs=0.1)},
        ),
        (
            "CLIP verification complete",
            {"slot_id": 7, "clip_ms": pytest.approx(breakdown.clip_ms, abs=0.1)},
        ),
        (
            "Slot generation complete",
            {
                "slot_id": 7,
                "total_ms": pytest.approx(breakdown.total_ms, abs=0.1),
                "deadline_met": True,
            },
        ),
    ]


async def test_failed_attempt_is_logged_without_the_error_text(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vortex.orchestration.scheduler.BACKOFF_S", 0.001)
    error = ValueError("cannot say 'the whole script'")
    pipeline = PlainPipeline(audio=PlainStage(errors=[error]))
    await SlotScheduler(pipeline, config(retry_policy={"audio": 1})).execute(RECIPE, slot_id=1)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage() == "Stage attempt failed"
    assert vars(warning)["stage"] == "audio"
    assert vars(warning)["error_type"] == "ValueError"
    assert "the whole script" not in str(vars(warning))


async def test_vram_pressure_handling(torch_pipeline: MakeTorchPipeline) -> None:
    class Monitored(TorchPipeline):
        """Looks at the bytes in use before its video stage, as the real one does."""

        async def _generate_video(
            self, image: torch.Tensor, audio: torch.Tensor, slot: SlotContext
        ) -> torch.Tensor:
            monitor = VRAMMonitor(11_000_000_000, 11_500_000_000, lambda: used_bytes)
            monitor.check("video")
            return await super()._generate_video(image, audio, slot)

    used_bytes = 11_700_000_000
    pipeline = torch_pipeline(Monitored)
    scheduler = SlotScheduler(pipeline, CONFIG)
    slot = SlotContext(recipe=as_recipe(RECIPE), slot_id=1, seed=1)
    with pytest.raises(MemoryPressureError, match=r"video: 11\.700 GB .* 11\.500 GB"):
        await scheduler.execute(RECIPE, 1, slot=slot)
    assert slot.stage == "video"
    assert pipeline.video.steps_done == 0

    used_bytes = 9_000_000_000
    assert_is_whole(await scheduler.execute(RECIPE, slot_id=2), slot_id=2)


@pytest.mark.parametrize("kind", ["plain", "torch"])
@pytest.mark.parametrize("stage", STAGES)
async def test_stage_timeout_enforcement(
    stage: str, kind: str, torch_pipeline: MakeTorchPipeline
) -> None:
    pipeline = (
        PlainPipeline(**{stage: PlainStage(delay_s=LONG_S)})
        if kind == "plain"
        else torch_pipeline(**{stage: TorchStage(overruns=1)})
    )
    scheduler = SlotScheduler(pipeline, config(timeouts={f"{stage}_s": 0.1}))
    slot = SlotContext(recipe=as_recipe(RECIPE), slot_id=1, seed=1)
    with pytest.raises(asyncio.TimeoutError):
        async with asyncio.timeout(LIMIT_S) as bound:
            await scheduler.execute(RECIPE, 1, slot=slot)
    assert not bound.expired()
    assert slot.stage == stage
    assert slot.breakdown[f"{stage}_ms"] >= 99


@pytest.mark.parametrize("stage", STAGES)
async def test_timeout_stops_torch_work_and_the_next_slot_is_served(
    stage: str, torch_pipeline: MakeTorchPipeline
) -> None:
    overrunning = TorchStage(overruns=1)
    pipeline = torch_pipeline(**{stage: overrunning})
    scheduler = SlotScheduler(pipeline, config(timeouts={f"{stage}_s": 1.0}))
    slot = asyncio.create_task(scheduler.execute(RECIPE, slot_id=1))
    async with asyncio.timeout(LIMIT_S):
        while overrunning.steps_done < 2:
            await asyncio.sleep(0.002)
    assert any(name.startswith("vortex-stage") for name in working_threads())

    with pytest.raises(asyncio.TimeoutError):
        await slot
    await assert_work_has_stopped(pipeline)

    assert_is_whole(await scheduler.execute(RECIPE, slot_id=2), slot_id=2)


async def test_failing_stage_stops_torch_work_of_its_sibling(
    torch_pipeline: MakeTorchPipeline,
) -> None:
    meeting = threading.Barrier(2)
    pipeline = torch_pipeline(
        audio=TorchStage(steps=20, meet=meeting, error=ValueError("no such voice")),
        image=TorchStage(overruns=1, meet=meeting),
    )
    with pytest.raises(ValueError, match="no such voice"):
        await SlotScheduler(pipeline, CONFIG).execute(RECIPE, slot_id=1)
    await assert_work_has_stopped(pipeline)


async def test_stage_that_does_not_stop_is_reported_as_hung(
    torch_pipeline: MakeTorchPipeline,
) -> None:
    released = threading.Event()
    pipeline = torch_pipeline(image=TorchStage(deaf_until=released), cancel_grace_s=0.1)
    scheduler = SlotScheduler(
        pipeline, config(timeouts={"image_s": 0.1}, retry_policy={"image": 3})
    )
    try:
        with pytest.raises(StageHungError):
            await scheduler.execute(RECIPE, slot_id=1)
        assert len(pipeline.image.contexts) == 1  # a hung stage is not tried again
        assert working_threads() != []
    finally:
        released.set()
    async with asyncio.timeout(LIMIT_S):
        while working_threads():
            await asyncio.sleep(0.002)


async def test_audio_and_image_compute_at_the_same_time(
    torch_pipeline: MakeTorchPipeline,
) -> None:
    meeting = threading.Barrier(2)  # passed only by two threads that run at once
    pipeline = torch_pipeline(audio=TorchStage(meet=meeting), image=TorchStage(meet=meeting))
    result = await SlotScheduler(pipeline, CONFIG).execute(RECIPE, slot_id=1)
    assert_is_whole(result, slot_id=1)


async def test_event_loop_goes_on_while_a_stage_computes(torch_pipeline: MakeTorchPipeline) -> None:
    pipeline = torch_pipeline(video=TorchStage(overruns=1))
    slot = asyncio.create_task(SlotScheduler(pipeline, CONFIG).execute(RECIPE, slot_id=1))
    async with asyncio.timeout(LIMIT_S):
        for step in range(50):
            while pipeline.video.steps_done <= step:
                await asyncio.sleep(0)
    slot.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slot
    await assert_work_has_stopped(pipeline)


async def test_audio_retry_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vortex.orchestration.scheduler.BACKOFF_S", 0.01)
    pipeline = PlainPipeline(audio=PlainStage(errors=[RuntimeError("speech failed once")]))
    scheduler = SlotScheduler(pipeline, config(retry_policy={"audio": 1}))
    result = await scheduler.execute(RECIPE, slot_id=1)
    assert_is_whole(result, slot_id=1)
    assert pipeline.audio.started == 2
    assert pipeline.image.started == 1
    assert result.breakdown.audio_ms >= 10


async def test_stage_that_timed_out_recovers_on_retry(
    torch_pipeline: MakeTorchPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrunning = TorchStage(overruns=1)
    pipeline = torch_pipeline(image=overrunning)
    scheduler = SlotScheduler(
        pipeline, config(timeouts={"image_s": 1.0}, retry_policy={"image": 1})
    )
    assert_is_whole(await scheduler.execute(RECIPE, slot_id=1), slot_id=1)
    assert len(overrunning.contexts) == 2
    assert overrunning.contexts[0] is overrunning.contexts[1]
