"""Two figures taken in turns."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Comparison:
    """Figures of ours and of what they are compared with, pair by pair."""

    pairs: tuple[tuple[float, float], ...]

    @property
    def ours(self) -> float:
        return median(ours for ours, _ in self.pairs)

    @property
    def bare(self) -> float:
        return median(bare for _, bare in self.pairs)

    @property
    def ratios(self) -> list[float]:
        return [ours / bare for ours, bare in self.pairs]

    @property
    def ratio(self) -> float:
        return median(self.ratios)
