"""The engine inside the worker's own process."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest

from consumer.config import WorkerConfig
from consumer.engine import slot_maker
from consumer.engine.base import EngineLostError, EngineStartError, SlotMade, SlotRequest
from consumer.engine.inline import InlineEngine
from consumer.engine.predictions import Predictions
from consumer.job import TickKey
from schemas import Recipe
from tests.support.film_pipeline import FilmPipeline
from tests.support.jobs import tick
from tests.support.pipelines import RECIPE
from vortex.errors import DeviceLostError
from vortex.orchestration import StageEstimates
from vortex.orchestration.estimates import work_units


class PipelineOfALostDevice(FilmPipeline):
    """Its GPU is in an error state that only a new process clears."""

    async def _generate_audio(self, *_: Any) -> Any:
        raise DeviceLostError("GPU error in stage audio: device-side assert")


async def test_engine_whose_device_is_lost_is_not_ready_until_it_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(slot_maker, "_load_pipeline", lambda _: PipelineOfALostDevice())
    loaded = WorkerConfig.load()
    config = loaded.model_copy(
        update={
            "artifacts": loaded.artifacts.model_copy(update={"url": str(tmp_path / "slots")}),
            "models": loaded.models.model_copy(update={"directory": tmp_path}),
            "pipeline": loaded.pipeline.model_copy(update={"warmup": False}),
        }
    )
    engine = InlineEngine(config)
    await engine.start()
    assert engine.ready
    request = SlotRequest(
        TickKey("slot.ticks", 0, 1), 1, "main", tick(1).recipe, 7, time.monotonic() + 60, True
    )
    for work in (engine.run, engine.speak_ahead):
        with pytest.raises(EngineLostError, match="device-side assert"):
            await work(request)
        assert not engine.ready
        with pytest.raises(EngineLostError, match="not started"):
            await work(request)
        await engine.stop()
        await engine.start()
        assert engine.ready
    await engine.stop()


async def test_slots_are_predicted_while_the_models_are_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(slot_maker, "_load_pipeline", lambda _: FilmPipeline())
    loaded = WorkerConfig.load()
    config = loaded.model_copy(
        update={
            "artifacts": loaded.artifacts.model_copy(update={"url": str(tmp_path / "slots")}),
            "models": loaded.models.model_copy(update={"directory": tmp_path}),
            "pipeline": loaded.pipeline.model_copy(update={"warmup": False}),
        }
    )
    engine = InlineEngine(config)
    recipe = Recipe.model_validate(RECIPE)
    await engine.start()
    assert engine.predict_s(recipe) is None
    assert engine.speech_room_s(recipe) == math.inf
    result = await engine.run(
        SlotRequest(TickKey("slot.ticks", 0, 1), 1, "main", recipe, 7, time.monotonic() + 60, True)
    )
    assert isinstance(result, SlotMade)
    predicted_s = engine.predict_s(recipe)
    await engine.stop()
    assert predicted_s is not None
    assert engine.predict_s(recipe) == predicted_s


@pytest.mark.parametrize("speech", [True, False])
async def test_speech_ahead_needs_its_own_time_and_the_buffer_unless_it_is_switched_off(
    speech: bool,
) -> None:
    orchestration = WorkerConfig.load().orchestration
    overlap = orchestration.overlap.model_copy(update={"speech": speech})
    estimates = StageEstimates(orchestration.timeouts.by_stage())
    switched = orchestration.model_copy(update={"overlap": overlap})
    predictions = Predictions(switched, estimates)
    recipe = Recipe.model_validate(RECIPE)
    estimates.observe("audio", 2.0, work_units(recipe)["audio"])
    assert predictions.speech_room_s(recipe) == math.inf  # of the slot itself, nothing is known
    for stage in ("image", "video", "clip"):
        estimates.observe(stage, 0.1)
    room_s = 2.0 + orchestration.deadline_buffer_s if speech else math.inf
    assert predictions.speech_room_s(recipe) == room_s


async def test_slot_that_the_limits_may_rule_out_is_not_spoken_ahead_and_not_counted() -> None:
    orchestration = WorkerConfig.load().orchestration
    estimates = StageEstimates(orchestration.timeouts.by_stage())
    predictions = Predictions(orchestration, estimates)
    for stage in ("audio", "image", "video", "clip"):
        estimates.observe(stage, 1.0)
    recipe = Recipe.model_validate({**RECIPE, "slot_params": {"duration_sec": 45.0, "fps": 24}})
    before = predictions.speech_room_s(recipe)
    assert before == math.inf
    assert all(predictions.speech_room_s(recipe) == before for _ in range(100))
    assert predictions.rule_out(recipe) is not None  # no refusal was counted


async def test_missing_signing_key_stops_the_start_with_one_line(tmp_path: Path) -> None:
    loaded = WorkerConfig.load()
    files = {"cert_file": tmp_path / "chain.pem", "key_file": tmp_path / "slots.key"}
    credentials = loaded.artifacts.credentials.model_copy(update=files)
    artifacts = {"url": str(tmp_path / "slots"), "credentials": credentials}
    config = loaded.model_copy(update={"artifacts": loaded.artifacts.model_copy(update=artifacts)})
    with pytest.raises(EngineStartError, match=r"cert_file .*chain\.pem cannot be read") as caught:
        await InlineEngine(config).start()
    assert "\n" not in str(caught.value)
