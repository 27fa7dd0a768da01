from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from consumer.artifacts import encoder
from consumer.artifacts.credentials import ManifestSigner
from consumer.artifacts.store import ArtifactStore
from consumer.artifacts.watermark import Watermark
from consumer.config import WorkerConfig
from consumer.engine.base import EngineResult, SlotMade, SlotNotMade, SlotRequest
from consumer.engine.slot_maker import SlotMaker
from consumer.job import TickKey
from schemas import MissReason, Recipe
from tests.support.film_pipeline import FilmPipeline
from tests.support.models import link_models
from tests.support.pipelines import RECIPE, PlainPipeline
from vortex.models.clip_ensemble import DualClip
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
