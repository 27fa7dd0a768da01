from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.vortex.models.liveportrait.test_liveportrait import MINI, recipe_networks
from vortex.models.kokoro import SAMPLE_RATE_HZ, Speech
from vortex.models.liveportrait import LivePortrait
from vortex.models.liveportrait.animator import LivePortraitAnimator
from vortex.utils.cancellation import CancellationToken, StageCancelled

FPS = 12
FRAMES = 15


@pytest.fixture(scope="module")
def animator() -> LivePortraitAnimator:
    model = LivePortrait(
        recipe_networks(MINI), MINI, device=torch.device("cpu"), dtype=torch.float32
    )
    return LivePortraitAnimator(model)


def syllables() -> Speech:
    """Return a second and a quarter in which every other tenth is loud."""
    time_s = np.arange(SAMPLE_RATE_HZ * FRAMES // FPS) / SAMPLE_RATE_HZ
    loud = (time_s * 10).astype(int) % 2
    return Speech((0.3 * loud * np.sin(700 * time_s)).astype(np.float32), (), "none", False)


def frames(
    animator: LivePortraitAnimator, *, size: tuple[int, int] = (128, 128), batch: int = 4
) -> torch.Tensor:
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    return torch.cat(
        list(
            animator.animate(
                picture,
                syllables(),
                fps=FPS,
                frame_count=FRAMES,
                width=size[0],
                height=size[1],
                expressions=["neutral", "excited"],
                seed=3,
                batch_frames=batch,
                token=CancellationToken(),
            )
        )
    )


@pytest.mark.parametrize("size", [(128, 128), (192, 112), (64, 64)])
def test_video_has_every_frame_in_the_format_asked_for(
    size: tuple[int, int], animator: LivePortraitAnimator
) -> None:
    video = frames(animator, size=size)
    assert video.shape == (FRAMES, 3, size[1], size[0])
    assert video.dtype == torch.uint8


def test_same_arguments_make_the_same_frames(animator: LivePortraitAnimator) -> None:
    assert torch.equal(frames(animator), frames(animator))


def test_batches_change_no_more_than_rounding(animator: LivePortraitAnimator) -> None:
    difference = frames(animator, batch=4).int() - frames(animator, batch=7).int()
    assert difference.abs().max() <= 1


def test_face_moves(animator: LivePortraitAnimator) -> None:
    video = frames(animator).float()
    assert (video[1:] - video[:-1]).abs().amax(dim=(1, 2, 3)).min() > 0


def test_cancelled_animation_stops_before_its_next_batch(animator: LivePortraitAnimator) -> None:
    token = CancellationToken()
    batches = animator.animate(
        torch.rand(1, 3, 128, 128),
        syllables(),
        fps=FPS,
        frame_count=FRAMES,
        width=128,
        height=128,
        expressions=["neutral"],
        seed=3,
        batch_frames=4,
        token=token,
    )
    next(batches)
    token.cancel()
    with pytest.raises(StageCancelled):
        next(batches)
