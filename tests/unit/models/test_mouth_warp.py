from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vortex.models.kokoro import SAMPLE_RATE_HZ, Speech
from vortex.models.mouth_warp import MouthWarp
from vortex.utils.cancellation import CancellationToken, StageCancelled

FPS = 12
FRAMES = 3 * FPS
SIZE = 128
LOUD = slice(FPS, 2 * FPS)

# Where the mouth opens, in a square of 128 pixels.
MOUTH = (..., slice(88, 96), slice(56, 72))
FOREHEAD = (..., slice(0, 84), slice(None))
LEVELS_PER_PIXEL = 255 / (SIZE - 1)  # of the ramp below
SWAY_PIXELS = 0.012 * (SIZE - 1) / 2


def spoken(*loudness: float) -> Speech:
    """Return a tone that has each loudness for a second."""
    time_s = np.arange(len(loudness) * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tone = np.sin(2 * np.pi * 220 * time_s) * np.repeat(loudness, SAMPLE_RATE_HZ)
    return Speech(tone.astype(np.float32), (), voice_id="", truncated=False)


MUTE = spoken(0, 0, 0)
WORD = spoken(0, 0.5, 0)


def ramp() -> torch.Tensor:
    """Return a portrait that grows evenly brighter from left to right."""
    return torch.linspace(0, 1, SIZE).expand(1, 3, SIZE, SIZE)


def noise(height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def batches(speech: Speech = WORD, **changes: Any) -> list[torch.Tensor]:
    settings: dict[str, Any] = {
        "portrait": ramp(),
        "fps": FPS,
        "frame_count": FRAMES,
        "width": SIZE,
        "height": SIZE,
        "expressions": ["neutral"],
        "seed": 1,
        "batch_frames": 12,
        "token": CancellationToken(),
    }
    return list(MouthWarp().animate(speech=speech, **{**settings, **changes}))


def animate(speech: Speech = WORD, **changes: Any) -> torch.Tensor:
    return torch.cat(batches(speech, **changes))


def difference(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return how far bytes are apart."""
    return (first.int() - second.int()).abs()


def test_silence_moves_the_picture_by_no_more_than_the_sway() -> None:
    still = (ramp() * 255).round()
    assert difference(animate(MUTE), still).max() <= LEVELS_PER_PIXEL * SWAY_PIXELS + 1


def test_speech_moves_the_mouth_and_leaves_the_upper_face_alone() -> None:
    change = difference(animate(WORD), animate(MUTE)).float()
    assert change[: LOUD.start].max() == 0
    assert change[FOREHEAD].max() == 0
    assert change[LOUD][MOUTH].mean() > 50
    assert change[LOUD][MOUTH].mean() > 10 * change[LOUD].mean()


@pytest.mark.parametrize("batch_frames", [1, 5, FRAMES, FRAMES + 1])
def test_batch_size_does_not_change_the_frames(batch_frames: int) -> None:
    arguments: dict[str, Any] = {"portrait": noise(), "expressions": ["calm", "manic"]}
    made = batches(batch_frames=batch_frames, **arguments)
    assert {len(batch) for batch in made[:-1]} <= {batch_frames}
    assert torch.equal(torch.cat(made), animate(**arguments))


@pytest.mark.parametrize(
    ("frame_count", "width", "height"), [(1, 64, 64), (13, 96, 64), (25, 64, 96)]
)
def test_video_has_exactly_the_frames_and_pixels_asked_for(
    frame_count: int, width: int, height: int
) -> None:
    video = animate(portrait=noise(80, 112), frame_count=frame_count, width=width, height=height)
    assert video.shape == (frame_count, 3, height, width)
    assert video.dtype == torch.uint8


def test_seed_decides_the_sway() -> None:
    video = animate(MUTE, portrait=noise())
    assert torch.equal(animate(MUTE, portrait=noise()), video)
    assert not torch.equal(animate(MUTE, portrait=noise(), seed=2), video)


def test_livelier_expression_sways_further() -> None:
    still = (ramp() * 255).round()
    calm, manic = (
        difference(animate(MUTE, expressions=[expression]), still).float().mean()
        for expression in ("calm", "manic")
    )
    assert manic > 2 * calm > 0


def test_cancelled_animation_ends_before_the_next_batch() -> None:
    token = CancellationToken()
    animation = MouthWarp().animate(
        ramp(),
        WORD,
        fps=FPS,
        frame_count=FRAMES,
        width=SIZE,
        height=SIZE,
        expressions=["neutral"],
        seed=1,
        batch_frames=5,
        token=token,
    )
    assert len(next(animation)) == 5
    token.cancel()
    with pytest.raises(StageCancelled):
        next(animation)
