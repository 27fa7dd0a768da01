"""How long stages will take, learnt from how long they took."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from schemas import Recipe

STAGES = ("audio", "image", "video", "clip")

_WINDOW = 15
SPOKEN_CHARACTERS_PER_S = 13.0
"""Of English at speed 1: the slower of the small profile's voices; the quickest speak 15."""

# A frame of 512x512 is one unit of video: animation, at the model's own size, and scaling and
# encoding, which grow with the frame. Two CPU cores, profile mini, 2026-11-24: 45 to 60 ms for the
# former, and 10 ms of 512x512 or 50 to 70 ms of 1024x1024 for the latter.
_FRAME_UNITS = 0.8
_PIXEL_UNITS = 0.2 / (512 * 512)

_LENIENCE_OF_A_REFUSAL = 0.8
_MAX_PATIENCE = 16


def work_units(recipe: Recipe) -> dict[str, float]:
    """Return how much work each stage has with a recipe, in units that its time grows with.

    Audio counts seconds of speech, video counts frames of 512x512, of which a smaller one costs
    little less; a portrait and a self-check are one unit.
    """
    params = recipe.slot_params
    speech_s = len(recipe.audio_track.script) / SPOKEN_CHARACTERS_PER_S
    frame_units = _FRAME_UNITS + _PIXEL_UNITS * params.width * params.height
    return {
        "audio": max(1.0, min(params.duration_sec, speech_s)),
        "image": 1.0,
        "video": max(1.0, params.duration_sec * params.fps * frame_units),
        "clip": 1.0,
    }


@dataclass(frozen=True)
class Overrun:
    """A stage that would go over its limit."""

    stage: str
    seconds: float
    """What it would take at the least; its limit if it was only ever stopped there."""
    limit_s: float
    measured: bool
    """Whether the stage was ever seen to finish."""

    def __str__(self) -> str:
        """Say it in words, with the key of the limit."""
        key = f"orchestration.timeouts.{self.stage}_s"
        if self.measured:
            about = f"{self.seconds:.0f}" if self.seconds >= 10 else f"{self.seconds:.2g}"
            return (
                f"the {self.stage} would take about {about} s, over its limit of"
                f" {self.limit_s:g} s ({key})"
            )
        return (
            f"the {self.stage} would not end within its limit of {self.limit_s:g} s, at which one"
            f" of this size or smaller was stopped ({key})"
        )


class _Observation(NamedTuple):
    seconds: float
    units: float
    finished: bool


@dataclass
class _Stage:
    """What is known of one stage."""

    recent: deque[_Observation] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    made_units: float = 0.0
    """The most work that it finished and was not stopped at since."""
    refusals: int = 0
    """Slots that it ruled out since it was last tried with one of them."""
    patience: int = 1
    """How many times as many refusals as at first come before a slot is tried."""

    def seconds_for(self, units: float) -> list[float]:
        """Return what the recent attempts would have taken with so much work.

        Those that finished; if there are none, those that were stopped, which is less than they
        would have taken. One that was stopped alone says nothing: it may have found all cold.
        """
        finished = [one for one in self.recent if one.finished]
        stopped = self.recent if len(self.recent) > 1 else ()
        return [one.seconds * (units / one.units) for one in finished or stopped]

    @property
    def ever_finished(self) -> bool:
        return any(one.finished for one in self.recent)


class StageEstimates:
    """Predicts a stage's seconds as its work units times the median of recent costs per unit.

    The median, because one slow slot (a page fault, a neighbour on the machine) says nothing about
    the next one; without a margin, because on simulated overload a margin loses more slots at
    admission than it saves later. Pure bookkeeping on one thread.

    A slot is ruled out when a stage of it would go over its limit even at the lowest of the recent
    costs per unit. That can be wrong, most of all when it is concluded from much shorter slots, and
    a slot that is never tried teaches nothing. So every refusal lets the next slot go further over
    the limit, by a quarter each, until one is tried. If that one is made, slots of its size are not
    ruled out again, until one is stopped at the limit. If it is stopped, refusals begin again, and
    twice as many come before the next is tried, up to sixteen times as many.
    """

    def __init__(self, limits_s: Mapping[str, float] | None = None) -> None:
        """Start without observations.

        Args:
            limits_s: the most seconds that an attempt of a stage may take. No prediction is above
                it, since an attempt is stopped there; and a slot that would need more may be ruled
                out. Without a limit, a stage rules nothing out.
        """
        self._limits_s = limits_s or {}
        self._stages = {stage: _Stage() for stage in STAGES}

    def observe(self, stage: str, seconds: float, units: float = 1.0) -> None:
        """Learn from one finished attempt of a stage."""
        known = self._stages[stage]
        if self.overrun(stage, units) is not None:
            known.refusals, known.patience = 0, 1
        known.recent.append(_Observation(seconds, units, finished=True))
        known.made_units = max(known.made_units, units)

    def observe_stopped(self, stage: str, seconds: float, units: float = 1.0) -> None:
        """Learn from an attempt that was stopped at the stage's limit."""
        known = self._stages[stage]
        if self.overrun(stage, units) is not None:
            known.patience = min(2 * known.patience, _MAX_PATIENCE)
        known.refusals = 0
        seconds = max(seconds, self._limits_s.get(stage, 0.0))
        known.recent.append(_Observation(seconds, units, finished=False))
        if units <= known.made_units:
            known.made_units = 0.0

    def predict(self, stage: str, units: float = 1.0) -> float | None:
        """Return the seconds that the stage should take, or None before the first observation."""
        seconds = self._stages[stage].seconds_for(units)
        return min(median(seconds), self._limits_s.get(stage, math.inf)) if seconds else None

    def predict_slot(self, recipe: Recipe) -> float | None:
        """Return the seconds from the first stage's start to the last one's end, if all are known.

        That is the critical path, max(audio, image) + video + clip.
        """
        units = work_units(recipe)
        predicted = {stage: self.predict(stage, units[stage]) for stage in STAGES}
        known = {stage: seconds for stage, seconds in predicted.items() if seconds is not None}
        if len(known) < len(STAGES):
            return None
        return max(known["audio"], known["image"]) + known["video"] + known["clip"]

    def overrun(self, stage: str, units: float = 1.0) -> Overrun | None:
        """Return by how much the stage would go over its limit, or None if it may well not."""
        known = self._stages[stage]
        limit_s = self._limits_s.get(stage, math.inf)
        seconds = min(known.seconds_for(units), default=0.0)
        if units <= known.made_units or seconds < limit_s:
            return None
        return Overrun(stage, seconds, limit_s, known.ever_finished)

    def rule_out(self, recipe: Recipe) -> Overrun | None:
        """Return why the limits rule a slot out, or None if it may be tried.

        Whoever is given a reason refuses the slot, and it counts as refused.
        """
        units = work_units(recipe)
        for stage in STAGES:
            overrun = self.overrun(stage, units[stage])
            if overrun is None:
                continue
            known = self._stages[stage]
            lenience: float = _LENIENCE_OF_A_REFUSAL ** (known.refusals / known.patience)
            if overrun.seconds * lenience >= overrun.limit_s:
                known.refusals += 1
                return overrun
        return None
