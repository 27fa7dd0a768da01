"""Fits what the self-check's cosines count for, on pictures that the worker makes itself.

Prompts are put together from parts, of which it is known what they say. For each, one video is made
as a slot's is, and both encoders compare its keyframes with all prompts: with its own, which should
fit, and with those of the others, which should not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vortex.config import PipelineConfig, asked_of_image_model
from vortex.errors import VortexInitializationError
from vortex.models.calibration import Calibration, CalibrationFile, Figures
from vortex.models.clip_ensemble import (
    CLIP_SCORE_WEIGHT,
    CONCEPT_PREFIX,
    NEUTRAL_TEXTS,
    PROMPT_PREFIX,
    THRESHOLDS,
    WEIGHT_B,
    WEIGHT_L,
    ClipEncoder,
    clip_score,
    keyframe_indices,
)
from vortex.models.kokoro import Speech
from vortex.models.stage_models import StageModels
from vortex.utils.cancellation import CancellationToken

PROMPTS = 100
"""How many are made by default."""
LEAST_PROMPTS = 20
MOST_PROMPTS = 2000
REFUSED_SHARE = 0.05
"""Of pictures, whose own prompt may be below one encoder's threshold; fewer, where the encoder
tells prompts so well apart that as few others pass."""
LEAST_SEPARATION = 0.8
"""Below this, no threshold tells fitting pictures from others."""

_WEIGHTS = {"clip-b": WEIGHT_B, "clip-l": WEIGHT_L}
_SCRIPT = "Good evening, and welcome."
_SECONDS = 2
_FPS = 12
# Words that both profiles know.
_COLOURS = ("black", "white", "red", "green", "blue", "yellow", "pink")
_PEOPLE = ("a woman", "a man")
_HAIR = tuple(
    f"{length} {colour} hair"
    for length in ("short", "long", "curly")
    for colour in ("black", "brown", "blonde", "red", "grey")
)
_GLASSES = ("glasses", "sunglasses", "")
_BEARDS = ("a beard", "a moustache", "", "")
_HATS = ("a hat", "a cap", "a crown", "", "")
_GARMENTS = tuple(f"a {c} {what}" for what in ("coat", "jumper", "shirt") for c in _COLOURS)
_BACKGROUNDS = tuple(f"a {colour} background" for colour in _COLOURS)

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Truths = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class KnownPrompt:
    """A prompt, and the things that it says are there."""

    text: str
    parts: frozenset[str]

    @classmethod
    def sample(cls, rng: np.random.Generator) -> KnownPrompt:
        """Draw one at random."""
        person, hair, glasses, beard, hat, garment, background = (
            str(rng.choice(some))
            for some in (_PEOPLE, _HAIR, _GLASSES, _BEARDS, _HATS, _GARMENTS, _BACKGROUNDS)
        )
        if person != "a man":
            beard = ""
        face = " and ".join(part for part in (hair, beard, glasses) if part)
        worn = f"{garment} and {hat}" if hat else garment
        return cls(
            f"a portrait of {person} with {face}, wearing {worn}, {background}",
            frozenset({person, hair, glasses, beard, hat, garment, background} - {""}),
        )


def known_prompts(count: int, seed: int) -> list[KnownPrompt]:
    """Return so many different prompts; same arguments, same prompts."""
    rng = np.random.default_rng(seed)
    endless = (KnownPrompt.sample(rng) for _ in itertools.count())
    different = dict.fromkeys(itertools.islice(endless, 2 * count))
    return list(itertools.islice(different, count))


@dataclass(frozen=True)
class Seen:
    """What one encoder makes of all videos."""

    prompts: Floats
    """Cosines, `[videos, keyframes, prompts]`."""
    concepts: Floats
    """By how much each fits better than neutral texts do, `[videos, concepts]`."""


@dataclass(frozen=True)
class Fitted:
    """The maps, and how good they are on videos that they were not fitted to."""

    calibrations: Mapping[str, Calibration]
    """By encoder."""
    figures: Mapping[str, Figures]
    """By encoder, and of both together: `both`."""
    concepts_missed: float
    """Share of the things in a video's own prompt that are not found in it."""
    concepts_found: float
    """Share of the things in other prompts alone that are found."""

    def write(self, directory: Path) -> None:
        """Write each encoder's file into the profile's directory, bound to the weights in it."""
        for name, calibration in self.calibrations.items():
            file = CalibrationFile.of(directory, name, calibration, self.figures[name])
            file.write(directory)


