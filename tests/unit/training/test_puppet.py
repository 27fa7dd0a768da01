from dataclasses import asdict

import numpy as np
import pytest
import torch

from training.drawing import draw
from training.faces import Face
from training.puppet import Pose, true_motion

SIZE = 128
LOWER_LIP, LIDS = 19, (11, 13, 15, 16)


def face(seed: int) -> Face:
    return Face.sample(np.random.default_rng(seed))


def pixel(keypoint: torch.Tensor) -> tuple[int, int]:
    """Return row and column."""
    x, y = ((keypoint[:2] + 1) * SIZE / 2).tolist()
    return round(y), round(x)


@pytest.mark.parametrize("seed", range(8))
def test_pose_is_read_back_from_what_the_driver_asks_for(seed: int) -> None:
    pose = Pose.sample(np.random.default_rng(seed))
    angles = np.array([pose.pitch_deg, pose.yaw_deg, pose.roll_deg], np.float32)
    read = Pose.read(pose.expression(), angles)
    assert asdict(read) == pytest.approx(asdict(pose), abs=1e-3)


@pytest.mark.parametrize(
    "turned",
    [Pose(), Pose(yaw_deg=14.0), Pose(pitch_deg=8.0), Pose(roll_deg=8.0)],
    ids=["frontal", "yaw", "pitch", "roll"],
)
def test_keypoints_of_the_lids_enclose_the_eyes_that_are_drawn(turned: Pose) -> None:
    someone = next(
        made
        for made in map(face, range(100))
        if made.attributes.eyewear == "none" and made.attributes.skin == "dark"
    )
    frame = draw(someone, turned.drawn(), SIZE)
    lids = true_motion([someone.shape], [turned]).placed()[0, list(LIDS)]
    for upper, lower in (lids[:2], lids[2:]):
        middle = frame[pixel((upper + lower) / 2)]
        beside = frame[pixel(upper + (upper - lower))]
        # Iris, pupil or white, unlike the skin or brow above.
        assert np.abs(middle.astype(int) - beside.astype(int)).max() > 40


def test_lower_lip_follows_the_opening() -> None:
    poses = [Pose(lips=lips) for lips in (0.0, 0.5, 1.0)]
    placed = true_motion([face(0).shape] * 3, poses).placed()
    heights = placed[:, LOWER_LIP, 1]
    assert torch.all(heights.diff() > 0.03)
    assert Pose(lips=0.5).drawn().mouth_open == 0.5


def test_pressed_lips_are_drawn_closed_and_driven_further() -> None:
    pressed = Pose(lips=-0.07)
    assert pressed.drawn().mouth_open == 0.0
    assert pressed.expression()[LOWER_LIP, 1] < 0.0


@pytest.mark.parametrize("turned", [Pose(), Pose(yaw_deg=14.0), Pose(pitch_deg=8.0)])
def test_lips_and_lids_are_seen_on_the_middle_plane_of_the_volume(turned: Pose) -> None:
    z = true_motion([face(0).shape], [turned]).placed()[0, [LOWER_LIP, *LIDS], 2]
    assert torch.all(torch.exp(-0.5 * (z / 0.1) ** 2) > 0.6)  # of their Gaussians in `warping`
