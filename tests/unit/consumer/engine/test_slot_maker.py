from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from consumer.artifacts import encoder
from consumer.artifacts.credentials import ManifestSigner
from consumer.artifacts.store import ArtifactStore
from consumer.artifacts.watermark import Watermark
from consumer.config import WorkerConfig
from consumer.engine.base import (
    EngineLostError,
    EngineResult,
    SlotMade,
    SlotNotMade,
    SlotRequest,
)
from consumer.engine.slot_maker import SlotMaker
from consumer.job import TickKey
from schemas import MissReason, Recipe
from tests.support.film_pipeline import FilmPipeline
from tests.support.models import link_models
from tests.support.pipelines import RECIPE, PlainPipeline, verdict
from vortex.errors import StageHungError
from vortex.models.clip_ensemble import DualClip, DualClipResult
from vortex.models.kokoro.speech import Speech, TimedWord
from vortex.orchestration import StageEstimates
from vortex.pipeline import ModelRegistry
from vortex.slot import SlotContext, SlotListener


class ClipPipeline(PlainPipeline):
    """Fails in its first stage, and has the real self-check's models."""

    device_title: ClassVar[str] = "cpu"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.audio.errors = [RuntimeError("work began")]
        clip = DualClip.load(directory, device=torch.device("cpu"))
        self.models = ModelRegistry({"clip": clip}, {})


class SpokenFilm(FilmPipeline):
    """Knows the words that it says, as a speech model does."""

    async def _generate_audio(self, recipe: Recipe, slot: SlotContext) -> torch.Tensor:
        waveform = await super()._generate_audio(recipe, slot)
        said = (TimedWord("Good", 0.1, 0.3), TimedWord("evening.", 0.3, 0.8))
        slot.speech = Speech(waveform.numpy(), (), "none", truncated=False, words=said)
        return waveform


