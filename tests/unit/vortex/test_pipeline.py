"""The pipeline's own part in a slot, around models that make what a test tells them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from vortex.config import VortexConfig
from vortex.errors import (
    DeviceLostError,
    InvalidRecipeError,
    MemoryPressureError,
    VortexInitializationError,
)
from vortex.models.clip_ensemble import DualClipResult
from vortex.models.kokoro import SAMPLE_RATE_HZ, Speech
from vortex.pipeline import VortexPipeline
from vortex.slot import SlotContext, as_recipe, slot_seed
from vortex.utils.cancellation import CancellationToken
from vortex.utils.vram import MemoryPressureWarning

FPS, FRAMES, SIZE, SEED = 4, 8, 64, 7
SHADES = [SEED + number for number in range(FRAMES)]
RECIPE: Mapping[str, Any] = {
    "slot_params": {"duration_sec": FRAMES / FPS, "fps": FPS, "resolution": f"{SIZE}x{SIZE}"},
    "audio_track": {"script": "Good evening.", "emotion": "sad"},
    "visual_track": {"prompt": "a newsreader", "expression_sequence": ["calm"]},
    "semantic_constraints": {"min_clip_score": 0.5, "banned_concepts": ["a cat"]},
    "seed": SEED,
}
GB = 10**9
LIMIT_S = 10.0

Work = Callable[[CancellationToken], None]


def nothing(_: CancellationToken) -> None:
    pass


def until_cancelled(token: CancellationToken) -> None:
    """Work in steps until told to stop; a test that forgets to runs into an error."""
    for _ in range(int(LIMIT_S / 0.002)):
        token.raise_if_cancelled()
        threading.Event().wait(0.002)
    raise AssertionError("nobody stopped the stage")


@dataclass
class SmallModels:
    """One object as every stage's model; `work` is done inside a stage, by its name."""

    work: dict[str, Work] = field(default_factory=dict)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The arguments of each stage's last call."""
    threads: dict[str, int] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=lambda: {"small": "1"})
    spoken_s: float = 1.0

    @property
    def kokoro(self) -> SmallModels:
        return self

    flux = animator = clip = kokoro

    def by_name(self) -> dict[str, Any]:
        return {"small": self}

    def held_bytes(self) -> dict[str, int]:
        return {"small.weights": 100}

    def synthesize(self, script: str, **asked: Any) -> Speech:
        self._play("audio", asked | {"script": script})
        samples = np.full(round(self.spoken_s * SAMPLE_RATE_HZ), 0.5, np.float32)
        return Speech(samples, (), voice_id="small", truncated=False)

    def generate(self, prompt: str, **asked: Any) -> torch.Tensor:
        self._play("image", asked | {"prompt": prompt})
        return torch.full((1, 3, SIZE, SIZE), asked["seed"] % 100 / 100)

    def encode(self, prompt: str, seed: int) -> None:
        self._play("prompt", {"prompt": prompt, "seed": seed, "token": CancellationToken()})

    def animate(self, image: torch.Tensor, speech: Speech, **asked: Any) -> Iterator[torch.Tensor]:
        self._play("video", asked | {"speech": speech})
        for numbers in asked["chosen"]:
            shades = torch.tensor([asked["seed"] + number for number in numbers])
            size = (len(numbers), 3, asked["height"], asked["width"])
            yield shades.to(torch.uint8).view(-1, 1, 1, 1).expand(size)

    def verify(self, video: torch.Tensor, prompt: str, **asked: Any) -> DualClipResult:
        self._play("clip", asked | {"prompt": prompt, "frames": len(video)})
        return DualClipResult.from_scores(torch.eye(512)[0], 0.8, 0.8)

    def _play(self, stage: str, asked: dict[str, Any]) -> None:
        self.asked[stage] = asked
        self.threads[stage] = threading.get_ident()
        self.work.get(stage, nothing)(asked["token"])


MakePipeline = Callable[..., VortexPipeline]


