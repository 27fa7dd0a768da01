"""The true motion of a drawn face in LivePortrait's terms: keypoints, angles, expression.

A drawn head turns about a point in its neck and is seen without perspective, which is exactly
LivePortrait's model: `scale * (canonical @ R + expression) + translation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.drawing import HEAD_Y, PIVOT, ZOOM, mouth_line_y, on_bulge
from training.faces import Motion, Shape
from vortex.models.liveportrait.lipsync import (
    OPEN_EYE_RATIO,
    PRESS_RATIO,
    WIDEST_GRIN,
    WIDEST_MOUTH_RATIO,
    expression_of,
)
from vortex.models.liveportrait.motion import KEYPOINTS
from vortex.models.liveportrait.motion import Motion as Keypoints

_WIDEST_EYES = 0.12  # change of the eyes' ratio
_REST_SHARE = 0.1
_TO_MIDDLE = -0.41  # a face's own displacement of its keypoints in z, before the scale


@dataclass(frozen=True)
class Pose:
    """What the driver of a face may ask for, in its own units."""

    lips: float = 0.0
    """Share of the widest mouth; below 0, lips are pressed together."""
    grin: float = 0.0
    """0 to 15."""
    purse: float = 0.0
    """-5 to 15."""
    eyes: float = 0.0
    """Change of the ratio of the eyes' opening to their width; -0.35 shuts them."""
    pitch_deg: float = 0.0
    yaw_deg: float = 0.0
    roll_deg: float = 0.0

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Pose:
        """Draw what talking heads are asked for, and somewhat more."""
        if rng.random() < _REST_SHARE:
            return cls()
        pressed = -PRESS_RATIO / WIDEST_MOUTH_RATIO
        lips = float(rng.choice([0.0, pressed, rng.uniform(0, 0.3), rng.uniform(0, 1)]))
        shut = rng.uniform(0, 1) if rng.random() < 0.3 else 0.0
        wide = rng.uniform(-0.04, _WIDEST_EYES) if rng.random() < 0.5 else 0.0
        return cls(
            lips=lips,
            grin=float(rng.choice([0.0, rng.uniform(0, WIDEST_GRIN)])),
            purse=float(rng.choice([0.0, rng.uniform(-5, 15)])),
            eyes=float((1 - shut) * wide - shut * OPEN_EYE_RATIO),
            pitch_deg=float(np.clip(rng.normal(0, 3), -8, 8)),
            yaw_deg=float(np.clip(rng.normal(0, 5), -14, 14)),
            roll_deg=float(np.clip(rng.normal(0, 2.5), -8, 8)),
        )

    @classmethod
    def read(cls, expression: NDArray[np.float32], angles_deg: NDArray[np.float32]) -> Pose:
        """Return what `expression`, `[21, 3]`, and pitch, yaw and roll, `[3]`, ask for."""
        units = expression_of(*np.eye(4))  # of lips, grin, purse and eyes
        asked = np.linalg.lstsq(units.reshape(4, -1).T, expression.ravel(), rcond=None)[0]
        lips, grin, purse, eyes = asked.tolist()
        pitch_deg, yaw_deg, roll_deg = angles_deg.tolist()
        return cls(lips / WIDEST_MOUTH_RATIO, grin, purse, eyes, pitch_deg, yaw_deg, roll_deg)

    def drawn(self) -> Motion:
        """Return how the drawing shows it."""
        eye = max(0.0, 1 + self.eyes / OPEN_EYE_RATIO)
        return Motion(
            mouth_open=max(self.lips, 0.0),
            mouth_wide=float(np.clip((self.grin - self.purse) / WIDEST_GRIN, -1, 1)),
            smile=self.grin / WIDEST_GRIN,
            eye_left=eye,
            eye_right=eye,
            yaw_deg=self.yaw_deg,
            # y grows downwards and z to the viewer: LivePortrait's turn about x is the other way.
            pitch_deg=-self.pitch_deg,
            roll_deg=self.roll_deg,
        )

    def expression(self) -> NDArray[np.float32]:
        """Return LivePortrait's expression for it, `[21, 3]`."""
        lips, grin, purse, eyes = np.array(
            [[WIDEST_MOUTH_RATIO * self.lips], [self.grin], [self.purse], [self.eyes]]
        )
        offsets: NDArray[np.float32] = expression_of(lips, grin, purse, eyes)[0]
        return offsets


def true_motion(shapes: list[Shape], poses: list[Pose]) -> Keypoints:
    """Return what a perfect motion extractor says of drawn faces."""
    count = len(shapes)
    canonical = np.stack([_canonical(shape) for shape in shapes])
    # LivePortrait's Gaussians are 0.1 wide: in a volume of three planes only keypoints near the
    # middle one, at z = 0, are seen. That is where a face at rest holds them.
    expressions = np.stack([pose.expression() for pose in poses])
    expressions[..., 2] += _TO_MIDDLE
    angles = [(pose.pitch_deg, pose.yaw_deg, pose.roll_deg) for pose in poses]
    x, y = ZOOM * PIVOT[0], ZOOM * (PIVOT[1] + HEAD_Y)
    return Keypoints(
        keypoints=torch.tensor(canonical, dtype=torch.float32),
        expression=torch.from_numpy(expressions),
        scale=torch.full((count, 1), ZOOM),
        translation=torch.tensor([[x, y, 0.0]], dtype=torch.float32).repeat(count, 1),
        angles=torch.tensor(angles, dtype=torch.float32),
    )


def _canonical(shape: Shape) -> NDArray[np.float64]:
    """Return the keypoints of a calm face about its pivot, `[21, 3]`.

    Which point is where follows LivePortrait's: 6, 12, 14, 17, 19 and 20 are of the lips, 11, 13,
    15 and 16 of the lids.
    """
    w, h = shape.half_width, shape.half_height
    mouth_y, mouth_w = mouth_line_y(shape), shape.mouth_width
    eye_x, eye_y, lid = shape.eye_distance, -0.015, 0.052 * shape.eye_size
    flat = {
        0: (0.0, -0.95 * h),
        1: (-0.55 * w, 0.35 * h),
        2: (0.55 * w, 0.35 * h),
        3: (-0.4 * w, 0.7 * h),
        4: (-0.97 * w, 0.06 * h),
        5: (0.97 * w, 0.06 * h),
        6: (-mouth_w, mouth_y),
        7: (0.4 * w, 0.7 * h),
        8: (0.0, h),
        9: (0.0, 0.11),
        10: (0.0, -0.5 * h),
        11: (-eye_x, eye_y - lid),
        12: (mouth_w, mouth_y),
        13: (-eye_x, eye_y + lid),
        14: (-0.05, mouth_y - 0.03),
        15: (eye_x, eye_y - lid),
        16: (eye_x, eye_y + lid),
        17: (0.05, mouth_y - 0.03),
        18: (0.0, eye_y),
        19: (0.0, mouth_y + 0.03),
        20: (0.0, mouth_y - 0.03),
    }
    points = np.array([flat[number] for number in range(KEYPOINTS)])
    canonical: NDArray[np.float64] = on_bulge(shape, points) - PIVOT
    return canonical
