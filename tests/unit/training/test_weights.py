"""The weights in the package, as they are shipped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training import evaluate
from training.evaluate_formats import FORMATS
from training.evaluate_motion import Performance, correlations
from training.evaluate_speech import SENTENCES
from training.faces import ATTRIBUTES
from training.judge import Judge
from vortex.models.flux import FluxImage
from vortex.models.liveportrait import LivePortrait
from vortex.models.mini import shipped_weights
from vortex.utils.cancellation import CancellationToken
from vortex.utils.device import half_precision

CPU = torch.device("cpu")
WEIGHTS = shipped_weights()


FULL_BEARD = 2  # the number of a held-out face
SAMPLE = (10, [0], 3, 3.0, ("64x128", "320x240"))
WHOLE = (
    evaluate.PROMPTS,
    range(evaluate.FACES),
    len(SENTENCES),
    evaluate.LONGEST_SPEECH_S,
    FORMATS,
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SAMPLE, id="sample", marks=pytest.mark.timeout(600)),
        pytest.param(WHOLE, id="whole", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def figures(
    request: pytest.FixtureRequest, mini_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Give what `make evaluate` measures, on its first few prompts and faces or on all."""
    prompts, faces, sentences, speech_s, formats = request.param
    output: Path = tmp_path_factory.mktemp("evaluation")
    (output / "kokoro").symlink_to(mini_models / "mini" / "kokoro")
    return evaluate.run(
        WEIGHTS,
        output,
        seed=evaluate.SEED,
        device=CPU,
        count=prompts,
        faces=faces,
        sentences=sentences,
        speech_s=speech_s,
        formats=formats,
        say=lambda _: None,
    )


@pytest.fixture(scope="module")
def performances(mini_models: Path) -> list[Performance]:
    """Give several faces that speak, a few frames a second."""
    model = LivePortrait.load(WEIGHTS / "liveportrait", device=CPU, dtype=half_precision(CPU))
    speech = evaluate.speech_of(mini_models / "mini" / "kokoro")
    return evaluate.held_out_performances(model, speech, range(3), evaluate.SEED, fps=3)


@pytest.fixture(scope="module")
def unchanged(performances: list[Performance]) -> dict[str, float]:
    """Give in what share of the frames each attribute stays as it is in the portrait.

    Over several faces, since hair differs most.
    """
    judge = Judge.load(WEIGHTS / "judge.safetensors")
    shares = [each.share_unchanged(judge, each.rendered) for each in performances]
    return {name: float(np.mean([some[name] for some in shares])) for name in ATTRIBUTES}


def test_shipped_weights_stay_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 25_000_000


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_portraits_show_what_held_out_prompts_ask_for(
    figures: dict[str, Any], attribute: str
) -> None:
    assert figures["attributes"][attribute] >= 0.9


@pytest.mark.parametrize("encoder", ["clip-b", "clip-l", "ensemble"])
def test_self_check_tells_a_videos_own_prompt_from_others(
    figures: dict[str, Any], encoder: str
) -> None:
    measured = figures["self_check"][encoder]
    assert measured["area_under_curve"] >= 0.95
    assert measured["mismatched_rejected"] >= 0.9
    assert measured["matched_rejected"] <= 0.1


@pytest.mark.parametrize("words", ["outside", "foreign", "noise"])
def test_self_check_does_not_vouch_for_words_that_it_does_not_know(
    figures: dict[str, Any], words: str
) -> None:
    assert figures["honesty"][f"{words}_passed"] <= 0.05


def test_concepts_are_told_inside_the_vocabulary_and_left_open_outside(
    figures: dict[str, Any],
) -> None:
    measured = figures["honesty"]
    assert measured["concepts_area_under_curve"] >= 0.95
    assert measured["outside_concepts_decided"] == 0.0
    assert measured["own_refused"] <= 0.1


def test_every_format_passes_the_self_check_as_often_as_the_square_one(
    figures: dict[str, Any],
) -> None:
    shares = figures["formats"]
    assert min(shares.values()) >= shares["square"] - 0.05


def test_frames_are_close_to_drawings_of_the_same_motion(figures: dict[str, Any]) -> None:
    assert figures["motion"]["psnr_db"] >= 22


def test_mouth_in_the_pixels_opens_as_the_phonemes_ask(figures: dict[str, Any]) -> None:
    assert figures["motion"]["lips_correlation"] >= 0.85
    assert figures["motion"]["lips_correlation_worst"] >= 0.6
    assert abs(figures["motion"]["lips_lag_frames"]) <= 1
    assert figures["motion"]["closed_when_asked"] >= 0.9


def test_mouth_opens_in_a_full_beard_too(performances: list[Performance]) -> None:
    bearded = performances[FULL_BEARD]
    assert bearded.face.attributes.facial_hair == "beard"
    assert correlations(bearded.seen_openings(), bearded.openings)[0] >= 0.6


def test_half_precision_draws_the_same_video(mini_models: Path) -> None:
    speech = evaluate.speech_of(mini_models / "mini" / "kokoro", 2.0)

    def video(dtype: torch.dtype) -> torch.Tensor:
        model = LivePortrait.load(WEIGHTS / "liveportrait", device=CPU, dtype=dtype)
        (performance,) = evaluate.held_out_performances(model, speech, [0], evaluate.SEED, fps=4)
        return performance.rendered.float()

    difference = (video(torch.float32) - video(torch.bfloat16)) / 255.0
    assert -10 * difference.square().mean().log10() >= 50  # dB; 57 over six faces of 66 frames


def test_recogniser_understands_figures_dates_and_names(figures: dict[str, Any]) -> None:
    rates = figures["word_error_rate"]
    if "af_heart" not in rates:
        pytest.skip("the models were built without npm, so without English voices")
    assert rates["all"] <= 0.08


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_who_it_is_stays_the_same_through_a_video(
    unchanged: dict[str, float], attribute: str
) -> None:
    # Outlines of hair are softer in motion than in the portrait.
    least = 0.9 if attribute == "hair_style" else 0.95
    assert unchanged[attribute] >= least


def test_words_that_mean_nothing_here_change_little() -> None:
    image_model = FluxImage.load(WEIGHTS / "flux", device=CPU, dtype=torch.float32)

    def picture(prompt: str) -> torch.Tensor:
        return image_model.generate(
            prompt, width=128, height=128, steps=4, seed=3, token=CancellationToken()
        )

    plain = picture("a woman with long red hair in a green coat in front of a blue wall")
    strange = picture("a woman with long red hair in a green coat in front of a blue wall xqzzv")
    other = picture("a bald man with a black beard in a white shirt in front of a yellow wall")
    changed = (plain - strange).abs().mean()
    assert changed < 0.35 * (plain - other).abs().mean()
