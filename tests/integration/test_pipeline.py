"""The real pipeline with the mini models, with and without the scheduler around it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.config import WorkerConfig
from tests.support.cases import slow_but
from vortex import models
from vortex.errors import InvalidRecipeError, VortexInitializationError
from vortex.orchestration import SlotScheduler
from vortex.orchestration.estimates import STAGES
from vortex.pipeline import GenerationResult, VortexPipeline
from vortex.slot import SlotContext, as_recipe, slot_seed

pytestmark = pytest.mark.models

FPS = 6
DURATION_S = 1.5  # three batches of frames, the last one not full
FRAMES = int(FPS * DURATION_S)
SAMPLES = int(24_000 * DURATION_S)
RECIPE: Mapping[str, Any] = {
    "slot_params": {"duration_sec": DURATION_S, "fps": FPS, "resolution": "128x128"},
    "audio_track": {"script": "Good evening."},
    "visual_track": {
        "prompt": "a woman with short red hair in a green coat in front of a blue wall",
        "expression_sequence": ["calm", "excited"],
    },
    "seed": 7,
}
LIMIT_S = 60.0

SLOT_IN_ANOTHER_PROCESS = """
import asyncio, hashlib, json, sys
from vortex.pipeline import VortexPipeline

pipeline = VortexPipeline(sys.argv[1], device="cpu")
made = asyncio.run(pipeline.generate_slot(json.loads(sys.argv[2]), slot_id=99))
pipeline.close()
for tensor in (made.video_frames, made.audio_waveform):
    print(hashlib.sha256(tensor.numpy().tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def pipeline(mini_config: WorkerConfig) -> Iterator[VortexPipeline]:
    pipeline = VortexPipeline(config=mini_config)
    asyncio.run(pipeline.warm_up())
    yield pipeline
    pipeline.close()


@pytest.fixture(scope="module")
def made(pipeline: VortexPipeline) -> GenerationResult:
    """Give the slot of `RECIPE`."""
    return asyncio.run(pipeline.generate_slot(RECIPE, slot_id=1))


def scheduler(pipeline: VortexPipeline, **timeouts_s: float) -> SlotScheduler:
    """Return a scheduler without retries; stages have a minute, or as long as told."""
    return SlotScheduler(
        pipeline,
        {
            "timeouts": {f"{stage}_s": timeouts_s.get(stage, LIMIT_S) for stage in STAGES},
            "retry_policy": dict.fromkeys(STAGES, 0),
            "deadline_buffer_s": 0.0,
        },
    )


def far_deadline() -> float:
    return time.monotonic() + 10 * LIMIT_S


def context(recipe: Mapping[str, Any] = RECIPE, **fields: Any) -> SlotContext:
    return SlotContext(
        recipe=as_recipe(recipe), slot_id=1, seed=slot_seed(as_recipe(recipe), 1), **fields
    )


def sha256s(result: Any) -> list[str]:
    """Return the checksums of a result's frames and samples."""
    made = result.video_frames, result.audio_waveform
    return [hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in made]


def threads_inside_models() -> list[str]:
    """Return the names of the threads that run code of `vortex.models` at this moment."""
    folder = str(Path(models.__file__).parent)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    inside = []
    for ident, top in sys._current_frames().items():
        frame: Any = top
        while frame is not None and not frame.f_code.co_filename.startswith(folder):
            frame = frame.f_back
        if frame is not None:
            inside.append(names.get(ident, str(ident)))
    return inside


def test_result_is_what_the_recipe_asks_for(made: GenerationResult) -> None:
    assert made.video_frames.shape == (FRAMES, 3, 128, 128)
    assert made.video_frames.dtype == torch.uint8
    assert made.audio_waveform.shape == (SAMPLES,)
    assert made.audio_waveform.dtype == torch.float32
    assert 0.1 < made.audio_waveform.abs().max() <= 1.0
    assert made.clip_embedding.shape == (512,)
    assert float(made.clip_embedding.norm()) == pytest.approx(1.0, abs=1e-5)
    assert made.verification.embedding is made.clip_embedding
    assert (made.slot_id, made.seed, made.fps, made.sample_rate_hz) == (1, 7, FPS, 24_000)
    assert all(tensor.device.type == "cpu" for tensor in (made.video_frames, made.audio_waveform))


def test_stages_are_timed_by_themselves(made: GenerationResult) -> None:
    times = made.breakdown
    critical_path_ms = max(times.audio_ms, times.image_ms) + times.video_ms + times.clip_ms
    assert min(times.audio_ms, times.image_ms, times.video_ms, times.clip_ms) > 0
    assert critical_path_ms <= times.total_ms
    assert abs(times.audio_ms - times.image_ms) > 1


async def test_recipe_without_a_seed_gets_one_from_its_slot(pipeline: VortexPipeline) -> None:
    recipe = as_recipe({**RECIPE, "seed": None})
    portraits = [
        await pipeline._generate_actor(
            recipe, SlotContext(recipe=recipe, slot_id=slot_id, seed=slot_seed(recipe, slot_id))
        )
        for slot_id in (1, 1, 2)
    ]
    assert torch.equal(portraits[0], portraits[1])
    assert not torch.equal(portraits[0], portraits[2])


async def test_recipe_that_cannot_be_made_is_refused_without_its_text(
    pipeline: VortexPipeline,
) -> None:
    recipe = {**RECIPE, "audio_track": {"script": "zebra", "speed": 9.0}}
    with pytest.raises(InvalidRecipeError, match=r"^recipe: .*speed") as caught:
        await pipeline.generate_slot(recipe, slot_id=1)
    assert "zebra" not in str(caught.value)
    assert "\n" not in str(caught.value)


# --- at the same time ---------------------------------------------------------------------------


async def test_speech_and_portrait_are_made_at_the_same_time(
    pipeline: VortexPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans opened inside the threads overlap, and hang below the spans of their stages."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr("vortex.orchestration.scheduler.tracer", tracer)

    def traced(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            attributes = {"thread": threading.get_ident()}
            with tracer.start_as_current_span(name, attributes=attributes):
                return method(*args, **kwargs)

        return call

    kokoro, flux = pipeline.models.get_model("kokoro"), pipeline.models.get_model("flux")
    monkeypatch.setattr(kokoro, "synthesize", traced("kokoro", kokoro.synthesize))
    monkeypatch.setattr(flux, "generate", traced("flux", flux.generate))
    await scheduler(pipeline).execute(RECIPE, 1, far_deadline())

    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert overlap(spans["kokoro"], spans["flux"])
    assert overlap(spans["slot.audio"], spans["slot.image"])
    assert not overlap(spans["slot.audio"], spans["slot.video"])
    ran_in = {(spans[name].attributes or {})["thread"] for name in ("kokoro", "flux")}
    assert len(ran_in) == 2
    assert threading.get_ident() not in ran_in
    for model, stage in (("kokoro", "audio"), ("flux", "image")):
        parent = spans[model].parent
        assert parent is not None
        assert parent.span_id == spans[f"slot.{stage} attempt"].context.span_id
    provider.shutdown()


def overlap(first: ReadableSpan, second: ReadableSpan) -> bool:
    assert first.start_time is not None
    assert first.end_time is not None
    assert second.start_time is not None
    assert second.end_time is not None
    return first.start_time < second.end_time and second.start_time < first.end_time


async def test_event_loop_stays_free_while_a_slot_is_made(
    pipeline: VortexPipeline, record_testsuite_property: Callable[[str, object], None]
) -> None:
    interval_s = 0.005
    late_s: list[float] = []

    async def beat() -> None:
        while True:
            due = time.perf_counter() + interval_s
            await asyncio.sleep(interval_s)
            late_s.append(time.perf_counter() - due)

    heart = asyncio.create_task(beat())
    await pipeline.generate_slot(RECIPE, slot_id=1)
    heart.cancel()
    assert len(late_s) > 50
    p99_s = float(np.quantile(late_s, 0.99))
    record_testsuite_property("event_loop_late_p99_ms", round(p99_s * 1000, 2))
    assert p99_s < 0.050


# --- the same again -----------------------------------------------------------------------------


async def test_same_recipe_and_seed_make_the_same_slot_again(
    pipeline: VortexPipeline, made: GenerationResult
) -> None:
    again = await pipeline.generate_slot(RECIPE, slot_id=2)
    assert sha256s(again) == sha256s(made)
    other = await pipeline.generate_slot({**RECIPE, "seed": 8}, slot_id=1)
    assert sha256s(other)[0] != sha256s(made)[0]
    assert not torch.equal(other.clip_embedding, made.clip_embedding)


@pytest.mark.slow
def test_same_recipe_and_seed_make_the_same_slot_in_another_process(
    made: GenerationResult, mini_models: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"models": {"directory": str(mini_models)}}))
    command = [sys.executable, "-c", SLOT_IN_ANOTHER_PROCESS, str(config), json.dumps(RECIPE)]
    other = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert other.stdout.split() == sha256s(made)


# --- stopped ------------------------------------------------------------------------------------

LONG: Mapping[str, Any] = {
    **RECIPE,
    "slot_params": {"duration_sec": 45.0, "fps": 24, "resolution": "256x256"},
    "audio_track": {"script": "It rains in the north. " * 12},
}
STOPPED_AFTER_S = {"audio": 0.3, "image": 0.1, "video": 0.1}


@pytest.mark.parametrize("stage", slow_but(["video"], STOPPED_AFTER_S))
async def test_stage_over_its_limit_is_stopped_and_the_next_slot_served(
    stage: str,
    pipeline: VortexPipeline,
    made: GenerationResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = LONG if stage == "audio" else {**LONG, "audio_track": RECIPE["audio_track"]}
    slot = context(recipe)
    with monkeypatch.context() as patched:
        if stage == "image":  # four steps are too quick to be late
            steps = pipeline.config.pipeline.model_copy(update={"steps": 1000})
            patched.setattr(
                pipeline, "config", pipeline.config.model_copy(update={"pipeline": steps})
            )
        with pytest.raises(TimeoutError):
            await scheduler(pipeline, **{stage: STOPPED_AFTER_S[stage]}).execute(
                recipe, 1, far_deadline(), slot=slot
            )
    assert threads_inside_models() == []
    assert slot.stage == stage

    result = await scheduler(pipeline).execute(RECIPE, 2, far_deadline())
    assert sha256s(result) == sha256s(made)


async def test_cancelled_slot_is_stopped(pipeline: VortexPipeline) -> None:
    making = asyncio.create_task(pipeline.generate_slot(LONG, slot_id=1))
    give_up_at = time.monotonic() + LIMIT_S
    while not threads_inside_models():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.001)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert threads_inside_models() == []


# --- the sink -----------------------------------------------------------------------------------


class RecordingSink:
    """Keeps what it is given; fails as often as told, at the second batch."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.begun: list[dict[str, Any]] = []
        self.batches: list[np.ndarray] = []

    def begin(self, **arguments: Any) -> None:
        self.begun.append(arguments)
        self.batches.clear()

    def write(self, frames: np.ndarray) -> None:
        if self.failures and self.batches:
            self.failures -= 1
            raise RuntimeError("the sink is full")
        self.batches.append(frames.copy())

    @property
    def frames(self) -> torch.Tensor:
        """All frames as the pipeline returns them, `[T, 3, H, W]`."""
        return torch.from_numpy(np.concatenate(self.batches)).permute(0, 3, 1, 2)


async def test_sink_gets_every_frame_once_and_in_order(
    pipeline: VortexPipeline, made: GenerationResult
) -> None:
    sink = RecordingSink()
    slot = context(sink=sink)
    result = await scheduler(pipeline).execute(RECIPE, 1, far_deadline(), slot=slot)
    assert torch.equal(sink.frames, result.video_frames)
    assert sha256s(result) == sha256s(made)
    (begun,) = sink.begun
    assert np.array_equal(begun.pop("waveform"), result.audio_waveform.numpy())
    assert begun == {"sample_rate_hz": 24_000, "fps": FPS, "width": 128, "height": 128}
    assert slot.frames_computed == FRAMES
    assert slot.steps == pipeline.config.pipeline.steps
    assert slot.speech is not None


async def test_sink_begins_anew_when_the_video_stage_is_tried_again(
    pipeline: VortexPipeline, made: GenerationResult
) -> None:
    sink = RecordingSink(failures=1)
    retrying = scheduler(pipeline)
    retrying.retry_policy = {**retrying.retry_policy, "video": 1}
    await retrying.execute(RECIPE, 1, far_deadline(), slot=context(sink=sink))
    assert len(sink.begun) == 2
    assert torch.equal(sink.frames, made.video_frames)


# --- memory -------------------------------------------------------------------------------------


def test_bytes_of_every_part_are_logged_when_the_models_are_loaded(
    mini_config: WorkerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="vortex.pipeline"):
        VortexPipeline(config=mini_config).close()
    (record,) = [record for record in caplog.records if record.message == "Models loaded"]
    held = vars(record)["bytes"]
    assert {
        "flux.transformer", "flux.t5", "flux.clip_text", "flux.vae", "clip.b", "clip.l",
        "animator.warping", "animator.generator",
    } <= held.keys()  # fmt: skip
    assert all(count > 10_000 for count in held.values())
    assert vars(record)["total_bytes"] == sum(held.values())


def test_models_that_leave_no_room_for_a_slot_stop_the_start(
    mini_config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vortex.pipeline.allocated_bytes_reader", lambda _: lambda: 11_600_000_000)
    with pytest.raises(VortexInitializationError, match=r"^the models alone: 11\.600 GB .* set"):
        VortexPipeline(config=mini_config)


# --- what is not there --------------------------------------------------------------------------


def pointed_at(config: WorkerConfig, directory: Path) -> WorkerConfig:
    return config.model_copy(
        update={"models": config.models.model_copy(update={"directory": directory})}
    )


@pytest.mark.parametrize("file", [None, "flux/transformer/config.json", "kokoro/voices.npz"])
def test_missing_weights_stop_the_start_with_one_line(
    file: str | None, mini_config: WorkerConfig, mini_models: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "mini"
    if file is not None:
        shutil.copytree(mini_models / "mini", directory, copy_function=os.symlink)
        (directory / file).unlink()
    with pytest.raises(VortexInitializationError) as caught:
        VortexPipeline(config=pointed_at(mini_config, tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    assert str(directory if file is None else directory / file) in message
    assert "run `vortex models build`" in message


def test_device_that_is_not_there_stops_the_start(mini_config: WorkerConfig) -> None:
    with pytest.raises(VortexInitializationError, match=r"^device\.name cuda:99: this machine has"):
        VortexPipeline(config=mini_config, device="cuda:99")


def test_registry_names_the_models_and_their_revisions(pipeline: VortexPipeline) -> None:
    assert set(pipeline.models.revisions) == {"flux", "liveportrait", "kokoro", "clip-b", "clip-l"}
    with pytest.raises(KeyError, match="known are animator, clip, flux, kokoro"):
        pipeline.models.get_model("gpt")
