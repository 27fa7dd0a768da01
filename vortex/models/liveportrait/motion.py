"""Keypoints in motion: head angles, rotation, expression, stitching (arXiv 2407.03168).

Keypoints are row vectors `[n, 21, 3]`; x grows to the right, y down, both from -1 to 1 over the
picture. A face's keypoints are `scale * (canonical @ R + expression) + translation`, where the
translation's z is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

KEYPOINTS = 21
POSE_BINS = 66

_DEGREES_PER_BIN = 3.0
_FIRST_BIN_DEGREES = -97.5


@dataclass(frozen=True)
class Motion:
    """What the motion extractor says of `n` faces.

    Attributes:
        keypoints: canonical, without pose and expression, `[n, 21, 3]`.
        expression: displacement of each keypoint, `[n, 21, 3]`.
        scale: `[n, 1]`.
        translation: `[n, 3]`.
        angles: pitch, yaw and roll in degrees, `[n, 3]`.
    """

    keypoints: torch.Tensor
    expression: torch.Tensor
    scale: torch.Tensor
    translation: torch.Tensor
    angles: torch.Tensor

    def placed(self) -> torch.Tensor:
        """Return the keypoints where the face has them, `[n, 21, 3]`."""
        turned = self.keypoints @ rotation_matrix(self.angles)
        placed = self.scale.unsqueeze(-1) * (turned + self.expression)
        shift = torch.cat([self.translation[:, :2], torch.zeros_like(self.translation[:, 2:])], -1)
        return placed + shift.unsqueeze(-2)

    def driven(
        self,
        *,
        expression: torch.Tensor | None = None,
        angles: torch.Tensor | None = None,
    ) -> Motion:
        """Return this one face `n` times, moved.

        Args:
            expression: added to the face's own, `[n, 21, 3]`.
            angles: degrees added to the face's own pitch, yaw and roll, `[n, 3]`.
        """
        return replace(
            self,
            expression=self.expression if expression is None else self.expression + expression,
            angles=self.angles if angles is None else self.angles + angles,
        )


def degrees_from_bins(scores: torch.Tensor) -> torch.Tensor:
    """Decode an angle: the expected bin of a softmax over `[..., 66]`, 3 degrees each."""
    bins = torch.arange(POSE_BINS, dtype=scores.dtype, device=scores.device)
    return _DEGREES_PER_BIN * (scores.softmax(dim=-1) @ bins) + _FIRST_BIN_DEGREES


def rotation_matrix(angles: torch.Tensor) -> torch.Tensor:
    """Return `(Rz Ry Rx)^T`, which turns row vectors.

    Args:
        angles: pitch (about x), yaw (about y) and roll (about z) in degrees, `[n, 3]`.

    Returns:
        `[n, 3, 3]`.
    """
    (sx, sy, sz), (cx, cy, cz) = (f(angles.deg2rad()).unbind(-1) for f in (torch.sin, torch.cos))
    zero, one = torch.zeros_like(sx), torch.ones_like(sx)

    def matrix(*entries: torch.Tensor) -> torch.Tensor:
        return torch.stack(entries, dim=-1).view(-1, 3, 3)

    about_x = matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
    about_y = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_z = matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
    return (about_z @ about_y @ about_x).transpose(-1, -2)


def stitched(
    network: Callable[[torch.Tensor], torch.Tensor], source: torch.Tensor, driving: torch.Tensor
) -> torch.Tensor:
    """Correct driving keypoints, so that the shoulders stay where the source has them.

    Args:
        network: the stitching network.
        source: `[1, 21, 3]`.
        driving: `[n, 21, 3]`.

    Returns:
        `[n, 21, 3]`.
    """
    pairs = torch.cat([source.expand_as(driving).flatten(1), driving.flatten(1)], dim=-1)
    change = network(pairs)
    corrected = driving + change[:, :-2].reshape(-1, KEYPOINTS, 3)
    shift = torch.cat([change[:, -2:], torch.zeros_like(change[:, :1])], dim=-1)
    return corrected + shift.unsqueeze(-2)