class ScriptedFilm(FilmPipeline):
    """Counts what it speaks, by script; speaks and renders for as long as a test holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.spoken: Counter[str] = Counter()
        self.stopped: list[str] = []
        self.encoded: list[str] = []
        self.holds: dict[str, asyncio.Event] = {}
        """Speech of these scripts goes on until they are set."""
        self.errors: list[Exception] = []
        """Raised by the first attempts to speak, one each."""
        self.encode_error: Exception | None = None
        self.encode_s = 0.0
        self.scores = [0.8, 0.8]
        """Of the self-check, seed by seed; the last one stays."""
        self.on_video: Callable[[SlotContext], Awaitable[None]] | None = None

    async def encode_prompt(self, recipe: Recipe, seed: int) -> None:
        self.encoded.append(recipe.visual_track.prompt)
        await asyncio.sleep(self.encode_s)
        if self.encode_error is not None:
            raise self.encode_error

    async def _generate_audio(self, recipe: Recipe, slot: SlotContext) -> torch.Tensor:
        script = recipe.audio_track.script
        self.spoken[script] += 1
        try:
            if script in self.holds:
                await self.holds[script].wait()
        except asyncio.CancelledError:
            self.stopped.append(script)
            raise
        if self.errors:
            raise self.errors.pop(0)
        waveform = await super()._generate_audio(recipe, slot) * (len(script) / 100)
        slot.speech = Speech(waveform.numpy(), (), "none", truncated=False, text=script)
        return waveform

    async def _generate_video(
        self, image: torch.Tensor, audio: torch.Tensor, slot: SlotContext
    ) -> torch.Tensor:
        if self.on_video is not None:
            await self.on_video(slot)
        return await super()._generate_video(image, audio, slot)

    async def _verify_semantic(
        self, video: torch.Tensor, recipe: Recipe, slot: SlotContext
    ) -> DualClipResult:
        score = self.scores.pop(0) if len(self.scores) > 1 else self.scores[0]
        return verdict(video, score, score)


class RejectedPipeline(PlainPipeline):
    """Makes videos that the self-check rejects, whatever the seed."""

    device_title: ClassVar[str] = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.scores = 0.1, 0.1


async def made(config: WorkerConfig, pipeline: Any, **constraints: Any) -> EngineResult:
    estimates = StageEstimates(config.orchestration.timeouts.by_stage())
    maker = SlotMaker(config, pipeline, ArtifactStore(config.artifacts.url, {}), estimates, None)
    recipe = Recipe.model_validate({**RECIPE, "semantic_constraints": constraints})
    key = TickKey("slot.ticks", 0, 0)
    request = SlotRequest(key, 1, "main", recipe, seed=1, deadline_s=time.monotonic() + 60)
    return await maker.make(request, SlotListener())


@pytest.mark.parametrize(
    ("constraints", "word"),
    [
        ({"banned_concepts": ["a hat", "a dragon"]}, "'dragon'"),
        ({"required_concepts": ["a beach"]}, "'beach'"),
        ({"min_clip_score": 0.5}, "'newsreader'"),
    ],
)
async def test_demand_that_no_self_check_can_decide_is_refused_before_any_work(
    constraints: dict[str, Any], word: str, mini_config: WorkerConfig
) -> None:
    pipeline = ClipPipeline(mini_config.models.profile_directory)
    result = await made(mini_config, pipeline, **constraints)
    assert isinstance(result, SlotNotMade)
    assert result.reason is MissReason.REJECTED
    assert word in result.detail
    assert pipeline.audio.started == pipeline.image.started == 0


async def test_demand_in_known_words_is_worked_on(mini_config: WorkerConfig) -> None:
    pipeline = ClipPipeline(mini_config.models.profile_directory)
    result = await made(mini_config, pipeline, banned_concepts=["a hat"])
    assert isinstance(result, SlotNotMade)
    assert result.reason is MissReason.FAILED
    assert pipeline.audio.started > 0


@pytest.mark.parametrize(
    ("constraints", "seeds"), [({}, 4), ({"max_seeds": 1}, 1), ({"max_seeds": 6}, 6)]
)
async def test_as_many_seeds_are_tried_as_the_recipe_says(
    constraints: dict[str, Any], seeds: int, mini_config: WorkerConfig
) -> None:
    pipeline = RejectedPipeline()
    result = await made(mini_config, pipeline, **constraints)
    assert isinstance(result, SlotNotMade)
    assert result.reason is MissReason.REJECTED
    assert result.detail == f"the self-check failed with {seeds} of at most {seeds} seeds"
    assert pipeline.clip.finished == seeds


async def test_nothing_that_goes_on_air_is_made_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    threads: dict[str, set[int]] = {}

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            threads.setdefault(name, set()).add(threading.get_ident())
            return function(*args, **kwargs)

        return noted

    for owner, name in (
        (encoder, "levelled"),
        (encoder, "measure_file"),
        (encoder, "cues_of"),
        (encoder, "as_webvtt"),
        (encoder, "sha256_of"),
        (Watermark, "apply"),
        (ManifestSigner, "sign"),
        (ArtifactStore, "put"),
    ):
        monkeypatch.setattr(owner, name, noting(name, getattr(owner, name)))
    loaded = WorkerConfig.load()
    config = loaded.model_copy(
        update={
            "artifacts": loaded.artifacts.model_copy(update={"url": str(tmp_path)}),
            "models": loaded.models.model_copy(update={"directory": tmp_path}),
        }
    )
    estimates = StageEstimates(config.orchestration.timeouts.by_stage())
    store = ArtifactStore(config.artifacts.url)
    signer = ManifestSigner.self_made()
    maker = SlotMaker(config, SpokenFilm(), store, estimates, signer)
    recipe = Recipe.model_validate(RECIPE)
    request = SlotRequest(TickKey("slot.ticks", 0, 0), 1, "main", recipe, 1, time.monotonic() + 60)
    assert isinstance(await maker.make(request, SlotListener()), SlotMade)
    assert len(threads) == 8
    assert all(threading.get_ident() not in used for used in threads.values()), threads


# Speaking ahead

FIRST, SECOND = "Good evening, here is the news.", "And now the weather."


@pytest.fixture
def film() -> ScriptedFilm:
    return ScriptedFilm()


@pytest.fixture
def maker(film: ScriptedFilm, tmp_path: Path) -> SlotMaker:
    return maker_of(film, tmp_path)


def maker_of(film: ScriptedFilm, directory: Path, **limits_s: float) -> SlotMaker:
    """Return a slot maker around a film that says nothing of its models."""
    loaded = WorkerConfig.load()
    timeouts = loaded.orchestration.timeouts.model_copy(update=limits_s)
    config = loaded.model_copy(
        update={
            "orchestration": loaded.orchestration.model_copy(update={"timeouts": timeouts}),
            "artifacts": loaded.artifacts.model_copy(update={"url": str(directory / "slots")}),
            "models": loaded.models.model_copy(update={"directory": directory}),
        }
    )
    estimates = StageEstimates(config.orchestration.timeouts.by_stage())
    store = ArtifactStore(config.artifacts.url)
    return SlotMaker(config, film, store, estimates, None)  # type: ignore[arg-type]


def requested(script: str) -> SlotRequest:
    """Return the request for the slot of a script; each script has one slot."""
    recipe = Recipe.model_validate({**RECIPE, "audio_track": {"script": script}})
    key = TickKey("slot.ticks", 0, len(script))
    return SlotRequest(key, len(script), "main", recipe, seed=1, deadline_s=time.monotonic() + 60)


async def speaking(maker: SlotMaker, film: ScriptedFilm, script: str) -> asyncio.Task[None]:
    """Begin to speak a slot ahead, and wait until its speech has begun."""
    task = asyncio.create_task(maker.speak_ahead(requested(script), SlotListener()))
    async with asyncio.timeout(10.0):
        while not film.spoken[script]:
            await asyncio.sleep(0)
    return task


async def made_of(maker: SlotMaker, script: str) -> SlotMade:
    result = await maker.make(requested(script), SlotListener())
    assert isinstance(result, SlotMade), result
    return result


async def media_without(script: str, directory: Path) -> str:
    """Return the checksum of a slot's media, made without anything ahead."""
    return media_of(await made_of(maker_of(ScriptedFilm(), directory / "alone"), script))


