"""How long stages will take, learnt from how long they took."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import NamedTuple

from schemas import Recipe, SlotParams
from vortex.orchestration.learning import CarryOver, Prior, StageModel
from vortex.rung import FULL, Rung

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
_SHORTEST_S = 1e-6
_MAX_PATIENCE = 16


def work_units(recipe: Recipe, rung: Rung = FULL) -> dict[str, float]:
    """Return how much work each stage has with a recipe, in units that its time grows with.

    Audio counts seconds of speech, video counts frames of 512x512, of which a smaller one costs
    little less; a portrait and a self-check are one unit at full quality.
    """
    params = recipe.slot_params
    speech_s = len(recipe.audio_track.script) / SPOKEN_CHARACTERS_PER_S
    return {
        "audio": max(1.0, min(params.duration_sec, speech_s)),
        "image": rung.steps_share,
        "video": video_units(params, rung.work_share),
        "clip": rung.keyframes / FULL.keyframes,
    }


def video_units(params: SlotParams, rendered_share: float = 1.0) -> float:
    """Return the work of a video of which so many frames are rendered; all of them are encoded."""
    frames = params.duration_sec * params.fps
    pixel_units = _PIXEL_UNITS * params.width * params.height
    return max(1.0, frames * (_FRAME_UNITS * rendered_share + pixel_units))


_LARGEST = SlotParams(fps=60, resolution="1024x1024")
MOST_WORK = {
    "audio": _LARGEST.duration_sec,
    "image": 1.0,
    "video": video_units(_LARGEST),
    "clip": 1.0,
}
"""Of each stage, for the largest slot that a recipe can ask for; see `work_units`."""


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
    speed_factor: float
    """The model's, after this was learned."""


@dataclass
class _Stage:
    """What is known of one stage."""

    model: StageModel | None = None
    """None before the first attempt that finished, unless there is a prior."""
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
        return [self._rescaled(one, units) for one in self._telling]

    @property
    def _telling(self) -> Sequence[_Observation]:
        finished = [one for one in self.recent if one.finished]
        return finished or (self.recent if len(self.recent) > 1 else ())

    def _rescaled(self, one: _Observation, units: float) -> float:
        if self.model is None:
            return one.seconds * (units / one.units)
        growth = self.model.predict(units) / self.model.predict(one.units)
        return one.seconds * growth * self.model.speed_factor / one.speed_factor

    def most_units(self, limit_s: float) -> float:
        """Return the most work that is not known to take longer than a limit."""
        most = [self._units_within(one, limit_s) for one in self._telling]
        return max(self.made_units, max(most, default=math.inf))

    def _units_within(self, one: _Observation, limit_s: float) -> float:
        """Return for how much work `_rescaled` gives so many seconds."""
        today_s = max(self._rescaled(one, one.units), _SHORTEST_S)
        if self.model is None:
            return one.units * limit_s / today_s
        left_s = self.model.predict(one.units) * limit_s / today_s - self.model.fixed_s
        return left_s / max(self.model.per_unit_s, _SHORTEST_S)

    def remember(self, seconds: float, units: float, *, finished: bool) -> None:
        factor = 1.0 if self.model is None else self.model.speed_factor
        self.recent.append(_Observation(seconds, units, finished, factor))

    @property
    def ever_finished(self) -> bool:
        return any(one.finished for one in self.recent)


