"""The quality ladder: the levels at which a slot can be made, from full quality down."""

from __future__ import annotations

import math
from dataclasses import dataclass

KEYFRAMES = 5
"""Frames that the self-check looks at, at full quality."""


@dataclass(frozen=True)
class Rung:
    """One level of quality at which a slot can be made.

    The video has its full length and frame rate on every rung: frames that are not rendered are
    faded over between those that are.
    """

    name: str
    work_share: float
    """Share of the frames that are rendered, above 0 and up to 1. In simulations, of all work."""
    quality: float = 1.0
    """Relative to full quality, for reports."""
    steps_share: float = 1.0
    """Share of the portrait's denoising steps that are taken, above 0 and up to 1."""
    keyframes: int = KEYFRAMES
    """Frames that the self-check looks at."""

    def frames(self, total: int) -> int:
        """Return how many of so many frames are rendered."""
        return math.ceil(total * self.work_share - 1e-9)

    def steps(self, full: int) -> int:
        """Return the denoising steps, given those at full quality."""
        return max(1, round(full * self.steps_share))


FULL = Rung("full", 1.0)
LADDER = (
    FULL,
    Rung("half", 1 / 2, quality=1 / 2),
    Rung("third", 1 / 3, quality=1 / 3, steps_share=1 / 2, keyframes=3),
)
"""All rungs, the best first."""
