"""Trains the two open_clip models of the self-check on drawn portraits.

What is right is known exactly: a caption fits a portrait if all that it claims is there. So every
pair of a batch is a yes or a no, and the loss asks each for itself (as in SigLIP, Zhai et al. 2023)
instead of which caption fits best. The line between yes and no is the cosine that the self-check's
thresholds stand for, so that these mean the same as for encoders of any size.

In addition, one linear layer on each embedding must tell the attributes, which teaches both towers
much faster what there is to see and to read; it is left out of the model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from training.captions import Caption, contradict, describe, shown_and_neutral
from training.faces import Face
from training.loop import Chance, Report, Schedule, drawn, train
from training.text import CLIP_TOKENS, clip_tokenizer
from training.train_text import ANSWERS, claimed, wrong_answers
from vortex.models.clip_ensemble import CLIP_SCORE_WEIGHT, PROMPT_PREFIX, THRESHOLDS

SCHEDULE = Schedule(steps=1000, learning_rate=2e-3, ema_steps=80, checkpoint_every=200)
PORTRAITS = 6000
SIDE = 64

_BATCH = 48
_ATTRIBUTES_WEIGHT = 0.3
_JUNK, _JUNK_WEIGHT = 8, 0.25
_REFUSED_SHARE = 0.05  # of drawn portraits' own captions; generated ones fit a little worse
_SHARPNESS = 20.0  # of the yes or no, in logits for a cosine of 1
_NOISE = 0.05
_LIGHT = 0.06


def config(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of `clip-b` or of the larger `clip-l`."""
    width, layers, embedding = (96, 3, 64) if name == "clip-b" else (128, 4, 96)
    vision = {"image_size": SIDE, "layers": layers, "width": width, "head_width": 32}
    text = {"context_length": CLIP_TOKENS, "width": width, "heads": width // 32, "layers": 2}
    return {
        "embed_dim": embedding,
        "vision_cfg": {**vision, "patch_size": 8},
        "text_cfg": {
            **text,
            "vocab_size": len(clip_tokenizer()),
            # open_clip looks for the tokenizer next to the weights, whatever the name.
            "hf_tokenizer_name": "clip-tokenizer",
        },
    }


class YesOrNo:
    """Does this caption fit this portrait? Asked of every pair in a batch."""

    def __init__(
        self,
        name: str,
        faces: Sequence[Face],
        portraits: torch.Tensor,
        device: torch.device,
        batch: int = _BATCH,
    ) -> None:
        self.model = open_clip.CLIP(**config(name)).to(device)
        width = config(name)["embed_dim"]
        self.heads = nn.ModuleDict(
            {tower: nn.Linear(width, ANSWERS) for tower in ("image", "text")}
        ).to(device)
        self.modules = nn.ModuleDict({"model": self.model, "heads": self.heads})
        self._line = THRESHOLDS[name] / CLIP_SCORE_WEIGHT
        self._pieces = clip_tokenizer()
        self._faces = faces
        self._portraits = portraits
        self._device = device
        self._batch = batch

    def loss(self, chance: Chance, progress: float) -> torch.Tensor:
        """Return the mean cross entropy: of fitting pairs, of others, of near misses."""
        chosen = chance.numpy.integers(len(self._faces), size=self._batch)
        attributes = [self._faces[i].attributes for i in chosen]
        right = [describe(some, chance.numpy) for some in attributes]
        wrong = [
            contradict(describe(some, chance.numpy), chance.numpy, int(chance.numpy.integers(1, 3)))
            for some in attributes
        ]
        captions = [*right, *wrong]
        fits = torch.tensor(
            [[caption.holds_for(some) for caption in captions] for some in attributes]
        )
        seen = self.model.encode_image(self._varied(self._portraits[chosen], chance))
        read = self.model.encode_text(self.tokens(captions))
        shown = claimed([dataclasses.asdict(some) for some in attributes]).to(self._device)
        said = claimed([caption.claims for caption in captions]).to(self._device)
        unknown = wrong_answers(self.heads["image"](seen), shown)
        unknown = unknown + wrong_answers(self.heads["text"](read), said)
        seen, read = (functional.normalize(some, dim=-1) for some in (seen, read))
        logits = _SHARPNESS * ((seen @ read.T).float() - self._line)
        fits = fits.to(self._device)
        errors = functional.binary_cross_entropy_with_logits(logits, fits.float(), reduction="none")
        near = torch.zeros_like(fits)
        near[:, self._batch :] = torch.eye(self._batch, dtype=torch.bool, device=self._device)
        near &= ~fits
        unsure = (
            0.5 * errors[fits].mean() + 0.25 * errors[~fits].mean() + 0.25 * errors[near].mean()
        )
        junk = self.model.encode_image(normalised(self._junk(chance)), normalize=True)
        mistaken = functional.softplus(_SHARPNESS * ((junk @ read.T).float() - self._line)).mean()
        return unsure + _ATTRIBUTES_WEIGHT * unknown + _JUNK_WEIGHT * mistaken

    def _junk(self, chance: Chance) -> torch.Tensor:
        """Return pictures that no caption fits: flat, noisy, in shuffled pieces, nearly dark."""
        rng = chance.numpy
        flat = torch.from_numpy(rng.uniform(-0.2, 1.2, (_JUNK, 3, 1, 1))).float()
        junk = flat.clamp(0, 1).expand(-1, -1, SIDE, SIDE).clone()
        noise = (
            chance.normal(junk) * torch.from_numpy(rng.uniform(0, 0.5, (_JUNK, 1, 1, 1))).float()
        )
        faces = self._portraits[rng.integers(len(self._portraits), size=_JUNK)].float() / 255.0
        pieces = functional.unfold(faces, SIDE // 8, stride=SIDE // 8)
        pieces = pieces[..., torch.from_numpy(rng.permutation(pieces.shape[-1]))]
        shuffled = functional.fold(pieces, SIDE, SIDE // 8, stride=SIDE // 8)
        dark = faces * torch.from_numpy(rng.uniform(0, 0.1, (_JUNK, 1, 1, 1))).float()
        kind = torch.from_numpy(rng.integers(4, size=(_JUNK, 1, 1, 1)))
        for number, made in enumerate((junk + noise, shuffled, dark), start=1):
            junk = torch.where(kind == number, made, junk)
        return junk.clamp(0, 1).to(self._device)

    def tokens(self, captions: Sequence[Caption]) -> torch.Tensor:
        """Return what the text encoder reads, int64 `[n, CLIP_TOKENS]`."""
        ids: torch.Tensor = self._pieces(
            [PROMPT_PREFIX + caption.text for caption in captions],
            max_length=CLIP_TOKENS,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self._device)
        return ids

    def _varied(self, portraits: torch.Tensor, chance: Chance) -> torch.Tensor:
        """Return normalised pixels, a little brighter or darker, blurred or noisy."""
        pixels = portraits.to(self._device).float() / 255.0
        light = torch.from_numpy(chance.numpy.uniform(-_LIGHT, _LIGHT, (len(pixels), 3, 1, 1)))
        noise = torch.from_numpy(chance.numpy.uniform(0, _NOISE, (len(pixels), 1, 1, 1)))
        blurred = functional.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
        share = torch.from_numpy(chance.numpy.uniform(0, 0.8, (len(pixels), 1, 1, 1)))
        pixels = torch.lerp(pixels, blurred, share.to(pixels))
        pixels = pixels + light.to(pixels) + noise.to(pixels) * chance.normal(pixels)
        return normalised(pixels.clamp(0, 1))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Return pixels of 0 to 1 as CLIP's image encoders expect them."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1)
    return (pixels - mean.to(pixels)) / std.to(pixels)


def shrunk(portraits: torch.Tensor) -> torch.Tensor:
    """Return uint8 portraits at the encoders' size, scaled as the self-check scales frames."""
    return torch.cat(
        [
            functional.interpolate(some.float(), SIDE, mode="bicubic", antialias=True)
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
            for some in torch.split(portraits, 256)
        ]
    )


@torch.no_grad()
def measured(
    lesson: YesOrNo, faces: Sequence[Face], portraits: torch.Tensor, seed: int, line: float
) -> dict[str, float]:
    """Return how many captions would be refused and accepted, of drawn faces, at the best line.

    What counts in use is `vortex models calibrate`, on portraits that the image model makes.
    """
    rng = np.random.default_rng(seed)
    right = [describe(face.attributes, rng) for face in faces]
    seen = torch.cat(
        [
            lesson.model.encode_image(normalised(some.float() / 255.0), normalize=True)
            for some in torch.split(portraits, 64)
        ]
    )
    read = torch.cat(
        [
            lesson.model.encode_text(lesson.tokens(right[i : i + 64]), normalize=True)
            for i in range(0, len(right), 64)
        ]
    )
    cosines = (seen @ read.T).numpy()
    fits = np.array([[caption.holds_for(face.attributes) for caption in right] for face in faces])
    matched, others = np.sort(cosines[np.eye(len(faces), dtype=bool)]), np.sort(cosines[~fits])
    places = np.linspace(-0.2, 0.8, 1001)
    refused = np.searchsorted(matched, places) / len(matched)
    accepted = 1 - np.searchsorted(others, places) / len(others)
    best = int(np.flatnonzero(refused <= _REFUSED_SHARE)[-1])
    return {
        "best_line": round(float(places[best]), 4),
        "matched_refused": round(float(refused[best]), 4),
        "mismatched_accepted": round(float(accepted[best]), 4),
        "matched_refused_uncalibrated": round(float((matched < line).mean()), 4),
        "mismatched_accepted_uncalibrated": round(float((others >= line).mean()), 4),
    }


def run(
    directory: Path,
    *,
    seed: int,
    device: torch.device,
    schedule: Schedule = SCHEDULE,
    portraits: int = PORTRAITS,
    say: Callable[[str], None] = print,
) -> Report:
    """Train both models, measure them on held-out faces, and save `clip-b` and `clip-l`."""
    faces, pictures = drawn(seed, portraits, moving=0.7, say=say)
    unseen, unseen_pictures = drawn(seed + 1, 300, moving=0.7, held_out=True, say=say)
    small, unseen_small = shrunk(pictures), shrunk(unseen_pictures)
    reports = []
    for name, threshold in THRESHOLDS.items():
        say(name)
        torch.manual_seed(seed)  # modules initialise from the global generator
        lesson = YesOrNo(name, faces, small, device)
        checkpoint = directory / f"{name}.pt"
        reports.append(train(lesson, schedule, seed=seed, checkpoint=checkpoint, say=say))
        line = threshold / CLIP_SCORE_WEIGHT
        say(json.dumps(measured(lesson, unseen, unseen_small, seed, line)))
        save(lesson.model, name, directory / name)
    return Report(
        [loss for report in reports for loss in report.losses],
        sum(report.seconds for report in reports),
    )


def save(model: open_clip.CLIP, name: str, directory: Path) -> None:
    """Write a model in half precision as open_clip reads it."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    save_file(weights, directory / "open_clip_model.safetensors")
    preprocessing = {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    content = {"model_cfg": config(name), "preprocess_cfg": preprocessing}
    (directory / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n")
    clip_tokenizer().save_pretrained(directory)
    shown_and_neutral().write(directory)
