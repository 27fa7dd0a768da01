"""Scripts that are valid and take long to speak, through the engine and the mini models."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from consumer.config import WorkerConfig
from consumer.engine.base import SlotMade, SlotNotMade, SlotRequest
from consumer.engine.inline import InlineEngine
from consumer.job import TickKey
from schemas import AudioTrack, MissReason, Recipe, SlotParams, Stage, VisualTrack
from vortex.models.kokoro.onnx_backend import OnnxBackend

pytestmark = pytest.mark.models

HTML = '<p class="a">&amp;&nbsp;&copy; <b>$$$ ### @@@ %%% &&& ***</b></p>'
ONE_SENTENCE = "It rains in the north, and " * 23


def recipe(script: str, duration_s: float = 1.0) -> Recipe:
    return Recipe(
        slot_params=SlotParams(duration_sec=duration_s, fps=12, resolution="128x128"),
        audio_track=AudioTrack(script=script),
        visual_track=VisualTrack(prompt="a woman with short red hair in a green coat"),
        seed=7,
    )


def request(wanted: Recipe) -> SlotRequest:
    return SlotRequest(
        key=TickKey("slot.ticks", 0, 5),
        slot_id=5,
        channel="main",
        recipe=wanted,
        seed=7,
        deadline_s=time.monotonic() + 300,
    )


@contextlib.asynccontextmanager
async def engine(config: WorkerConfig, audio_s: float) -> AsyncIterator[InlineEngine]:
    """Give an engine that tries to speak once, for so many seconds, and must stop in one."""
    settings = config.orchestration
    orchestration = settings.model_copy(
        update={
            "timeouts": settings.timeouts.model_copy(update={"audio_s": audio_s}),
            "retry_policy": settings.retry_policy.model_copy(update={"audio": 0}),
        }
    )
    # Speaking the long sentence to its end takes several times as long, on two cores.
    pipeline = config.pipeline.model_copy(update={"cancel_grace_s": 1.0})
    started = InlineEngine(
        config.model_copy(update={"orchestration": orchestration, "pipeline": pipeline})
    )
    await started.start()
    try:
        yield started
    finally:
        await started.stop()


async def test_slow_script_is_a_miss_and_the_same_engine_makes_the_next_slot(
    mini_config: WorkerConfig,
) -> None:
    async with engine(mini_config, audio_s=0.5) as hasty:
        missed = await hasty.run(request(recipe(ONE_SENTENCE, duration_s=45.0)))
        assert isinstance(missed, SlotNotMade)
        assert (missed.reason, missed.stage) == (MissReason.TIMEOUT, Stage.AUDIO)

        scheduler = hasty._maker.scheduler  # type: ignore[union-attr]
        scheduler.timeouts = {**scheduler.timeouts, "audio_s": 120.0}
        assert isinstance(await hasty.run(request(recipe("Good evening."))), SlotMade)


@pytest.mark.parametrize("script", ["7" * 4000, HTML], ids=["digits", "html"])
async def test_hostile_script_is_spoken_no_further_than_its_slot_reaches(
    script: str, mini_config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ordinary speech has 14 to 21 tokens a second; the cut may speak them once more."""
    given: list[int] = []
    run = OnnxBackend.run

    def counted(backend: OnnxBackend, tokens: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        given.append(len(tokens))
        return run(backend, tokens, *args, **kwargs)

    monkeypatch.setattr(OnnxBackend, "run", counted)
    async with engine(mini_config, audio_s=120.0) as patient:
        made = await patient.run(request(recipe(script, duration_s=1.0)))
    assert isinstance(made, SlotMade)
    assert made.artifact.duration_s == 1.0
    assert 0 < sum(given) <= 100
