from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import AudioTrack, Recipe, SlotParams, VisualTrack
from vortex.orchestration import StageEstimates
from vortex.orchestration.estimates import MOST_WORK, STAGES, work_units
from vortex.orchestration.estimates_file import EstimatesFile
from vortex.orchestration.learning import Prior
from vortex.rung import FULL, LADDER

SECONDS = st.floats(min_value=0.001, max_value=100)


def recipe_of(script: str = "x", **slot_params: Any) -> Recipe:
    return Recipe(
        slot_params=SlotParams(**slot_params),
        audio_track=AudioTrack(script=script),
        visual_track=VisualTrack(prompt="x"),
    )


def test_unmeasured_stage_is_not_predicted() -> None:
    assert StageEstimates().predict("video", units=10) is None


def test_first_observation_predicts_in_proportion() -> None:
    estimates = StageEstimates()
    estimates.observe("video", 4.0, units=2.0)
    assert estimates.predict("video", units=5.0) == pytest.approx(10.0)


def test_one_slow_slot_hardly_moves_the_prediction() -> None:
    estimates = StageEstimates()
    for seconds in (1.0, 1.0, 60.0):
        estimates.observe("image", seconds)
    assert estimates.predict("image") == pytest.approx(1.0, rel=0.25)


def test_old_observations_are_forgotten() -> None:
    estimates = StageEstimates()
    for seconds in [9.0] * 100 + [1.0] * 15:
        estimates.observe("image", seconds)
    assert estimates.predict("image") == pytest.approx(1.0, rel=0.01)


def test_prior_predicts_before_anything_was_measured() -> None:
    estimates = StageEstimates(priors={"video": Prior(fixed_s=1.0, per_unit_s=0.5)})
    assert estimates.predict("video", units=4.0) == 3.0
    assert estimates.predict("audio") is None


# Rungs


def test_each_rung_is_predicted_by_its_own_work() -> None:
    """A second of 25 frames of 512x512: of each, 0.8 is rendering and 0.2 encoding."""
    estimates = StageEstimates()
    for stage in STAGES:
        estimates.observe(stage, 1.0)
    recipe = recipe_of(duration_sec=1.0, fps=25, resolution="512x512")
    full, half, third = LADDER
    assert work_units(recipe, full) == pytest.approx(
        {"audio": 1.0, "image": 1.0, "video": 25.0, "clip": 1.0}
    )
    assert estimates.predict_slot(recipe, full) == pytest.approx(1 + 25 + 1)
    assert estimates.predict_slot(recipe, half) == pytest.approx(1 + 25 * (0.4 + 0.2) + 1)
    assert estimates.predict_slot(recipe, third) == pytest.approx(
        1 + 25 * (0.8 / 3 + 0.2) + 3 / 5  # its speech takes longer than its portrait
    )


# Limits


@given(
    st.lists(st.tuples(SECONDS, st.floats(1.0, 2000.0), st.booleans()), max_size=20),
    st.booleans(),
)
def test_most_work_is_the_most_that_is_not_ruled_out(
    attempts: list[tuple[float, float, bool]], with_prior: bool
) -> None:
    priors = {"video": Prior(fixed_s=1.0, per_unit_s=0.01)} if with_prior else None
    estimates = StageEstimates({"video": 30.0}, priors)
    for seconds, units, finished in attempts:
        if finished:
            estimates.observe("video", seconds, units)
        else:
            estimates.observe_stopped("video", seconds, units)
    most = estimates.most_work()["video"]
    assert 0 <= most <= MOST_WORK["video"]
    assert estimates.overrun("video", 0.999 * most) is None
    assert most == MOST_WORK["video"] or estimates.overrun("video", 1.001 * most + 1e-3) is not None


def test_most_work_is_all_that_a_recipe_can_ask_for_while_nothing_is_known() -> None:
    largest = recipe_of("x" * 1000, fps=60, resolution="1024x1024")
    assert StageEstimates({"video": 30.0}).most_work() == work_units(largest)


# The rest of a slot


def test_rest_of_a_slot_is_that_of_the_stages_not_yet_finished() -> None:
    estimates = StageEstimates()
    recipe = recipe_of(duration_sec=1.0, fps=25, resolution="512x512")
    for stage, seconds in {"audio": 3.0, "image": 2.0, "video": 0.5}.items():
        estimates.observe(stage, seconds)
    assert estimates.predict_rest(recipe, FULL, "video") is None
    estimates.observe("clip", 1.0)
    rest = {stage: estimates.predict_rest(recipe, FULL, stage) for stage in STAGES}
    assert rest == pytest.approx({"audio": 16.5, "image": 16.5, "video": 13.5, "clip": 1.0})


