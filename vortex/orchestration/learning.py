"""How long a stage takes, learned from how long it took."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

# An observation counts up to so many standard deviations from its prediction.
_CLIP = 2.5
# So many observations in a row that far off, all on one side, are a change of speed.
_DRIFT_COUNT, _DRIFT_SPREADS = 3, 1.5
# The level is a mean over about so many observations while there is no such change.
_MEMORY = 40.0
_SHORTEST_S = 1e-6
_LOWEST_SPREAD, _HIGHEST_SPREAD = 0.02, 0.7
_SPREAD_MEMORY = 50


@dataclass(frozen=True)
class Prior:
    """What is believed of a stage before it was ever measured."""

    fixed_s: float
    """Seconds that do not depend on the work."""
    per_unit_s: float
    """Seconds for each unit of work."""
    doubt: float = 1.0
    """Standard deviation of each of both, relative to it."""


class StageModel:
    """Predicts `fixed_s + per_unit_s * units`, both learned; pure bookkeeping.

    A Kalman filter on both parts. The error of a prediction is taken as a ratio (its logarithm),
    so that what is learned is the median of times that spread in proportion, and clipped, so that
    one outlier moves little. Three large errors in a row on one side are a change of speed: both
    parts are multiplied by their median at once.
    """

    def __init__(self, prior: Prior, spread: float = 0.15) -> None:
        """Start from a prior.

        Args:
            prior: used until it is outweighed, which takes one or two observations.
            spread: first guess of the relative standard deviation of a time.
        """
        self.fixed_s = prior.fixed_s
        self.per_unit_s = prior.per_unit_s
        self.count = 0
        """Observations that finished."""
        self._spread_square = spread**2
        # Covariance of (fixed_s, per_unit_s).
        self._cov_ff = (prior.fixed_s * prior.doubt) ** 2
        self._cov_uu = (prior.per_unit_s * prior.doubt) ** 2
        self._cov_fu = 0.0
        self._recent_errors: deque[float] = deque(maxlen=_DRIFT_COUNT)
        self.speed_factor = 1.0
        """By what changes of speed have multiplied all times so far."""

    @classmethod
    def of_first(cls, seconds: float, units: float) -> StageModel:
        """Start from one finished attempt: all in proportion, but half of it may be fixed."""
        seconds = max(seconds, _SHORTEST_S)
        model = cls(Prior(0.0, seconds / units))
        model.count = 1
        fixed = (0.5 * seconds) ** 2
        model._cov_ff = fixed
        model._cov_uu = (fixed + model._spread_square * seconds**2) / units**2
        model._cov_fu = -fixed / units
        return model

    @property
    def spread(self) -> float:
        """The relative standard deviation of a time from its prediction."""
        return math.sqrt(self._spread_square)

    def predict(self, units: float) -> float:
        """Return the median seconds for so much work."""
        return self.fixed_s + self.per_unit_s * units

    def observe(self, seconds: float, units: float) -> float:
        """Learn from a finished attempt; return its error as a logarithm of a ratio."""
        error = self._learn(seconds, units)
        self.count += 1
        return error

    def observe_stopped(self, seconds: float, units: float) -> None:
        """Learn from an attempt that was stopped after so long: it would have taken longer.

        One that was stopped before its predicted end says nothing.
        """
        if seconds > self.predict(units):
            # The mean of what lies above a bound near the mean of a normal distribution.
            self._learn(seconds * math.exp(0.8 * self.spread), units)

    def _learn(self, seconds: float, units: float) -> float:
        predicted_s = self.predict(units)
        error = math.log(max(seconds, _SHORTEST_S) / predicted_s)
        if self._is_new_speed(error):
            self._rescale(math.exp(median(self._recent_errors)))
        else:
            self._update(error, predicted_s, units)
        return error

    def _is_new_speed(self, error: float) -> bool:
        self._recent_errors.append(error)
        errors = self._recent_errors
        bound = _DRIFT_SPREADS * self.spread
        return len(errors) == _DRIFT_COUNT and (min(errors) > bound or max(errors) < -bound)

    def _rescale(self, factor: float) -> None:
        self.fixed_s *= factor
        self.per_unit_s *= factor
        self.speed_factor *= factor
        doubt = self._spread_square / _DRIFT_COUNT
        self._cov_ff = self._cov_ff * factor**2 + doubt * self.fixed_s**2
        self._cov_uu = self._cov_uu * factor**2 + doubt * self.per_unit_s**2
        self._cov_fu = self._cov_fu * factor**2 + doubt * self.fixed_s * self.per_unit_s
        self._recent_errors.clear()

    def _update(self, error: float, predicted_s: float, units: float) -> None:
        drift = self._spread_square / _MEMORY**2
        self._cov_ff += drift * self.fixed_s**2
        self._cov_uu += drift * self.per_unit_s**2
        self._cov_fu += drift * self.fixed_s * self.per_unit_s
        with_fixed = self._cov_ff + self._cov_fu * units
        with_unit = self._cov_fu + self._cov_uu * units
        doubt = (with_fixed + with_unit * units) / predicted_s**2
        total = doubt + self._spread_square
        bound = _CLIP * math.sqrt(total)
        clipped = max(-bound, min(bound, error))
        gain = clipped / (total * predicted_s)
        # Neither part falls below a tenth in one step, so both stay positive.
        self.fixed_s = max(0.1 * self.fixed_s, self.fixed_s + with_fixed * gain)
        self.per_unit_s = max(0.1 * self.per_unit_s, self.per_unit_s + with_unit * gain)
        scale = total * predicted_s**2
        self._cov_ff -= with_fixed**2 / scale
        self._cov_uu -= with_unit**2 / scale
        self._cov_fu -= with_fixed * with_unit / scale
        # An error of a prediction that was still in doubt says less about the spread.
        square = clipped**2 * self._spread_square / total
        memory = min(self.count + 3, _SPREAD_MEMORY)
        self._spread_square += (square - self._spread_square) / memory
        lowest, highest = _LOWEST_SPREAD**2, _HIGHEST_SPREAD**2
        self._spread_square = max(lowest, min(highest, self._spread_square))

    def to_json(self) -> dict[str, float]:
        """Return all that was learned."""
        return {
            "fixed_s": self.fixed_s,
            "per_unit_s": self.per_unit_s,
            "count": self.count,
            "spread": self.spread,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, float]) -> StageModel:
        """Go on from what was learned, a little in doubt: the machine may have changed.

        Raises:
            KeyError: something is missing.
            ValueError: a value is impossible.
        """
        values = {name: float(saved[name]) for name in ("fixed_s", "per_unit_s", "spread", "count")}
        if not all(math.isfinite(value) and value >= 0 for value in values.values()):
            raise ValueError(f"estimates: must be finite and not negative, got {values}")
        if values["fixed_s"] + values["per_unit_s"] <= 0 or values["spread"] <= 0:
            raise ValueError(f"estimates: must be above 0, got {values}")
        model = cls(Prior(values["fixed_s"], values["per_unit_s"], doubt=0.2), values["spread"])
        model.count = int(values["count"])
        return model


class CarryOver:
    """How much of one stage's error the later stages of the same slot share, learned.

    With it the rest of a slot is predicted again from its finished stages.
    """

    def __init__(self) -> None:
        self._square = 0.05
        self._product = 0.0

    def observe(self, earlier: float, later: float) -> None:
        """Learn from the errors of both, as logarithms of ratios; outliers count little."""
        earlier, later = (max(-0.5, min(0.5, error)) for error in (earlier, later))
        self._square = 0.98 * self._square + earlier**2
        self._product = 0.98 * self._product + earlier * later

    def factor(self, earlier: float) -> float:
        """Return by what the prediction of the later stages is to be multiplied."""
        share = max(0.0, min(1.0, self._product / self._square))
        return math.exp(share * max(-0.5, min(0.5, earlier)))
