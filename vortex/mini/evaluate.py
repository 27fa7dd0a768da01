"""Measures the miniature on held-out prompts: attributes, self-check, and a sheet to look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional

from vortex.mini.captions import Caption, describe
from vortex.mini.faces import Attributes
from vortex.mini.judge import Judge, shares_right
from vortex.mini.train_clip import THRESHOLDS
from vortex.models.clip_ensemble import (
    CLIP_SCORE_WEIGHT,
    PROMPT_PREFIX,
    WEIGHT_B,
    WEIGHT_L,
    ClipEncoder,
)
from vortex.models.flux import FluxImage
from vortex.utils.cancellation import CancellationToken

PROMPTS = 100
_STEPS = 4
_SIZE = 128
_CAPTION_HEIGHT = 44
_COLUMNS = 5
_SHOWN = 40


def held_out_prompts(count: int, seed: int) -> list[tuple[Attributes, Caption]]:
    """Return attributes whose combination was never drawn for training, and their captions."""
    prompts = []
    for number in range(count):
        rng = np.random.default_rng([seed, 7, number])
        attributes = Attributes.sample(rng, held_out=True)
        prompts.append((attributes, describe(attributes, rng, complete=True)))
    return prompts


def run(
    directory: Path,
    *,
    seed: int,
    device: torch.device,
    model: str = "flux",
    steps: int = _STEPS,
    count: int = PROMPTS,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure the models of a directory; write `figures.json` and `sheet.png` into it."""
    prompts = held_out_prompts(count, seed)
    image_model = FluxImage.load(directory / model, device=device, dtype=torch.float32)
    pictures = torch.cat(
        [
            image_model.generate(
                caption.text,
                width=_SIZE,
                height=_SIZE,
                steps=steps,
                seed=number,
                token=CancellationToken(),
            ).cpu()
            for number, (_, caption) in enumerate(prompts)
        ]
    )
    coloured = (pictures * 255).round().to(torch.uint8)
    contact_sheet(coloured[:_SHOWN], [c.text for _, c in prompts][:_SHOWN]).save(
        directory / f"sheet-{model}.png"
    )
    figures: dict[str, Any] = {"prompts": count, "steps": steps}
    judge = directory / "judge.safetensors"
    if judge.exists():
        opinions = Judge.load(judge).opinions(coloured)
        figures["attributes"] = shares_right(opinions, [attributes for attributes, _ in prompts])
    if all((directory / name).is_dir() for name in THRESHOLDS):
        figures["self_check"] = self_check(directory, pictures, prompts, device)
    say(json.dumps(figures, indent=2))
    (directory / f"figures-{model}.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def self_check(
    directory: Path,
    pictures: torch.Tensor,
    prompts: list[tuple[Attributes, Caption]],
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Return how well matched prompts are told from those of other pictures."""
    scores = {}
    for name in THRESHOLDS:
        encoder = ClipEncoder(directory / name, device)
        seen = torch.cat([encoder.encode_frames(some) for some in torch.split(pictures, 50)])
        read = encoder.encode_texts([PROMPT_PREFIX + caption.text for _, caption in prompts])
        cosines = encoder.calibration.apply((seen @ read.T).cpu())
        scores[name] = (CLIP_SCORE_WEIGHT * cosines).numpy()
    thresholds = dict(THRESHOLDS)
    scores["ensemble"] = WEIGHT_B * scores["clip-b"] + WEIGHT_L * scores["clip-l"]
    thresholds["ensemble"] = WEIGHT_B * thresholds["clip-b"] + WEIGHT_L * thresholds["clip-l"]
    fits = np.array([[caption.holds_for(some) for _, caption in prompts] for some, _ in prompts])
    return {name: _separation(some, fits, thresholds[name]) for name, some in scores.items()}


def _separation(scores: np.ndarray[Any, Any], fits: Any, threshold: float) -> dict[str, float]:
    matched, others = scores.diagonal(), scores[~fits]
    above = (matched[:, None] > others).mean() + 0.5 * (matched[:, None] == others).mean()
    return {
        "area_under_curve": round(float(above), 4),
        "matched_rejected": round(float((matched < threshold).mean()), 4),
        "mismatched_rejected": round(float((others < threshold).mean()), 4),
        "matched_mean": round(float(matched.mean()), 4),
        "mismatched_mean": round(float(others.mean()), 4),
    }


def contact_sheet(pictures: torch.Tensor, texts: list[str]) -> Image.Image:
    """Return uint8 pictures, each above its text, five in a row."""
    large = functional.interpolate(pictures.float(), scale_factor=1.5, mode="nearest")
    side = large.shape[-1]
    rows = -(-len(large) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * side, rows * (side + _CAPTION_HEIGHT)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(9)
    for number, (picture, text) in enumerate(zip(large, texts, strict=True)):
        left, top = number % _COLUMNS * side, number // _COLUMNS * (side + _CAPTION_HEIGHT)
        pixels = picture.permute(1, 2, 0).to(torch.uint8).numpy()
        sheet.paste(Image.fromarray(pixels), (left, top))
        lines = [text[i : i + 42] for i in range(0, len(text), 42)][:4]
        pen.text((left + 3, top + side + 1), "\n".join(lines), fill="black", font=font, spacing=1)
    return sheet
