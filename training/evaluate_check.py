"""Measures what the self-check says of words that it does not know, and of single concepts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.captions import Caption
from training.faces import Attributes
from vortex.models.calibration import Calibration
from vortex.models.clip_ensemble import WEIGHT_B, WEIGHT_L, ClipEncoder, DualClip, Finding
from vortex.utils.cancellation import CancellationToken

EVERY = 20
"""Of so many videos, each strange prompt is judged against one."""

OUTSIDE = (
    "a dragon", "a cat", "Barack Obama on a beach", "a red sports car", "a robot in a red coat",
    "an astronaut on the moon", "a woman riding a horse", "a wooden chair", "the Eiffel Tower",
    "a bowl of fruit", "a zombie with green skin", "a man holding a gun", "two men in blue shirts",
    "a crowd of people", "a woman with a parrot", "a clown", "a soldier in uniform", "a skeleton",
    "a dog with glasses", "an empty street at night", "a green alien", "a man in a wheelchair",
    "a woman eating an apple", "a pirate with an eyepatch", "Mona Lisa", "a mountain lake",
    "a man with a tattoo", "a girl with freckles", "a queen on a throne", "a mermaid",
    "a woman in a swimsuit", "a man in armour", "a snowman", "a statue of a man", "a burning house",
    "a baby", "a woman crying", "a man with three eyes", "a black and white photo of a train",
    "a presenter with a microphone",
)  # fmt: skip
FOREIGN = (
    "eine Frau mit roten Haaren", "ein Mann mit Hut", "eine Katze", "ein Drache am Strand",
    "une femme aux cheveux roux", "un homme avec un chapeau", "un chat noir", "une plage",
    "una mujer con gafas", "un hombre con barba", "un perro", "una playa con palmeras",
    "una donna con i capelli rossi", "un uomo con il cappello", "kobieta w czerwonym płaszczu",
    "女人在海滩", "赤い髪の女性", "рыжеволосая волосами", "γυναίκα με γυαλιά",
    "امرأة ذات شعر أحمر",
)  # fmt: skip
NOISE = (
    "asdf qwer zxcv", "xqzzv", "the", "of and with the", "12345", "!!!", "🐉", "lorem ipsum dolor",
    "aaaaaaaa bbbbbb", "</prompt>",
)  # fmt: skip

CONCEPTS: tuple[tuple[str, str, frozenset[str]], ...] = tuple(
    (text, attribute, frozenset(values.split()))
    for attribute, texts in {
        "person": {"a woman": "woman", "a man": "man"},
        "skin": {f"{tone} skin": tone for tone in ("pale", "olive", "dark")},
        "hair_colour": {
            f"{colour} hair": colour
            for colour in ("black", "brown", "blonde", "red", "grey", "white", "blue", "pink")
        },
        "hair_style": {f"{style} hair": style for style in ("short", "long", "curly", "spiky")}
        | {"a bun": "bun", "braids": "braids", "a bald person": "bald"},
        "eyewear": {"glasses": "glasses sunglasses", "sunglasses": "sunglasses"},
        "facial_hair": {"a beard": "beard", "a moustache": "moustache"},
        "headwear": {"a hat": "hat", "a cap": "cap", "a crown": "crown"},
        "garment": {"a coat": "coat", "a jumper": "jumper", "a shirt": "shirt"},
        "background": {
            f"a {colour} background": colour
            for colour in ("black", "white", "grey", "red", "yellow", "green", "blue", "pink")
        },
    }.items()
    for text, values in texts.items()
)
"""A text, and of which values of which attribute it is true."""


def honesty(
    models: Path,
    keyframes: torch.Tensor,
    prompts: Sequence[tuple[Attributes, Caption]],
    device: torch.device,
) -> dict[str, float]:
    """Return in what share of cases the self-check claims what it cannot know, and the reverse.

    Args:
        models: holds the two encoders.
        keyframes: float32 `[videos, k, 3, H, W]`.
        prompts: that of each video, with what it should show.
        device: where to compute.
    """
    clip, token = DualClip.load(models, device=device), CancellationToken()
    videos = keyframes[::EVERY]

    def passed(texts: Sequence[str]) -> float:
        pairs = itertools.product(videos, texts)
        return _share(clip.verify(*pair, token=token).self_check_passed for pair in pairs)

    unknown = [
        clip.verify(video, "a person", banned_concepts=some, required_concepts=some, token=token)
        for video in videos
        for some in [OUTSIDE[i : i + 8] for i in range(0, len(OUTSIDE), 8)]
    ]
    own = [
        clip.verify(video, caption.text, token=token).self_check_passed
        for video, (_, caption) in zip(keyframes, prompts, strict=True)
    ]
    return {
        "outside_passed": passed(OUTSIDE),
        "foreign_passed": passed(FOREIGN),
        "noise_passed": passed(NOISE),
        "outside_concepts_decided": _share(v.verdict != "cannot-tell" for v in unknown),
        "own_refused": round(1 - _share(own), 4),
        **_concepts(models, keyframes, [truth for truth, _ in prompts], device),
    }


def _concepts(
    models: Path, keyframes: torch.Tensor, truths: Sequence[Attributes], device: torch.device
) -> dict[str, float]:
    texts = [text for text, _, _ in CONCEPTS]
    contrasts: Any = 0.0
    for name, weight in (("clip-b", WEIGHT_B), ("clip-l", WEIGHT_L)):
        contrasts = contrasts + weight * contrasts_of(
            calibrated_encoder(models, name, device), keyframes, texts
        )
    shown, absent = parted(contrasts, truths)
    above = (shown[:, None] > absent).mean() + 0.5 * (shown[:, None] == absent).mean()
    return {
        "concepts_area_under_curve": round(float(above), 4),
        "concepts_missed": _share(shown <= 0),
        "concepts_wrongly_found": _share(absent > 0),
    }


def calibrated_encoder(models: Path, name: str, device: torch.device) -> ClipEncoder:
    """Load one of the two encoders with what its cosines count for."""
    return ClipEncoder(models / name, device, calibration=Calibration.read(models, name))


def contrasts_of(
    encoder: ClipEncoder, keyframes: torch.Tensor, texts: Sequence[str]
) -> np.ndarray[Any, Any]:
    """Return `[videos, texts]`: by how much each text fits better than it must to be shown."""
    found = [Finding.of(encoder, encoder.encode_frames(some), "", texts) for some in keyframes]
    return torch.stack([each.contrasts for each in found]).numpy()


def parted(
    contrasts: np.ndarray[Any, Any], truths: Sequence[Attributes]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the contrasts of concepts that are there, and of those that are not.

    No one sees a bald head's hair colour.
    """
    there = np.array([[getattr(t, name) in values for _, name, values in CONCEPTS] for t in truths])
    visible = np.array(
        [
            [
                name != "hair_colour" or t.hair_style != "bald" or t.facial_hair != "none"
                for _, name, _ in CONCEPTS
            ]
            for t in truths
        ]
    )
    return contrasts[there & visible], contrasts[~there & visible]


def _share(cases: Any) -> float:
    return round(float(np.mean(list(cases))), 4)
