"""Measures whether formats that are not square show what the square picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional

from training.captions import Caption
from training.faces import Attributes
from vortex.models.clip_ensemble import DualClip
from vortex.utils.cancellation import CancellationToken
from vortex.utils.composition import compose

PROMPTS = 20
FORMATS = (
    "64x128", "80x128", "96x128", "144x256", "192x256", "288x512", "368x640", "432x768", "480x640",
    "512x576", "576x1024", "128x64", "128x96", "256x144", "320x240", "512x288", "640x480",
    "768x432", "576x512", "1024x576",
)  # fmt: skip
"""What is measured, narrow to wide."""

_ROW_HEIGHT = 160
_GAP = 4


def own_prompt_passed(
    models: Path,
    keyframes: torch.Tensor,
    prompts: Sequence[tuple[Attributes, Caption]],
    device: torch.device,
    formats: Sequence[str] = FORMATS,
) -> dict[str, float]:
    """Return in what share of videos the self-check passes their own prompt, by format.

    Args:
        models: holds the two encoders.
        keyframes: as they are drawn, uint8 `[videos, k, 3, S, S]`; `square` stands for these.
        prompts: that of each video.
        device: where to compute.
        formats: width x height, such as "1024x576".
    """
    clip, token = DualClip.load(models, device=device), CancellationToken()

    def share(width: int, height: int) -> float:
        passed = [
            clip.verify(compose(some, width, height), caption.text, token=token).self_check_passed
            for some, (_, caption) in zip(keyframes, prompts, strict=True)
        ]
        return round(sum(passed) / len(passed), 4)

    sizes = {"square": (keyframes.shape[-1],) * 2} | {name: size_of(name) for name in formats}
    return {name: share(*size) for name, size in sizes.items()}


def size_of(name: str) -> tuple[int, int]:
    """Return the width and height of a format."""
    width, height = map(int, name.split("x"))
    return width, height


def format_sheet(pictures: torch.Tensor, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Return each picture, uint8 `[n, 3, S, S]`, in every format, all in one height."""
    columns = []
    for width, height in map(size_of, formats):
        size = (_ROW_HEIGHT, round(width * _ROW_HEIGHT / height))
        frames = compose(pictures, width, height).float()
        shown = functional.interpolate(frames, size, mode="bicubic", antialias=True)
        padded = functional.pad(shown.clamp(0, 255), (0, _GAP, 0, _GAP), value=255)
        columns.append(torch.cat(list(padded), dim=-2))
    pixels = torch.cat(columns, dim=-1).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