def estimates_after(slots: int, shared: float) -> StageEstimates:
    """Return estimates of a machine whose stages share so much of their errors."""
    draws = random.Random(1)
    estimates = StageEstimates()
    for _ in range(slots):
        common = draws.gauss(0, 0.2)
        slot = estimates.slot(recipe_of())
        for stage in ("audio", "image", "video", "clip"):
            slot.finished(stage, math.exp(shared * common + (1 - shared) * draws.gauss(0, 0.2)))
    return estimates


@pytest.mark.parametrize(("shared", "lowest", "highest"), [(1.0, 1.35, 1.55), (0.0, 0.9, 1.15)])
def test_rest_of_a_slot_follows_its_finished_stages_as_far_as_they_usually_agree(
    shared: float, lowest: float, highest: float
) -> None:
    estimates = estimates_after(100, shared)
    before = estimates.predict("video", work_units(recipe_of())["video"])
    slot = estimates.slot(recipe_of())
    slot.finished(
        "audio", 1.5 * (estimates.predict("audio", work_units(recipe_of())["audio"]) or 0)
    )
    after = slot.predict("video")
    assert before is not None
    assert after is not None
    assert lowest < after / before < highest


# Across restarts


def test_restored_estimates_predict_as_those_that_were_saved(tmp_path: Path) -> None:
    estimates = estimates_after(20, 0.5)
    file = EstimatesFile(tmp_path, "NVIDIA H100 80GB")
    assert file.path == tmp_path / "estimates.nvidia-h100-80gb.json"
    file.save(estimates.to_json())
    restored = StageEstimates()
    assert file.load_into(restored)
    assert restored.predict_slot(recipe_of()) == pytest.approx(estimates.predict_slot(recipe_of()))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        '{"format": 9, "stages": {}}',
        '{"format": 1}',
        '{"format": 1, "stages": {"video": {"fixed_s": 1}}}',
        '{"format": 1, "stages": {"dance":'
        ' {"fixed_s": 1, "per_unit_s": 1, "count": 1, "spread": 0.1}}}',
        '{"format": 1, "stages": {"video":'
        ' {"fixed_s": -1, "per_unit_s": 1, "count": 1, "spread": 0.1}}}',
        '{"format": 1, "stages": {"video":'
        ' {"fixed_s": NaN, "per_unit_s": 1, "count": 1, "spread": 0.1}}}',
    ],
)
def test_file_that_cannot_be_used_leaves_estimates_as_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    file = EstimatesFile(tmp_path, "cpu")
    file.path.write_text(content)
    estimates = StageEstimates()
    assert not file.load_into(estimates)
    assert estimates.to_json() == {}
    assert "Estimates not restored" in caplog.text


def test_missing_file_is_no_reason_to_complain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not EstimatesFile(tmp_path, "cpu").load_into(StageEstimates())
    assert caplog.text == ""


def test_folder_that_cannot_be_written_only_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    EstimatesFile(tmp_path / "missing", "cpu").save(estimates_after(1, 0.0).to_json())
    assert "Estimates not saved" in caplog.text


def test_no_prediction_is_above_the_limit_of_its_stage() -> None:
    estimates = StageEstimates({"audio": 15.0})
    estimates.observe("audio", 2.0, units=1.0)
    assert estimates.predict("audio", units=5.0) == 10.0
    assert estimates.predict("audio", units=45.0) == 15.0


def test_slot_is_predicted_as_its_critical_path_once_every_stage_is_known() -> None:
    recipe = recipe_of("x" * 30, duration_sec=2.0, fps=10)
    estimates = StageEstimates()
    costs = dict(zip(STAGES, (3.0, 5.0, 0.5, 1.0), strict=True))
    for stage, cost in costs.items():
        assert estimates.predict_slot(recipe) is None
        estimates.observe(stage, cost)
    assert estimates.predict_slot(recipe) == max(2 * 3.0, 5.0) + 20 * 0.5 + 1.0


def test_audio_grows_with_the_script_until_the_slot_is_full() -> None:
    def audio_units(characters: int) -> float:
        return work_units(recipe_of("x" * characters, duration_sec=10))["audio"]

    assert audio_units(1) == 1.0
    assert audio_units(65) == 5.0
    assert audio_units(5000) == 10.0


@given(duration_s=st.floats(min_value=1e-6, max_value=45), script=st.text(min_size=1, max_size=50))
def test_every_stage_has_at_least_one_unit_of_work(duration_s: float, script: str) -> None:
    assert min(work_units(recipe_of(script, duration_sec=duration_s)).values()) >= 1.0


def test_larger_frames_are_more_video_work_and_a_frame_of_512_by_512_is_one_unit() -> None:
    def frame_units(resolution: str) -> float:
        asked = recipe_of(duration_sec=10, fps=10, resolution=resolution)
        return work_units(asked)["video"] / 100

    assert frame_units("512x512") == 1.0
    assert 0.8 < frame_units("64x64") < frame_units("128x128") < 0.82
    assert frame_units("1024x1024") == pytest.approx(1.6)


