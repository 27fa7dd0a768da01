"""The mini models step down the quality ladder while a slot is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from consumer.config import WorkerConfig
from consumer.engine.base import SlotMade, SlotNotMade, SlotRequest
from consumer.engine.inline import InlineEngine
from consumer.job import TickKey
from schemas import AudioTrack, Recipe, SlotParams, VisualTrack
from tests.support.models import link_models
from vortex.models.liveportrait import LivePortrait
from vortex.rung import FULL, LADDER

pytestmark = pytest.mark.models

FPS, FRAMES = 12, 36
FAST_BATCHES, SLOW_BATCHES = 2, 7
RECIPE = Recipe(
    slot_params=SlotParams(duration_sec=FRAMES / FPS, fps=FPS, resolution="128x128"),
    audio_track=AudioTrack(script="Good evening."),
    visual_track=VisualTrack(prompt="a woman with short red hair in a green coat"),
)


def request(slot_id: int, left_s: float, **fields: Any) -> SlotRequest:
    deadline_s = time.monotonic() + left_s
    key = TickKey("slot.ticks", 0, slot_id)
    return SlotRequest(key, slot_id, "main", RECIPE, 7, deadline_s, admitted=True, **fields)


@contextmanager
def slowed_down(seconds: float) -> Iterator[None]:
    """Have every batch after a slot's first ones take so much longer."""
    draw: Callable[..., torch.Tensor] = LivePortrait._draw
    drawn: Iterator[int] = iter(range(10_000))

    def slow(*arguments: Any) -> torch.Tensor:
        if next(drawn) >= FAST_BATCHES:
            time.sleep(seconds)
        return draw(*arguments)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(LivePortrait, "_draw", slow)
        yield


def opened(made: SlotMade) -> tuple[np.ndarray, float]:
    """Return the frames of the stored file, `[T, H, W, 3]`, and the seconds of its sound."""
    with av.open(made.artifact.uri.removeprefix("file://")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        sound = container.streams.audio[0]
        sound_s = float((sound.duration or 0) * (sound.time_base or 0))
    return np.stack(frames).astype(np.float32), sound_s


def difference(video: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(video - other).mean())


@pytest.mark.timeout(600)
async def test_slot_that_would_miss_steps_down_in_its_middle_and_is_in_time_and_in_step(
    mini_config: WorkerConfig, tmp_path: Path
) -> None:
    models = mini_config.models.model_copy(
        update={
            "directory": link_models(mini_config.models.directory, tmp_path / "models"),
            "self_check": "report",
        }
    )
    limits_s = dict.fromkeys(mini_config.orchestration.timeouts.model_fields_set, 300.0)
    orchestration = mini_config.orchestration.model_copy(
        update={"timeouts": mini_config.orchestration.timeouts.model_copy(update=limits_s)}
    )
    pipeline = mini_config.pipeline.model_copy(update={"cancel_grace_s": 60.0})
    # The watermark tells the tick's place, and each slot here has another one.
    artifacts = mini_config.artifacts.model_copy(update={"watermark": False})
    changes = {
        "models": models,
        "orchestration": orchestration,
        "pipeline": pipeline,
        "artifacts": artifacts,
    }
    engine = InlineEngine(mini_config.model_copy(update=changes))
    await engine.start()
    try:
        ladder_off = await engine.run(request(1, 300.0, rungs=(FULL,)))  # finds everything cold
        began_s = time.monotonic()
        whole = await engine.run(request(2, 300.0, rungs=LADDER[:2]))
        usual_s = time.monotonic() - began_s
        assert isinstance(ladder_off, SlotMade)
        assert isinstance(whole, SlotMade)
        assert (whole.quality.rung, whole.quality.rung_reason) == ("full", None)
        # Where there is time enough, the ladder changes no bit.
        assert whole.provenance.media_sha256 == ladder_off.provenance.media_sha256
        assert whole.verification == ladder_off.verification

        pause_s = max(0.5, 0.8 * usual_s)
        buffer_s = mini_config.orchestration.deadline_buffer_s
        left_s = buffer_s + 1.5 * usual_s + 5.6 * pause_s
        assert left_s < usual_s + SLOW_BATCHES * pause_s + buffer_s
        with slowed_down(pause_s):
            forbidden = await engine.run(request(3, left_s, rungs=(FULL,)))
        assert isinstance(forbidden, SlotNotMade)

        asked = request(4, left_s, rungs=LADDER[:2])
        with slowed_down(pause_s):
            made = await engine.run(asked)
        assert time.monotonic() < asked.deadline_s
    finally:
        await engine.stop()
    assert isinstance(made, SlotMade), made
    assert made.quality.rung == "half"
    assert "of 36 frames" in (made.quality.rung_reason or "")
    assert FRAMES / 2 < made.quality.frames_computed < made.quality.frames_total == FRAMES

    frames, sound_s = opened(made)
    reference, reference_sound_s = opened(whole)
    assert len(frames) == len(reference) == FRAMES
    assert made.artifact.duration_s == whole.artifact.duration_s == FRAMES / FPS
    assert sound_s == reference_sound_s
    # In step: every moment looks like the same moment of the whole video, not like those around it.
    now = difference(frames[1:-1], reference[1:-1])
    assert now < difference(frames[1:-1], reference[:-2])
    assert now < difference(frames[1:-1], reference[2:])