def media_of(made: SlotMade) -> str:
    assert made.provenance is not None
    return made.provenance.media_sha256


async def test_slot_that_was_spoken_ahead_is_the_same_and_spoken_once(
    maker: SlotMaker, film: ScriptedFilm, tmp_path: Path
) -> None:
    await maker.speak_ahead(requested(SECOND), SlotListener())
    assert film.encoded == [RECIPE["visual_track"]["prompt"]]
    made = await made_of(maker, SECOND)
    assert film.spoken == {SECOND: 1}
    assert media_of(made) == await media_without(SECOND, tmp_path)
    assert made.speech is not None
    assert made.speech.spoken == SECOND


async def test_slot_whose_speech_is_still_being_made_waits_for_it(
    maker: SlotMaker, film: ScriptedFilm, tmp_path: Path
) -> None:
    film.holds[SECOND] = asyncio.Event()
    ahead = await speaking(maker, film, SECOND)
    making = asyncio.create_task(made_of(maker, SECOND))
    await asyncio.wait({making}, timeout=0.05)
    film.holds[SECOND].set()
    assert media_of(await making) == await media_without(SECOND, tmp_path)
    await ahead
    assert film.spoken == {SECOND: 1}


async def test_speech_of_another_slot_is_stopped_and_never_used(
    maker: SlotMaker, film: ScriptedFilm, tmp_path: Path
) -> None:
    film.holds[SECOND] = asyncio.Event()
    ahead = await speaking(maker, film, SECOND)
    made = await made_of(maker, FIRST)
    await ahead
    assert film.stopped == [SECOND]
    assert media_of(made) == await media_without(FIRST, tmp_path)
    film.holds.clear()
    assert media_of(await made_of(maker, SECOND)) == await media_without(SECOND, tmp_path)
    assert film.spoken == {FIRST: 1, SECOND: 2}