def calibrate(
    models: StageModels,
    settings: PipelineConfig,
    *,
    count: int = PROMPTS,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Fitted:
    """Make a video for each of many prompts, and fit both encoders' maps; blocks for minutes.

    Args:
        models: of the profile, with the self-check uncalibrated.
        settings: size and steps of the portraits.
        count: prompts and videos.
        seed: of prompts and portraits.
        progress: told how many videos were made.

    Raises:
        VortexInitializationError: an encoder cannot tell the videos apart, or does not know a word.
    """
    prompts = known_prompts(count, seed)
    unknown = models.clip.unknown_words([prompt.text for prompt in prompts])
    if unknown:
        raise VortexInitializationError(
            f"the self-check's models do not know {', '.join(unknown)}; they cannot be calibrated"
        )
    speech = models.kokoro.synthesize(_SCRIPT, max_duration_s=_SECONDS, token=CancellationToken())
    keyframes = []
    for number, prompt in enumerate(prompts):
        keyframes.append(_keyframes(models, settings, prompt.text, seed + number, speech))
        progress(number + 1)
    concepts = sorted(frozenset().union(*(prompt.parts for prompt in prompts)))
    texts = [prompt.text for prompt in prompts]
    with torch.inference_mode():
        seen = {
            name: look(encoder, keyframes, texts, concepts)
            for name, encoder in models.clip.encoders.items()
        }
    shown = np.array([[concept in prompt.parts for concept in concepts] for prompt in prompts])
    return fit(seen, shown)


def _keyframes(
    models: StageModels, settings: PipelineConfig, prompt: str, seed: int, speech: Speech
) -> torch.Tensor:
    """Return what the self-check looks at of a slot's video, uint8 `[keyframes, 3, S, S]`."""
    side, frame_count = settings.image_size, _SECONDS * _FPS
    portrait = models.flux.generate(
        asked_of_image_model(settings.portrait_prompt, prompt),
        width=side,
        height=side,
        steps=settings.steps,
        seed=seed,
        token=CancellationToken(),
    )
    batches = models.animator.animate(
        portrait,
        speech,
        fps=_FPS,
        frame_count=frame_count,
        width=side,
        height=side,
        expressions=["neutral"],
        seed=seed,
        batch_frames=1,
        chosen=iter([frame] for frame in keyframe_indices(frame_count)),
        token=CancellationToken(),
    )
    return torch.cat(list(batches))


def look(
    encoder: ClipEncoder,
    keyframes: Sequence[torch.Tensor],
    prompts: Sequence[str],
    concepts: Sequence[str],
) -> Seen:
    """Compare every video with every text, as the self-check does."""
    texts = [
        *(PROMPT_PREFIX + prompt for prompt in prompts),
        *(CONCEPT_PREFIX + concept for concept in concepts),
        *(PROMPT_PREFIX + text for text in NEUTRAL_TEXTS),
    ]
    read = torch.cat([encoder.encode_texts(texts[i : i + 64]) for i in range(0, len(texts), 64)])
    seen = torch.stack([encoder.encode_frames(some.float() / 255.0) for some in keyframes])
    cosines = (seen @ read.T).cpu().numpy()
    of_concepts = cosines[..., len(prompts) : -len(NEUTRAL_TEXTS)].mean(axis=1)
    neutral = cosines[..., -len(NEUTRAL_TEXTS) :].mean(axis=(1, 2))
    return Seen(cosines[..., : len(prompts)], of_concepts - neutral[:, None])


def fit(seen: Mapping[str, Seen], shown: Truths) -> Fitted:
    """Fit each encoder's map to all videos, and measure maps fitted to half of them on the other.

    Args:
        seen: by encoder.
        shown: which concept is part of each video's prompt, `[videos, concepts]`.

    Raises:
        VortexInitializationError: an encoder cannot tell the videos apart.
    """
    common = shown.astype(int) @ shown.T.astype(int)
    # Prompts that differ in one thing alone are true of each other's pictures but for that.
    other = shown.sum(axis=1)[:, None] - common >= 2
    halves = [np.arange(len(shown)) % 2 == half for half in (0, 1)]
    maps = {name: _fit_map(some, other, shown, name) for name, some in seen.items()}
    measured = [
        _measure(
            {name: _part(some, tested) for name, some in seen.items()},
            {
                name: _fit_map(
                    _part(some, ~tested), other[~tested][:, ~tested], shown[~tested], name
                )
                for name, some in seen.items()
            },
            other[tested][:, tested],
            shown[tested],
        )
        for tested in halves
    ]
    figures = {
        name: Figures(
            prompts=len(shown),
            **{
                figure: round(float(np.mean([each[name][figure] for each in measured])), 4)
                for figure in measured[0][name]
            },
        )
        for name in (*seen, "both")
    }
    missed, found = (
        round(float(np.mean([each["concepts"][figure] for each in measured])), 4)
        for figure in ("missed", "found")
    )
    return Fitted(maps, figures, missed, found)


def _part(seen: Seen, videos: Truths) -> Seen:
    return Seen(seen.prompts[videos][:, :, videos], seen.concepts[videos])


def _fit_map(seen: Seen, other: Truths, shown: Truths, name: str) -> Calibration:
    """Put the threshold where few of the own prompts are below, and the mean of others at 0."""
    cosines = seen.prompts.mean(axis=1)
    own = cosines.diagonal()
    separation = _separation(own, cosines[other])
    if separation < LEAST_SEPARATION:
        raise VortexInitializationError(
            f"{name} prefers a picture's own prompt to another's in only {separation:.0%} of cases,"
            f" {LEAST_SEPARATION:.0%} are needed; it cannot be calibrated for these pictures"
        )
    lowest = min(float(np.quantile(own, REFUSED_SHARE)), _balance(own, cosines[other]))
    line = THRESHOLDS[name] / CLIP_SCORE_WEIGHT
    scale = line / (lowest - float(cosines[other].mean()))
    return Calibration(
        scale=round(scale, 4),
        offset=round(line - scale * lowest, 4),
        concept_margin=_fit_margin(seen.concepts, shown),
    )


def _fit_margin(contrasts: Floats, shown: Truths) -> float:
    """Return the margin with which as many things are missed as are wrongly found."""
    places = np.linspace(-0.4, 0.4, 801)
    missed = np.array([(contrasts[shown] <= place).mean() for place in places])
    found = np.array([(contrasts[~shown] > place).mean() for place in places])
    return round(float(places[np.argmin(abs(missed - found))]), 3)


def _measure(
    seen: Mapping[str, Seen], maps: Mapping[str, Calibration], other: Truths, shown: Truths
) -> dict[str, dict[str, float]]:
    """Return the figures of some videos: by encoder, of both together, and of concepts."""
    figures: dict[str, dict[str, float]] = {}
    both, both_plain = np.ones_like(other), np.ones_like(other)
    ensemble: Any = 0.0
    contrasts: Any = 0.0
    for name, some in seen.items():
        cosines = some.prompts.mean(axis=1)
        passed, plain = (_passed(some, name, each) for each in (maps[name], Calibration()))
        figures[name] = {"separation": _separation(cosines.diagonal(), cosines[other])}
        figures[name] |= _shares(passed, plain, other)
        both, both_plain = both & passed, both_plain & plain
        ensemble = ensemble + _WEIGHTS[name] * (maps[name].scale * cosines + maps[name].offset)
        contrasts = contrasts + _WEIGHTS[name] * (some.concepts - maps[name].concept_margin)
    figures["both"] = {"separation": _separation(ensemble.diagonal(), ensemble[other])}
    figures["both"] |= _shares(both, both_plain, other)
    figures["concepts"] = {
        "missed": float((contrasts[shown] <= 0).mean()),
        "found": float((contrasts[~shown] > 0).mean()),
    }
    return figures


def _passed(seen: Seen, name: str, calibration: Calibration) -> Truths:
    """Return which videos pass with which prompts, `[videos, prompts]`."""
    scores = clip_score(calibration.apply(torch.from_numpy(seen.prompts))).mean(dim=1)
    passed: Truths = (scores >= THRESHOLDS[name]).numpy()
    return passed


def _shares(passed: Truths, plain: Truths, other: Truths) -> dict[str, float]:
    return {
        "refused": float(1 - passed.diagonal().mean()),
        "accepted": float(passed[other].mean()),
        "refused_uncalibrated": float(1 - plain.diagonal().mean()),
        "accepted_uncalibrated": float(plain[other].mean()),
    }


def _balance(own: Floats, others: Floats) -> float:
    """Return the cosine below which as large a share of own prompts lies as of others above it."""
    places = np.linspace(-1.0, 1.0, 4001)
    refused = np.searchsorted(np.sort(own), places) / len(own)
    accepted = 1 - np.searchsorted(np.sort(others), places) / len(others)
    return float(places[np.argmax(refused >= accepted)])


def _separation(own: Floats, others: Floats) -> float:
    """Return the area under the curve: how often an own prompt has the higher cosine."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, own, side="left") + np.searchsorted(ordered, own, side="right")
    return float(below.mean() / (2 * len(others)))
