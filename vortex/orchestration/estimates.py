"""How long stages will take, learnt from how long they took."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

STAGES = ("audio", "image", "video", "clip")

_WINDOW = 15
_CHARACTERS_PER_SECOND = 15.0  # of English speech at speed 1


def work_units(recipe: Mapping[str, Any]) -> dict[str, float]:
    """Return how much work each stage has with a recipe, in units that its time grows with.

    Audio counts seconds of speech, video counts frames; a portrait and a self-check are one unit.
    """
    params = recipe.get("slot_params") or {}
    duration_s = float(params.get("duration_sec", 45.0))
    script = (recipe.get("audio_track") or {}).get("script") or ""
    return {
        "audio": max(1.0, min(duration_s, len(script) / _CHARACTERS_PER_SECOND)),
        "image": 1.0,
        "video": max(1.0, duration_s * float(params.get("fps", 24))),
        "clip": 1.0,
    }


class StageEstimates:
    """Predicts a stage's seconds as its work units times the median of recent costs per unit.

    The median, because one slow slot (a page fault, a neighbour on the machine) says nothing about
    the next one; without a margin, because on simulated overload a margin loses more slots at
    admission than it saves later. Pure bookkeeping on one thread.
    """

    def __init__(self, limits_s: Mapping[str, float] | None = None) -> None:
        """Start without observations.

        Args:
            limits_s: the most seconds that an attempt of a stage may take; no prediction is above
                it. Without a limit, one short slot that was slow could rule out every longer one,
                and as none is tried any more, nothing would be learnt against it.
        """
        self._limits_s = limits_s or {}
        self._costs: dict[str, deque[float]] = {}

    def observe(self, stage: str, seconds: float, units: float = 1.0) -> None:
        """Learn from one finished stage."""
        self._costs.setdefault(stage, deque(maxlen=_WINDOW)).append(seconds / units)

    def predict(self, stage: str, units: float = 1.0) -> float | None:
        """Return the seconds that the stage should take, or None before the first observation."""
        costs = self._costs.get(stage)
        if not costs:
            return None
        return min(median(costs) * units, self._limits_s.get(stage, math.inf))

    def predict_slot(self, recipe: Mapping[str, Any]) -> float | None:
        """Return the seconds from the first stage's start to the last one's end, if all are known.

        That is the critical path, max(audio, image) + video + clip.
        """
        units = work_units(recipe)
        predicted = {stage: self.predict(stage, units[stage]) for stage in STAGES}
        known = {stage: seconds for stage, seconds in predicted.items() if seconds is not None}
        if len(known) < len(STAGES):
            return None
        return max(known["audio"], known["image"]) + known["video"] + known["clip"]
