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