class StageEstimates:
    """Predicts a stage's seconds as a fixed part and one in proportion to its units, both learned.

    See `StageModel` for how. A prediction is a median, without a margin: whether one is worth its
    price is for the planner to say. Pure bookkeeping on one thread.

    A slot is ruled out when a stage of it would go over its limit even at the lowest of the recent
    costs. That can be wrong, most of all when it is concluded from much shorter slots, and
    a slot that is never tried teaches nothing. So every refusal lets the next slot go further over
    the limit, by a quarter each, until one is tried. If that one is made, slots of its size are not
    ruled out again, until one is stopped at the limit. If it is stopped, refusals begin again, and
    twice as many come before the next is tried, up to sixteen times as many.
    """

    def __init__(
        self,
        limits_s: Mapping[str, float] | None = None,
        priors: Mapping[str, Prior] | None = None,
    ) -> None:
        """Start without observations.

        Args:
            limits_s: the most seconds that an attempt of a stage may take. No prediction is above
                it, since an attempt is stopped there; and a slot that would need more may be ruled
                out. Without a limit, a stage rules nothing out.
            priors: what is believed of stages before they were measured. Without one, a stage is
                not predicted until it finished once.
        """
        self._limits_s = limits_s or {}
        self._stages = {stage: _Stage() for stage in STAGES}
        for stage, prior in (priors or {}).items():
            self._stages[stage].model = StageModel(prior)
        self._carry_over = CarryOver()

    def observe(self, stage: str, seconds: float, units: float = 1.0) -> float:
        """Learn from one finished attempt of a stage.

        Returns:
            How far it was off its prediction, as the logarithm of a ratio; 0 for the first one.
        """
        known = self._stages[stage]
        if self.overrun(stage, units) is not None:
            known.refusals, known.patience = 0, 1
        known.made_units = max(known.made_units, units)
        error = 0.0
        if known.model is None:
            known.model = StageModel.of_first(seconds, units)
        else:
            error = known.model.observe(seconds, units)
        known.remember(seconds, units, finished=True)
        return error

    def observe_stopped(self, stage: str, seconds: float, units: float = 1.0) -> None:
        """Learn from an attempt that was stopped at the stage's limit."""
        known = self._stages[stage]
        if self.overrun(stage, units) is not None:
            known.patience = min(2 * known.patience, _MAX_PATIENCE)
        known.refusals = 0
        seconds = max(seconds, self._limits_s.get(stage, 0.0))
        if units <= known.made_units:
            known.made_units = 0.0
        self._learn_at_least(stage, seconds, units)
        known.remember(seconds, units, finished=False)

    def observe_at_least(self, stage: str, seconds: float, units: float = 1.0) -> None:
        """Learn from an attempt that was stopped for another reason, such as a deadline."""
        self._learn_at_least(stage, seconds, units)

    def _learn_at_least(self, stage: str, seconds: float, units: float) -> None:
        model = self._stages[stage].model
        if model is not None:
            model.observe_stopped(seconds, units)

    def slot(self, recipe: Recipe) -> SlotEstimate:
        """Return what is known of a slot that is about to be made."""
        return SlotEstimate(self, self._carry_over, recipe)

    @property
    def spread(self) -> float:
        """The relative standard deviation of the video's time, of most slots the longest part."""
        model = self._stages["video"].model
        return 0.0 if model is None else model.spread

    def predict(self, stage: str, units: float = 1.0) -> float | None:
        """Return the seconds that the stage should take, or None before the first observation."""
        known = self._stages[stage]
        if known.model is not None:
            seconds = known.model.predict(units)
        elif stopped := known.seconds_for(units):
            seconds = median(stopped)
        else:
            return None
        return min(seconds, self._limits_s.get(stage, math.inf))

    def predict_slot(
        self, recipe: Recipe, rung: Rung = FULL, *, within_limits: bool = False
    ) -> float | None:
        """Return the seconds from the first stage's start to the last one's end, if all are known.

        That is the critical path, max(audio, image) + video + clip.

        Args:
            recipe: of the slot.
            rung: at which it is made.
            within_limits: whether a slot counts as endless if a stage of it would exceed its limit.
        """
        units = work_units(recipe, rung)
        if within_limits and any(self.overrun(stage, units[stage]) for stage in STAGES):
            return math.inf
        return self.predict_units(units)

    def predict_rest(self, recipe: Recipe, rung: Rung, stage: str) -> float | None:
        """Return the seconds from the start of a stage to the last one's end, if all are known."""
        units = work_units(recipe, rung)
        ahead = {"video": ("video", "clip"), "clip": ("clip",)}.get(stage)
        if ahead is None:
            return self.predict_units(units)
        known = [self.predict(one, units[one]) for one in ahead]
        return None if None in known else sum(seconds or 0.0 for seconds in known)

    def predict_units(self, units: Mapping[str, float]) -> float | None:
        """Return the seconds of a slot with so much work, if all stages are known."""
        predicted = {stage: self.predict(stage, units[stage]) for stage in STAGES}
        known = {stage: seconds for stage, seconds in predicted.items() if seconds is not None}
        if len(known) < len(STAGES):
            return None
        return max(known["audio"], known["image"]) + known["video"] + known["clip"]

    def to_json(self) -> dict[str, dict[str, float]]:
        """Return what was learned of each stage."""
        models = {stage: known.model for stage, known in self._stages.items()}
        return {stage: model.to_json() for stage, model in models.items() if model is not None}

    def restore(self, saved: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from what was learned before; all of it or nothing.

        Raises:
            KeyError: something is missing, or is no stage.
            ValueError: a value is impossible.
        """
        models = {stage: StageModel.from_json(values) for stage, values in saved.items()}
        stages = {stage: self._stages[stage] for stage in models}
        for stage, model in models.items():
            stages[stage].model = model

    def overrun(self, stage: str, units: float = 1.0) -> Overrun | None:
        """Return by how much the stage would go over its limit, or None if it may well not."""
        known = self._stages[stage]
        limit_s = self._limits_s.get(stage, math.inf)
        seconds = min(known.seconds_for(units), default=0.0)
        if units <= known.made_units or seconds < limit_s:
            return None
        return Overrun(stage, seconds, limit_s, known.ever_finished)

    def most_work(self) -> dict[str, float]:
        """Return the most work of each stage that its limit leaves room for, as far as is known.

        In the units of `work_units`, and no more than a recipe can ask for.
        """
        return {
            stage: min(known.most_units(self._limits_s.get(stage, math.inf)), MOST_WORK[stage])
            for stage, known in self._stages.items()
        }

    def rule_out(self, recipe: Recipe, rung: Rung = FULL) -> Overrun | None:
        """Return why the limits rule a slot out at a rung, or None if it may be tried.

        Whoever is given a reason refuses the slot, and it counts as refused.
        """
        units = work_units(recipe, rung)
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


class SlotEstimate:
    """Predicts the rest of one slot from its finished stages, and passes on what they teach."""

    def __init__(self, estimates: StageEstimates, carry_over: CarryOver, recipe: Recipe) -> None:
        self._estimates = estimates
        self._carry_over = carry_over
        self._recipe = recipe
        self._errors: list[float] = []

    def finished(self, stage: str, seconds: float, units: float | None = None) -> None:
        """Learn from an attempt of a stage that finished.

        Args:
            stage: of the slot.
            seconds: that the attempt took.
            units: the work that was done; None is that of full quality.
        """
        units = work_units(self._recipe)[stage] if units is None else units
        error = self._estimates.observe(stage, seconds, units)
        if self._errors:
            self._carry_over.observe(fmean(self._errors), error)
        self._errors.append(error)

    def predict(self, stage: str, rung: Rung = FULL) -> float | None:
        """Return the seconds of a stage ahead, given those behind; None if it is not known."""
        seconds = self._estimates.predict(stage, work_units(self._recipe, rung)[stage])
        if seconds is None or not self._errors:
            return seconds
        return seconds * self._carry_over.factor(fmean(self._errors))
