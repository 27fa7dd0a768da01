"""Fitting what cosines count for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vortex.errors import VortexInitializationError
from vortex.models.calibrate import (
    Floats,
    Seen,
    Truths,
    fit,
    known_prompts,
)
from vortex.models.clip_ensemble import CLIP_SCORE_WEIGHT, THRESHOLDS, DualClip

VIDEOS = 400


def shown(rng: np.random.Generator) -> Truths:
    """Return which of 20 things each video's prompt names: one of each five."""
    choices = rng.integers(5, size=(VIDEOS, 4))
    things: Truths = np.zeros((VIDEOS, 20), dtype=bool)
    for group in range(4):
        things[np.arange(VIDEOS), 5 * group + choices[:, group]] = True
    return things


def seen(
    rng: np.random.Generator, truths: Truths, *, own: float, others: float, noise: float = 0.02
) -> Seen:
    """Return cosines around one value for own prompts and around another for the rest."""
    prompts: Floats = rng.normal(others, noise, size=(VIDEOS, VIDEOS))
    np.fill_diagonal(prompts, rng.normal(own, noise, size=VIDEOS))
    frames = np.repeat(prompts[:, None], 5, axis=1)
    return Seen(frames, rng.normal(np.where(truths, 0.05, -0.03), 0.01))


def test_threshold_of_encoders_that_confuse_some_prompts_refuses_few_of_the_own() -> None:
    rng = np.random.default_rng(1)
    truths = shown(rng)
    low = {name: seen(rng, truths, own=0.17, others=0.12) for name in THRESHOLDS}
    fitted = fit(low, truths)
    for name, threshold in THRESHOLDS.items():
        figures, found = fitted.figures[name], fitted.calibrations[name]
        assert 0.9 < figures.separation < 0.99
        assert figures.refused_uncalibrated > 0.9
        assert figures.refused == pytest.approx(0.05, abs=0.03)
        assert 0.1 < figures.accepted < 0.4
        own = torch.from_numpy(low[name].prompts.mean(axis=1).diagonal().copy())
        scores = CLIP_SCORE_WEIGHT * found.apply(own)
        assert float((scores < threshold).float().mean()) == pytest.approx(0.05, abs=0.01)
    assert fitted.figures["both"].refused <= 0.12
    assert fitted.figures["both"].accepted < fitted.figures["clip-b"].accepted


def test_threshold_of_encoders_that_tell_prompts_well_apart_lies_between() -> None:
    rng = np.random.default_rng(1)
    truths = shown(rng)
    fitted = fit({name: seen(rng, truths, own=0.3, others=0.1) for name in THRESHOLDS}, truths)
    for name in THRESHOLDS:
        assert fitted.figures[name].refused < 0.01
        assert fitted.figures[name].accepted < 0.01


def test_encoders_of_different_ranges_come_to_one_scale() -> None:
    rng = np.random.default_rng(2)
    truths = shown(rng)
    fitted = fit(
        {
            "clip-b": seen(rng, truths, own=0.31, others=0.18),
            "clip-l": seen(rng, truths, own=0.22, others=0.11, noise=0.015),
        },
        truths,
    )
    for name, unrelated, own in (("clip-b", 0.18, 0.31), ("clip-l", 0.11, 0.22)):
        low, high = fitted.calibrations[name].apply(torch.tensor([unrelated, own]))
        assert float(low) == pytest.approx(0.0, abs=0.01)
        assert CLIP_SCORE_WEIGHT * float(high) > THRESHOLDS[name] + 0.1


def test_margin_of_concepts_lies_between_those_shown_and_those_that_are_not() -> None:
    rng = np.random.default_rng(3)
    truths = shown(rng)
    fitted = fit({name: seen(rng, truths, own=0.3, others=0.1) for name in THRESHOLDS}, truths)
    assert -0.03 < fitted.calibrations["clip-b"].concept_margin < 0.05
    assert fitted.concepts_missed < 0.01
    assert fitted.concepts_found < 0.01


def test_encoder_that_cannot_tell_pictures_apart_is_not_calibrated() -> None:
    rng = np.random.default_rng(4)
    truths = shown(rng)
    blind = {
        "clip-b": seen(rng, truths, own=0.3, others=0.1),
        "clip-l": seen(rng, truths, own=0.2, others=0.19),
    }
    with pytest.raises(VortexInitializationError, match=r"^clip-l prefers .* in only 6\d% of"):
        fit(blind, truths)


def test_prompts_are_different_and_the_same_every_time() -> None:
    prompts = known_prompts(100, seed=0)
    assert len({prompt.text for prompt in prompts}) == 100
    assert prompts == known_prompts(100, seed=0)
    assert prompts != known_prompts(100, seed=1)
    for prompt in prompts:
        assert all(part in prompt.text for part in prompt.parts)
        assert 4 <= len(prompt.parts) <= 7


def test_prompts_are_within_the_vocabulary_of_mini(mini_models: Path) -> None:
    clip = DualClip.load(mini_models / "mini", device=torch.device("cpu"))
    assert clip.unknown_words([prompt.text for prompt in known_prompts(500, seed=0)]) == ()