@pytest.fixture
def make_pipeline() -> Iterator[MakePipeline]:
    """Make pipelines around small models; closed at the end."""
    made: list[VortexPipeline] = []

    def make(models: SmallModels, profile: str = "mini") -> VortexPipeline:
        config = VortexConfig.load(profile=profile)
        made.append(VortexPipeline(config=config, device="cpu", models=models))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.close()


def raising(error: Exception) -> Work:
    def work(_: CancellationToken) -> None:
        raise error

    return work


# A whole slot


async def test_slot_is_as_long_and_as_large_as_the_recipe_says(make_pipeline: MakePipeline) -> None:
    made = await make_pipeline(SmallModels()).generate_slot(RECIPE, slot_id=3)
    assert made.video_frames.shape == (FRAMES, 3, SIZE, SIZE)
    assert made.video_frames[:, 0, 0, 0].tolist() == SHADES
    assert made.audio_waveform.shape == (FRAMES * SAMPLE_RATE_HZ // FPS,)
    assert float(made.audio_waveform[-1]) == 0.0  # speech ends before the slot
    assert (made.slot_id, made.seed, made.fps) == (3, SEED, FPS)
    assert made.verification.embedding is made.clip_embedding


async def test_each_model_is_asked_for_what_the_recipe_says(make_pipeline: MakePipeline) -> None:
    models = SmallModels()
    pipeline = make_pipeline(models)
    await pipeline.generate_slot(RECIPE, slot_id=3)
    audio, image, video, clip = (models.asked[name] for name in ("audio", "image", "video", "clip"))
    assert (audio["script"], audio["emotion"], audio["max_duration_s"]) == (
        "Good evening.",
        "sad",
        FRAMES / FPS,
    )
    assert (image["prompt"], image["seed"]) == ("a newsreader", SEED)
    assert image["steps"] == pipeline.config.pipeline.steps
    assert (video["expressions"], video["seed"]) == (["calm"], SEED)
    assert video["speech"].voice_id == "small"
    assert (clip["prompt"], clip["frames"]) == ("a newsreader", FRAMES)
    assert (clip["min_clip_score"], list(clip["banned_concepts"])) == (0.5, ["a cat"])


async def test_portrait_is_steered_in_production_and_judged_by_the_recipes_own_prompt(
    make_pipeline: MakePipeline,
) -> None:
    models = SmallModels()
    pipeline = make_pipeline(models, "production")
    await pipeline.encode_prompt(as_recipe(RECIPE), SEED)
    await pipeline.generate_slot(RECIPE, slot_id=3)
    asked = models.asked["image"]["prompt"]
    assert models.asked["prompt"]["prompt"] == asked
    assert asked.startswith("Head-and-shoulders portrait")
    assert asked.endswith("mouth closed, space above the head: a newsreader")
    assert models.asked["clip"]["prompt"] == "a newsreader"


async def test_stages_work_off_the_event_loop_and_speech_beside_portrait(
    make_pipeline: MakePipeline,
) -> None:
    meeting = threading.Barrier(2)  # passed only by two threads at once
    models = SmallModels({name: lambda _: meeting.wait(LIMIT_S) for name in ("audio", "image")})
    await make_pipeline(models).generate_slot(RECIPE, slot_id=3)
    assert models.threads["audio"] != models.threads["image"]
    assert threading.get_ident() not in models.threads.values()


async def test_recipe_against_the_contract_is_refused_before_any_work(
    make_pipeline: MakePipeline,
) -> None:
    models = SmallModels()
    recipe = {**RECIPE, "audio_track": {"script": ""}}
    with pytest.raises(InvalidRecipeError, match=r"^recipe: audio_track\.script"):
        await make_pipeline(models).generate_slot(recipe, slot_id=3)
    assert "audio" not in models.asked


async def test_plain_stages_need_no_slot(make_pipeline: MakePipeline) -> None:
    pipeline = make_pipeline(SmallModels())
    audio = await pipeline._generate_audio(RECIPE)
    image = await pipeline._generate_actor(RECIPE)
    video = await pipeline._generate_video(image, audio)
    assert video.shape == (24 * len(audio) // SAMPLE_RATE_HZ, 3, SIZE, SIZE)
    assert (await pipeline._verify_semantic(video, RECIPE)).self_check_passed


# The frames


class Sink:
    def __init__(self) -> None:
        self.frames: list[int] = []

    def begin(self, **_: Any) -> None:
        self.frames.clear()

    def write(self, frames: np.ndarray) -> None:
        assert frames.shape[1:] == (SIZE, SIZE, 3)
        self.frames += frames[:, 0, 0, 0].tolist()


async def test_frames_of_slots_without_a_sink_are_never_overwritten(
    make_pipeline: MakePipeline,
) -> None:
    pipeline = make_pipeline(SmallModels())
    first = await pipeline.generate_slot(RECIPE, slot_id=1)
    second = await pipeline.generate_slot({**RECIPE, "seed": 100}, slot_id=2)
    assert first.video_frames[:, 0, 0, 0].tolist() == SHADES
    assert second.video_frames[0, 0, 0, 0] == 100


async def test_sink_takes_each_frame_once_and_the_buffer_is_used_again(
    make_pipeline: MakePipeline,
) -> None:
    pipeline = make_pipeline(SmallModels())
    places, sink, recipe = [], Sink(), as_recipe(RECIPE)
    for slot_id in (1, 2):
        slot = SlotContext(recipe, slot_id, slot_seed(recipe, slot_id), sink=sink)
        audio = await pipeline._generate_audio(recipe, slot)
        image = await pipeline._generate_actor(recipe, slot)
        places.append((await pipeline._generate_video(image, audio, slot)).data_ptr())
        assert sink.frames == SHADES
        assert slot.frames_computed == FRAMES
    assert places[0] == places[1]


# What goes wrong


@pytest.mark.parametrize("stage", ["audio", "image", "video", "clip"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("no room"), MemoryPressureError),
        (torch.AcceleratorError("sticky", 700), DeviceLostError),
        (ValueError("of the model"), ValueError),
    ],
    ids=["memory", "device", "other"],
)
async def test_error_of_a_stage_says_what_to_do_about_it_and_the_next_slot_is_made(
    make_pipeline: MakePipeline, stage: str, error: Exception, expected: type[Exception]
) -> None:
    models = SmallModels({stage: raising(error)})
    pipeline = make_pipeline(models)
    with pytest.raises(expected) as caught:
        await pipeline.generate_slot(RECIPE, slot_id=1)
    assert caught.value is error or f"in stage {stage}: " in str(caught.value)
    models.work.clear()
    assert (await pipeline.generate_slot(RECIPE, slot_id=2)).slot_id == 2


@pytest.mark.parametrize(("failing", "other"), [("audio", "image"), ("image", "audio")])
async def test_failing_stage_stops_the_one_beside_it(
    make_pipeline: MakePipeline, failing: str, other: str
) -> None:
    running, ended = threading.Event(), threading.Event()

    def run(token: CancellationToken) -> None:
        running.set()
        try:
            until_cancelled(token)
        finally:
            ended.set()

    def fail(_: CancellationToken) -> None:
        assert running.wait(LIMIT_S)
        raise ValueError("no such voice")

    models = SmallModels({failing: fail, other: run})
    with pytest.raises(ValueError, match="no such voice"):
        await make_pipeline(models).generate_slot(RECIPE, slot_id=1)
    assert ended.is_set()
    assert "video" not in models.asked


@pytest.mark.parametrize("stage", ["audio", "image", "video", "clip"])
async def test_cancelled_slot_stops_its_stage_before_it_ends(
    make_pipeline: MakePipeline, stage: str
) -> None:
    running, ended = threading.Event(), threading.Event()

    def run(token: CancellationToken) -> None:
        running.set()
        try:
            until_cancelled(token)
        finally:
            ended.set()

    making = asyncio.create_task(
        make_pipeline(SmallModels({stage: run})).generate_slot(RECIPE, slot_id=1)
    )
    assert await asyncio.to_thread(running.wait, LIMIT_S)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert ended.is_set()


# Memory


@pytest.fixture
def used_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give a list whose one number is the memory in use, as the pipeline sees it."""
    used = [0]
    monkeypatch.setattr("vortex.pipeline.allocated_bytes_reader", lambda _: lambda: used[0])
    return used


async def test_stage_that_crosses_the_hard_limit_fails_its_slot_and_not_the_next(
    make_pipeline: MakePipeline, used_bytes: list[int]
) -> None:
    def swell(token: CancellationToken) -> None:
        used_bytes[0] = 20 * GB
        until_cancelled(token)  # the monitor stops it

    models = SmallModels({"video": swell})
    pipeline = make_pipeline(models)
    with pytest.raises(MemoryPressureError, match=r"^video: 20\.000 GB .* hard limit"):
        await pipeline.generate_slot(RECIPE, slot_id=1)
    assert "clip" not in models.asked
    used_bytes[0] = 0
    models.work.clear()
    await pipeline.generate_slot(RECIPE, slot_id=2)


async def test_soft_limit_warns_and_the_slot_is_made(
    make_pipeline: MakePipeline, used_bytes: list[int]
) -> None:
    pipeline = make_pipeline(SmallModels())
    used_bytes[0] = int((pipeline.config.vram.soft_limit_gb + 0.1) * GB)
    with pytest.warns(MemoryPressureWarning, match="soft limit"):
        made = await pipeline.generate_slot(RECIPE, slot_id=1)
    assert len(made.video_frames) == FRAMES


def test_models_that_leave_no_room_stop_the_start_with_what_to_do(
    make_pipeline: MakePipeline, used_bytes: list[int]
) -> None:
    used_bytes[0] = 20 * GB
    with pytest.raises(VortexInitializationError, match=r"^the models alone: .*hard_limit_gb"):
        make_pipeline(SmallModels())


def test_registry_gives_models_by_name_and_lists_them(make_pipeline: MakePipeline) -> None:
    models = SmallModels()
    registry = make_pipeline(models).models
    assert registry.get_model("small") is models
    assert "small" in registry
    assert "gpt" not in registry
    assert registry.revisions == {"small": "1"}
    with pytest.raises(KeyError, match="known are small"):
        registry.get_model("gpt")


# Two slots


async def test_each_model_is_used_by_one_slot_at_a_time(make_pipeline: MakePipeline) -> None:
    alone: list[bool] = []

    def noting(lock: threading.Lock) -> Work:
        def work(_: CancellationToken) -> None:
            alone.append(free := lock.acquire(blocking=False))
            threading.Event().wait(0.02)
            if free:
                lock.release()

        return work

    speech, picture = threading.Lock(), threading.Lock()
    locks = {"audio": speech, "image": picture, "prompt": picture}
    models = SmallModels(work={stage: noting(lock) for stage, lock in locks.items()})
    pipeline = make_pipeline(models)
    recipe = as_recipe(RECIPE)
    await asyncio.gather(
        pipeline._generate_audio(recipe),
        pipeline._generate_audio(recipe),
        pipeline._generate_actor(recipe),
        pipeline.encode_prompt(recipe, SEED),
    )
    assert models.asked["prompt"]["prompt"] == recipe.visual_track.prompt
    assert alone == [True] * 4


async def test_speech_is_made_during_the_video_of_another_slot(make_pipeline: MakePipeline) -> None:
    speaking, rendering = threading.Event(), threading.Event()

    def meet(own: threading.Event, other: threading.Event) -> Work:
        def work(_: CancellationToken) -> None:
            own.set()
            assert other.wait(LIMIT_S)

        return work

    models = SmallModels(
        work={"audio": meet(speaking, rendering), "video": meet(rendering, speaking)}
    )
    pipeline = make_pipeline(models)
    recipe = as_recipe(RECIPE)
    await asyncio.gather(
        pipeline._generate_video(torch.zeros(1, 3, SIZE, SIZE), torch.zeros(SAMPLE_RATE_HZ)),
        pipeline._generate_audio(recipe),
    )
