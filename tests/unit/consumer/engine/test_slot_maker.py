from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from consumer.artifacts.store import ArtifactStore
from consumer.config import WorkerConfig
from consumer.engine.base import EngineResult, SlotNotMade, SlotRequest
from consumer.engine.slot_maker import SlotMaker
from consumer.job import TickKey
from schemas import MissReason, Recipe
from tests.support.models import link_models
from tests.support.pipelines import RECIPE, PlainPipeline
from vortex.models.clip_ensemble import DualClip
from vortex.orchestration import StageEstimates
from vortex.pipeline import ModelRegistry
from vortex.slot import SlotListener


class ClipPipeline(PlainPipeline):
    """Fails in its first stage, and has the real self-check's models."""

    device_title: ClassVar[str] = "cpu"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.audio.errors = [RuntimeError("work began")]
        clip = DualClip.load(directory, device=torch.device("cpu"))
        self.models = ModelRegistry({"clip": clip}, {})


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
