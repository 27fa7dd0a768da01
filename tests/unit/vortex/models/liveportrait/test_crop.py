from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.vortex.models.liveportrait.test_animator import animator, frames
from tests.unit.vortex.models.liveportrait.test_liveportrait import MINI, recipe_networks
from training.drawing import draw
from training.faces import Face
from vortex.models.liveportrait import LivePortrait, LivePortraitDims, Motion
from vortex.models.liveportrait.animator import LivePortraitAnimator
from vortex.models.liveportrait.crop import Background, Crop
from vortex.models.mini import shipped_weights

__all__ = ["animator"]  # a fixture

CPU = torch.device("cpu")
WANTED = LivePortraitDims.full()
SIDE = 128


class MarkFinder(nn.Module):
    """A motion extractor that finds a white square: its size is the scale, its middle the place."""

    def forward(self, image: torch.Tensor) -> Motion:
        weight = image[0, 0]
        size = image.shape[-1]
        at = (torch.arange(size) + 0.5) * 2 / size - 1
        x, y = (weight.sum(dim=d) @ at / weight.sum() for d in (0, 1))
        scale = weight.mean().sqrt() * 4
        return Motion(
            keypoints=torch.zeros(1, 21, 3),
            expression=torch.zeros(1, 21, 3),
            scale=scale.view(1, 1),
            translation=torch.tensor([[x, y, 0.0]]),
            angles=torch.zeros(1, 3),
        )


def marked(x: int, y: int, size: int) -> torch.Tensor:
    """Return a picture with a white square about a pixel."""
    picture = torch.zeros(1, 3, SIDE, SIDE)
    half = size // 2
    picture[..., y - half : y + half, x - half : x + half] = 1
    return picture


@pytest.fixture(scope="module")
def finder() -> LivePortrait:
    networks = replace(recipe_networks(MINI), motion=MarkFinder())
    return LivePortrait(
        networks,
        replace(MINI, face_scale=WANTED.face_scale, face_y=WANTED.face_y),
        device=CPU,
        dtype=torch.float32,
    )


@pytest.mark.parametrize(("x", "y"), [(64, 64), (50, 70), (80, 56)])
def test_small_face_is_cropped_to_where_the_weights_want_it(
    x: int, y: int, finder: LivePortrait
) -> None:
    picture = marked(x, y, 20)
    crop = finder.find_face(picture)
    seen = MarkFinder()(crop.of(picture))
    assert float(seen.scale) == pytest.approx(WANTED.face_scale, rel=0.05)
    assert seen.translation[0].tolist() == pytest.approx([0, WANTED.face_y, 0], abs=0.05)


@pytest.mark.parametrize("size", [40, 44, 54])
def test_face_that_is_about_right_is_left_as_it_is(size: int, finder: LivePortrait) -> None:
    picture = marked(66, 68, size)
    assert finder.find_face(picture) == Crop.all_of(picture)


@pytest.mark.parametrize(
    ("x", "y", "size"), [(12, 12, 16), (118, 64, 16), (64, 120, 4), (64, 64, 120)]
)
def test_crop_stays_inside_the_picture(x: int, y: int, size: int, finder: LivePortrait) -> None:
    crop = finder.find_face(marked(x, y, size))
    assert 0 <= crop.left <= SIDE - crop.side
    assert 0 <= crop.top <= SIDE - crop.side
    assert SIDE / 4 <= crop.side <= SIDE


def test_faces_that_the_miniature_was_trained_on_are_not_cropped() -> None:
    model = LivePortrait.load(shipped_weights() / "liveportrait", device=CPU, dtype=torch.float32)
    for number in range(8):
        drawing = draw(Face.sample(np.random.default_rng([8, number])), size=SIDE)
        portrait = torch.from_numpy(drawing.copy()).permute(2, 0, 1)[None] / 255.0
        assert model.find_face(portrait) == Crop.all_of(portrait)


# Putting the face back


def gradient(side: int) -> torch.Tensor:
    ramp = torch.linspace(0.1, 0.9, side)
    return torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)] * 2)[None, :3]


@pytest.mark.parametrize("side", [64, 128, 576])
@pytest.mark.parametrize("place", [(32, 20, 64), (0, 0, 96), (40, 64, 64)])
def test_face_that_did_not_move_gives_the_picture(side: int, place: tuple[int, int, int]) -> None:
    picture = gradient(SIDE)
    crop = Crop(*place, SIDE)
    still = (255 * crop.of(picture)).round().byte()
    (whole,) = Background(picture, crop, side).around(still)
    (plain,) = Background(picture, crop, side)._canvas
    assert (whole.float() - plain).abs().mean() < 2


def test_picture_around_the_face_stands_still_and_no_edge_is_seen() -> None:
    picture, crop = torch.full((1, 3, SIDE, SIDE), 0.2), Crop(32, 0, 64, SIDE)
    (shown,) = Background(picture, crop, SIDE).around(torch.full((1, 3, 512, 512), 250).byte())
    outside = shown.clone()
    outside[:, :64, 32:96] = 51
    assert (outside == 51).all()
    assert (shown[:, 0:40, 56:72] == 250).all()  # up to the picture's own edge
    steps = (shown[0].int()[:, 1:] - shown[0].int()[:, :-1]).abs()
    assert steps.max() <= 30


def test_animated_crop_moves_inside_its_picture(
    animator: LivePortraitAnimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = Crop(32, 16, 64, SIDE)
    monkeypatch.setattr(animator._model, "find_face", lambda _: crop)
    video = frames(animator).int()
    moving = (video - video[0]).abs().amax(dim=(0, 1)) > 0
    assert moving[16:80, 32:96].float().mean() > 0.5
    moving[16:80, 32:96] = False
    assert not moving.any()
