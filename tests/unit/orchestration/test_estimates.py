from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vortex.orchestration import StageEstimates
from vortex.orchestration.estimates import STAGES, work_units

SECONDS = st.floats(min_value=0.001, max_value=100)


def test_unmeasured_stage_is_not_predicted() -> None:
    assert StageEstimates().predict("video", units=10) is None


@given(seconds=st.lists(SECONDS, min_size=1, max_size=15), units=SECONDS)
def test_prediction_is_the_median_cost_of_a_unit(seconds: list[float], units: float) -> None:
    estimates = StageEstimates()
    for each in seconds:
        estimates.observe("video", each, units=2.0)
    assert estimates.predict("video", units) == pytest.approx(median(seconds) / 2.0 * units)


def test_one_slow_slot_does_not_move_the_prediction() -> None:
    estimates = StageEstimates()
    for seconds in (1.0, 1.0, 60.0):
        estimates.observe("image", seconds)
    assert estimates.predict("image") == 1.0


def test_old_observations_are_forgotten() -> None:
    estimates = StageEstimates()
    for seconds in [9.0] * 100 + [1.0] * 15:
        estimates.observe("image", seconds)
    assert estimates.predict("image") == 1.0


def test_no_prediction_is_above_the_limit_of_its_stage() -> None:
    estimates = StageEstimates({"audio": 15.0})
    estimates.observe("audio", 2.0, units=1.0)
    assert estimates.predict("audio", units=5.0) == 10.0
    assert estimates.predict("audio", units=45.0) == 15.0


def test_slot_is_predicted_as_its_critical_path_once_every_stage_is_known() -> None:
    recipe = {"slot_params": {"duration_sec": 2.0, "fps": 10}, "audio_track": {"script": "x" * 30}}
    estimates = StageEstimates()
    costs = dict(zip(STAGES, (3.0, 5.0, 0.5, 1.0), strict=True))
    for stage, cost in costs.items():
        assert estimates.predict_slot(recipe) is None
        estimates.observe(stage, cost)
    assert estimates.predict_slot(recipe) == max(2 * 3.0, 5.0) + 20 * 0.5 + 1.0


def test_audio_grows_with_the_script_until_the_slot_is_full() -> None:
    def audio_units(characters: int) -> float:
        return work_units(
            {"slot_params": {"duration_sec": 10}, "audio_track": {"script": "x" * characters}}
        )["audio"]

    assert audio_units(1) == 1.0
    assert audio_units(75) == 5.0
    assert audio_units(5000) == 10.0


@given(duration_s=st.floats(min_value=1e-6, max_value=45), script=st.text(max_size=50))
def test_every_stage_has_at_least_one_unit_of_work(duration_s: float, script: str) -> None:
    recipe = {"slot_params": {"duration_sec": duration_s}, "audio_track": {"script": script}}
    assert min(work_units(recipe).values()) >= 1.0


def test_recipe_without_slot_params_counts_as_a_full_slot() -> None:
    assert work_units({"audio_track": {"script": "x"}})["video"] == 45.0 * 24