async def test_all_seeds_of_a_slot_that_was_spoken_ahead_say_the_same(
    maker: SlotMaker, film: ScriptedFilm
) -> None:
    maker._enforce = True
    film.scores = [0.1, 0.1, 0.8]
    await maker.speak_ahead(requested(SECOND), SlotListener())
    made = await made_of(maker, SECOND)
    assert made.seed == 3
    assert film.spoken == {SECOND: 1}


async def test_another_seed_has_the_speech_model_for_itself(
    maker: SlotMaker, film: ScriptedFilm
) -> None:
    maker._enforce = True
    film.scores = [0.1, 0.8]
    film.holds[SECOND] = asyncio.Event()
    ahead: list[asyncio.Task[None]] = []

    async def speak(slot: SlotContext) -> None:
        if not ahead:
            ahead.append(await speaking(maker, film, SECOND))
        else:
            assert film.stopped == [SECOND]

    film.on_video = speak
    made = await made_of(maker, FIRST)
    await ahead[0]
    assert made.seed == 2
    assert film.spoken == {FIRST: 2, SECOND: 1}


async def test_speech_that_fails_ahead_is_tried_again_by_its_slot(
    maker: SlotMaker, film: ScriptedFilm, caplog: pytest.LogCaptureFixture
) -> None:
    film.errors = [RuntimeError("no voice")]
    film.encode_error = RuntimeError("no encoder")
    with caplog.at_level(logging.INFO):
        await maker.speak_ahead(requested(SECOND), SlotListener())
        await made_of(maker, SECOND)
    assert film.spoken == {SECOND: 2}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_prompt_that_cannot_be_encoded_ahead_leaves_the_speech(
    maker: SlotMaker, film: ScriptedFilm
) -> None:
    film.encode_error = RuntimeError("no encoder")
    await maker.speak_ahead(requested(SECOND), SlotListener())
    film.encode_error = None
    await made_of(maker, SECOND)
    assert film.spoken == {SECOND: 1}


async def test_prompt_has_the_limit_of_the_portrait_ahead(
    film: ScriptedFilm, tmp_path: Path
) -> None:
    maker = maker_of(film, tmp_path, image_s=0.05)
    film.encode_s = 60.0
    async with asyncio.timeout(30.0):
        await maker.speak_ahead(requested(SECOND), SlotListener())
    assert film.spoken == {SECOND: 1}


@pytest.mark.parametrize("where", ["speech", "prompt"])
async def test_work_ahead_that_hangs_costs_the_engine(
    where: str, maker: SlotMaker, film: ScriptedFilm
) -> None:
    hung = StageHungError("a cancelled stage was still running")
    film.errors = [hung] if where == "speech" else []
    film.encode_error = hung if where == "prompt" else None
    with pytest.raises(EngineLostError, match="still running"):
        await maker.speak_ahead(requested(SECOND), SlotListener())


async def test_speech_ahead_that_is_cancelled_is_stopped_before_the_call_ends(
    maker: SlotMaker, film: ScriptedFilm
) -> None:
    film.holds[SECOND] = asyncio.Event()
    ahead = await speaking(maker, film, SECOND)
    ahead.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ahead
    assert film.stopped == [SECOND]


async def test_without_a_calibration_the_self_check_reports_and_says_so_once(
    mini_config: WorkerConfig, mini_models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = link_models(mini_models, tmp_path) / "mini"
    for path in directory.glob("calibration.*"):
        path.unlink()
    pipeline = ClipPipeline(directory)
    result = await made(mini_config, pipeline, banned_concepts=["a dragon"])
    assert isinstance(result, SlotNotMade)
    assert result.reason is MissReason.FAILED  # and not rejected: the demand is not enforced
    said = [record.getMessage() for record in caplog.records if "only reports" in record.msg]
    assert said == [
        "The self-check only reports: profile mini is not calibrated; run `vortex models calibrate`"
    ]


async def test_with_a_calibration_nothing_is_said(
    mini_config: WorkerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    await made(mini_config, ClipPipeline(mini_config.models.profile_directory))
    assert not [record for record in caplog.records if "only reports" in record.msg]
