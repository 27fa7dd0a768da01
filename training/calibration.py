"""Calibrates the trained self-check on the trained image model: `vortex models calibrate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from training.loop import Report
from vortex.config import VortexConfig
from vortex.models.calibrate import calibrate
from vortex.models.clip_ensemble import DualClip
from vortex.models.flux import FluxImage
from vortex.models.kokoro import KokoroSpeech
from vortex.models.kokoro.packaged import install_packaged_kokoro
from vortex.models.liveportrait import LivePortrait
from vortex.models.liveportrait.animator import LivePortraitAnimator
from vortex.models.stage_models import StageModels


def run(
    directory: Path,
    *,
    seed: int,
    device: torch.device,
    kokoro: Path = Path("build/evaluation/kokoro"),
    say: Callable[[str], None] = print,
) -> Report:
    """Fit and write `calibration.clip-b.json` and `calibration.clip-l.json`."""
    if not kokoro.is_dir():
        install_packaged_kokoro(kokoro)
    face = LivePortrait.load(directory / "liveportrait", device=device, dtype=torch.float32)
    models = StageModels(
        kokoro=KokoroSpeech(kokoro, default_voice="auto"),
        flux=FluxImage.load(directory / "flux", device=device, dtype=torch.float32),
        animator=LivePortraitAnimator(face),
        clip=DualClip.load(directory, device=device, calibrated=False),
        revisions={},
    )
    fitted = calibrate(models, VortexConfig.load(profile="mini").pipeline, seed=seed)
    fitted.write(directory)
    for name, figures in fitted.figures.items():
        say(f"{name}: {figures.model_dump_json()}")
    return Report([], 0.0)
