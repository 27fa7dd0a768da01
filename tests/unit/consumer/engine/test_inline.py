"""The engine inside the worker's own process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from consumer.config import WorkerConfig
from consumer.engine import slot_maker
from consumer.engine.base import EngineLostError, EngineStartError, SlotMade, SlotRequest
from consumer.engine.inline import InlineEngine
from consumer.job import TickKey
from schemas import Recipe
from tests.support.film_pipeline import FilmPipeline
from tests.support.jobs import tick
from tests.support.pipelines import RECIPE
from vortex.errors import DeviceLostError


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
    with pytest.raises(EngineLostError, match="device-side assert"):
        await engine.run(request)
    assert not engine.ready
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
    result = await engine.run(
        SlotRequest(TickKey("slot.ticks", 0, 1), 1, "main", recipe, 7, time.monotonic() + 60, True)
    )
    assert isinstance(result, SlotMade)
    predicted_s = engine.predict_s(recipe)
    await engine.stop()
    assert predicted_s is not None
    assert engine.predict_s(recipe) == predicted_s


async def test_missing_signing_key_stops_the_start_with_one_line(tmp_path: Path) -> None:
    loaded = WorkerConfig.load()
    files = {"cert_file": tmp_path / "chain.pem", "key_file": tmp_path / "slots.key"}
    credentials = loaded.artifacts.credentials.model_copy(update=files)
    artifacts = {"url": str(tmp_path / "slots"), "credentials": credentials}
    config = loaded.model_copy(update={"artifacts": loaded.artifacts.model_copy(update=artifacts)})
    with pytest.raises(EngineStartError, match=r"cert_file .*chain\.pem cannot be read") as caught:
        await InlineEngine(config).start()
    assert "\n" not in str(caught.value)
