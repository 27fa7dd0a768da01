"""What is predicted of whole slots, from what is known of their stages."""

from __future__ import annotations

import math
from collections.abc import Mapping

from schemas import Recipe, Stage
from vortex.config import OrchestrationConfig
from vortex.orchestration import StageEstimates
from vortex.orchestration.estimates import work_units
from vortex.rung import FULL, Rung


class Predictions:
    """Predicts slots with what is kept back for encoding and storing; see `Engine`."""

    def __init__(self, config: OrchestrationConfig, estimates: StageEstimates) -> None:
        self._estimates = estimates
        self._buffer_s = config.deadline_buffer_s
        self._speaks_ahead = config.overlap.speech
        self._ladder = config.rungs

    def slot_s(self, recipe: Recipe, rung: Rung = FULL) -> float | None:
        """Return the seconds from start to stored video; see `Engine.predict_s`."""
        within_limits = rung != self._ladder[-1]
        predicted_s = self._estimates.predict_slot(recipe, rung, within_limits=within_limits)
        return None if predicted_s is None else predicted_s + self._buffer_s

    def rest_s(self, recipe: Recipe, rung: Rung, stage: Stage) -> float | None:
        """Return the seconds from the start of a stage; see `Engine.predict_rest_s`."""
        rest_s = self._estimates.predict_rest(recipe, rung, stage)
        return None if rest_s is None else rest_s + self._buffer_s

    def speech_room_s(self, recipe: Recipe) -> float:
        """Return the seconds of a slot's speech, with what is kept back for storing on top.

        Infinite if it is switched off, not known, or if a stage would exceed its limit; see
        `Engine.speech_room_s`.
        """
        slot_s = self._estimates.predict_slot(recipe, self._ladder[-1], within_limits=True)
        if not self._speaks_ahead or slot_s is None or math.isinf(slot_s):
            return math.inf
        speech_s = self._estimates.predict("audio", work_units(recipe)["audio"])
        return math.inf if speech_s is None else speech_s + self._buffer_s

    def rule_out(self, recipe: Recipe) -> str | None:
        """Return why a stage would exceed its limit; see `Engine.rule_out`."""
        overrun = self._estimates.rule_out(recipe, self._ladder[-1])
        return None if overrun is None else str(overrun)

    def most_work(self) -> Mapping[str, float]:
        """Return the most work that the stages' limits leave room for; see `Engine.most_work`."""
        return self._estimates.most_work()
