from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vortex.orchestration.learning import CarryOver, Prior, StageModel


def trained(count: int, *, fixed_s: float = 2.0, per_unit_s: float = 0.5) -> StageModel:
    """Return a model that saw so many attempts with a spread of 10 percent."""
    draws = random.Random(1)
    model = StageModel(Prior(1.0, 1.0))
    for _ in range(count):
        units = draws.uniform(1, 20)
        model.observe((fixed_s + per_unit_s * units) * math.exp(draws.gauss(0, 0.1)), units)
    return model


def test_fixed_and_proportional_parts_are_both_learned() -> None:
    model = trained(200)
    for units in (1.0, 20.0, 60.0):
        assert model.predict(units) == pytest.approx(2.0 + 0.5 * units, rel=0.06)
    assert 0.07 < model.spread < 0.13


def test_short_slot_does_not_predict_longer_ones_in_proportion_once_two_lengths_were_seen() -> None:
    model = StageModel.of_first(3.0, units=3.0)
    model.observe(5.0, units=23.0)
    assert model.predict(23.0) == pytest.approx(5.0, rel=0.15)
    assert model.predict(45.0) < 12.0


def test_prior_is_outweighed_by_a_few_observations() -> None:
    model = StageModel(Prior(0.5, 0.5))
    for _ in range(4):
        model.observe(10.0, 4.0)
    assert model.predict(4.0) == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize("factor", [0.05, 20.0])
def test_outlier_moves_the_prediction_by_little(factor: float) -> None:
    model = trained(40)
    before = model.predict(10.0)
    model.observe(before * factor, 10.0)
    assert model.predict(10.0) == pytest.approx(before, rel=0.06)


@pytest.mark.parametrize("factor", [0.5, 2.0, 6.0])
def test_change_of_speed_is_followed_within_four_observations(factor: float) -> None:
    model = trained(40)
    for _ in range(4):
        model.observe(factor * (2.0 + 0.5 * 10.0), 10.0)
    for units in (2.0, 10.0, 30.0):
        assert model.predict(units) == pytest.approx(factor * (2.0 + 0.5 * units), rel=0.1)


def test_stopped_attempts_teach_that_all_has_become_slower() -> None:
    model = trained(40)
    for _ in range(3):
        model.observe_stopped(12.0, 10.0)  # 7 s were predicted
    assert model.predict(10.0) > 11.0


def test_attempt_stopped_before_its_predicted_end_teaches_nothing() -> None:
    model = trained(40)
    before = model.to_json()
    for _ in range(5):
        model.observe_stopped(6.0, 10.0)
    assert model.to_json() == before


@given(
    observations=st.lists(
        st.tuples(st.floats(1e-6, 1e4), st.floats(0.0, 1e4), st.booleans()), max_size=40
    )
)
def test_prediction_is_always_positive_and_finite(
    observations: list[tuple[float, float, bool]],
) -> None:
    model = StageModel(Prior(1.0, 0.1))
    for seconds, units, finished in observations:
        learn = model.observe if finished else model.observe_stopped
        learn(seconds, units)
        assert 0 < model.predict(units) < math.inf
        assert 0 < model.spread < 1


@pytest.mark.parametrize(("shared", "expected"), [(1.0, 1.2), (0.0, 1.0)])
def test_later_stages_follow_an_earlier_error_as_far_as_they_usually_do(
    shared: float, expected: float
) -> None:
    draws = random.Random(2)
    carry_over = CarryOver()
    for _ in range(200):
        error = draws.gauss(0, 0.1)
        carry_over.observe(error, shared * error + (1 - shared) * draws.gauss(0, 0.1))
    assert carry_over.factor(math.log(1.2)) == pytest.approx(expected, abs=0.04)


def test_nothing_is_carried_over_before_it_was_learned() -> None:
    assert CarryOver().factor(0.3) == 1.0