# What the limits rule out


def slot(seconds: float) -> Recipe:
    """Return a recipe whose video counts ten units a second."""
    return recipe_of(duration_sec=seconds, fps=10)


def refusals_until_tried(estimates: StageEstimates, recipe: Recipe) -> int:
    for refused in range(10_000):
        if estimates.rule_out(recipe) is None:
            return refused
    raise AssertionError("never tried")


def test_slot_that_takes_longer_than_a_limit_is_ruled_out_in_words() -> None:
    estimates = StageEstimates({"video": 20.0})
    estimates.observe("video", 2.0, units=10.0)
    assert estimates.rule_out(slot(9.9)) is None
    overrun = estimates.rule_out(slot(32.5))
    assert str(overrun) == (
        "the video would take about 65 s, over its limit of 20 s (orchestration.timeouts.video_s)"
    )


def test_unmeasured_stage_is_never_ruled_out() -> None:
    estimates = StageEstimates(dict.fromkeys((f"{stage}" for stage in STAGES), 0.001))
    assert estimates.rule_out(slot(45.0)) is None


def test_one_slow_slot_among_quick_ones_rules_nothing_out() -> None:
    estimates = StageEstimates({"video": 20.0})
    for seconds in (18.0, 18.0, 18.0, 0.1):
        estimates.observe("video", seconds, units=10.0)
    assert estimates.rule_out(slot(45.0)) is None


def test_every_refusal_makes_the_next_one_less_likely_until_a_slot_is_tried() -> None:
    estimates = StageEstimates({"video": 20.0})
    estimates.observe("video", 2.0, units=10.0)  # 65 s for the slot below
    assert 3 <= refusals_until_tried(estimates, slot(32.5)) <= 8
    assert estimates.rule_out(slot(32.5)) is None  # until it is known what came of it


@given(seconds=SECONDS, units=st.floats(1.0, 2700.0))
def test_no_slot_is_refused_for_ever(seconds: float, units: float) -> None:
    estimates = StageEstimates({"video": 20.0})
    estimates.observe("video", min(seconds, 20.0))
    recipe = recipe_of(duration_sec=units / 60, fps=60)
    assert refusals_until_tried(estimates, recipe) < 60


def test_slot_that_was_tried_and_stopped_is_tried_again_more_and_more_rarely() -> None:
    estimates = StageEstimates({"video": 20.0})
    estimates.observe("video", 2.0, units=10.0)
    waits = []
    for _ in range(8):
        waits.append(refusals_until_tried(estimates, slot(32.5)))
        estimates.observe_stopped("video", 20.0, units=325.0)
    assert waits == sorted(waits)
    assert waits[0] * 10 < waits[-1] < waits[0] * 20  # the doubling ends
    assert waits[-2] == waits[-1]


def test_slot_that_was_tried_and_made_is_not_ruled_out_again() -> None:
    estimates = StageEstimates({"video": 20.0})
    estimates.observe("video", 2.0, units=10.0)
    assert refusals_until_tried(estimates, slot(32.5)) > 0
    estimates.observe("video", 5.0, units=325.0)  # most of the short slot's time was no frame's
    for _ in range(30):
        estimates.observe("video", 2.0, units=10.0)  # nor when only short slots are remembered
    assert estimates.rule_out(slot(32.5)) is None
    for _ in range(3):
        estimates.observe_stopped("video", 20.0, units=325.0)
    assert estimates.rule_out(slot(32.5)) is not None


def test_stop_of_a_stage_that_was_never_finished_is_learnt_from() -> None:
    estimates = StageEstimates({"video": 20.0})
    estimates.observe_stopped("video", 20.0, units=100.0)
    assert estimates.rule_out(slot(10.0)) is None  # it may have found everything cold
    estimates.observe_stopped("video", 20.0, units=100.0)
    assert estimates.rule_out(slot(5.0)) is None
    overrun = estimates.rule_out(slot(10.0))
    assert str(overrun) == (
        "the video would not end within its limit of 20 s, at which one of this size or smaller"
        " was stopped (orchestration.timeouts.video_s)"
    )
    assert estimates.rule_out(slot(10.0)) is None  # that is weak evidence


def test_stopped_attempts_do_not_blur_what_finished_ones_cost() -> None:
    estimates = StageEstimates({"video": 20.0})
    estimates.observe("video", 2.0, units=10.0)
    for _ in range(5):
        estimates.observe_stopped("video", 20.0, units=1000.0)  # a unit took more than 0.02 s
    assert estimates.predict("video", units=20.0) == 4.0
    assert estimates.overrun("video", units=101.0) is not None
