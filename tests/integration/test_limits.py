"""What the engine with the mini models makes, tries and refuses within its limits."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.config import WorkerConfig
from consumer.engine.base import SlotMade, SlotNotMade, SlotRequest
from consumer.engine.inline import InlineEngine
from consumer.job import Job
from schemas import MissReason, Recipe, SemanticConstraints, SlotParams, SlotTick
from schemas.examples import example_events
from tests.support.cases import slow_but
from tests.support.jobs import job
from tests.support.models import link_models
from tests.support.waiting import until
from vortex.orchestration.estimates import STAGES

pytestmark = pytest.mark.models

ROOT = Path(__file__).parents[2]
DEADLINE_S = 45.0
FULL_SLOT = SlotParams(duration_sec=45.0, fps=24, resolution="512x512")


def readme_recipe() -> Recipe:
    """Return the recipe of the README's example tick."""
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (text,) = [block for block in blocks if "recipe" in json.loads(block)]
    return SlotTick.model_validate_json(text).recipe


def with_config(config: WorkerConfig, section: str, **changes: Any) -> WorkerConfig:
    part = getattr(config, section).model_copy(update=changes)
    return config.model_copy(update={section: part})


def request(one: Job) -> SlotRequest:
    return SlotRequest(
        key=one.key,
        slot_id=one.tick.slot_id,
        channel=one.tick.channel,
        recipe=one.recipe,
        seed=one.seed,
        deadline_s=one.deadline_s,
    )


def with_timeouts(config: WorkerConfig, seconds: float) -> WorkerConfig:
    timeouts = config.orchestration.timeouts.model_copy(
        update={f"{stage}_s": seconds for stage in STAGES}
    )
    return with_config(config, "orchestration", timeouts=timeouts)


@asynccontextmanager
async def started(config: WorkerConfig) -> AsyncIterator[InlineEngine]:
    engine = InlineEngine(config)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Give what collects the spans of the scheduler: its stages and attempts."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("vortex.orchestration.scheduler.tracer", provider.get_tracer("test"))
    return exporter


@pytest.mark.parametrize("which", slow_but(["the longest"], ["the longest", "all"]))
async def test_example_ticks_are_made_and_a_full_slot_is_refused_at_once(
    which: str, mini_config: WorkerConfig, spans: InMemorySpanExporter
) -> None:
    async with started(with_config(mini_config, "pipeline", warmup=True)) as engine:
        spans.clear()
        full = job(1, recipe=readme_recipe().model_copy(update={"slot_params": FULL_SLOT}))
        refusal = engine.rule_out(full.recipe)
        assert refusal is not None
        words = re.fullmatch(
            r"the video would take about (\d+) s, over its limit of 20 s"
            r" \(orchestration\.timeouts\.video_s\)",
            refusal,
        )
        assert words is not None, refusal
        assert int(words[1]) > 20

        refused = await engine.run(request(full))
        assert isinstance(refused, SlotNotMade)
        assert (refused.reason, refused.stage) == (MissReason.PREDICTED, None)
        assert refused.detail.startswith("Deadline miss predicted before any work: the video ")
        assert spans.get_finished_spans() == ()  # no stage was started

        # Their length and format are the claim, not what the small self-check knows of concepts.
        unconstrained = {"semantic_constraints": SemanticConstraints()}
        examples = [
            event.recipe.model_copy(update=unconstrained)
            for event in example_events().values()
            if isinstance(event, SlotTick)
        ]
        recipes = [readme_recipe(), *examples]
        assert [engine.rule_out(recipe) for recipe in recipes] == len(recipes) * [None]
        recipes.sort(key=lambda recipe: recipe.slot_params.duration_sec, reverse=True)
        for slot_id, recipe in enumerate(recipes if which == "all" else recipes[:1], start=2):
            made = await engine.run(request(job(slot_id, recipe=recipe)))
            assert isinstance(made, SlotMade), made


@pytest.mark.slow
async def test_warm_up_does_not_refuse_itself_whatever_the_timeouts(
    mini_config: WorkerConfig,
) -> None:
    config = with_config(mini_config, "pipeline", warmup=True)
    async with started(with_timeouts(config, 300.0)) as engine:
        assert engine.predict_s(job(1).recipe) is not None


@pytest.mark.slow
async def test_worker_without_a_warm_up_tries_its_first_slot_and_the_next_one_knows_of_it(
    mini_config: WorkerConfig, tmp_path: Path
) -> None:
    models = link_models(mini_config.models.directory, tmp_path)
    config = with_config(with_timeouts(mini_config, 300.0), "models", directory=models)
    async with started(config) as engine:
        one = job(1, recipe=readme_recipe())
        assert engine.predict_s(one.recipe) is None
        assert engine.rule_out(one.recipe) is None
        made = await engine.run(request(one))
        assert isinstance(made, SlotMade), made
        predicted_s = engine.predict_s(one.recipe)
        assert predicted_s is not None
        assert predicted_s < DEADLINE_S
        kept = config.models.profile_directory / "estimates.cpu.json"
        await until(kept.exists)
    async with started(config) as engine:
        assert engine.predict_s(one.recipe) == pytest.approx(predicted_s)
