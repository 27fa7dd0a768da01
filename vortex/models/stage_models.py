"""The models of the four stages, loaded from a profile's directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vortex.config import VortexConfig
from vortex.models.clip_ensemble import DualClip
from vortex.models.flux import FluxImage
from vortex.models.footprint import held_bytes_by_part
from vortex.models.kokoro import KokoroSpeech
from vortex.models.liveportrait.animator import LivePortraitAnimator
from vortex.models.loading import load_flux, load_kokoro, load_liveportrait
from vortex.models.quantization import clip_quantization
from vortex.weights.manifest import verify_manifest


@dataclass(frozen=True)
class StageModels:
    """One model a stage, each on its device."""

    kokoro: KokoroSpeech
    flux: FluxImage
    animator: LivePortraitAnimator
    clip: DualClip
    revisions: Mapping[str, str]

    @classmethod
    def load(
        cls, config: VortexConfig, device: torch.device, *, calibrated: bool = True
    ) -> StageModels:
        """Load the configured profile; blocks for seconds.

        Args:
            config: names the profile, and how it is kept.
            device: where the models run.
            calibrated: whether the self-check uses its calibrations.

        Raises:
            VortexInitializationError: a model is missing, damaged or too large for the device; one
                line that says what to do.
        """
        directory = config.models.profile_directory
        revisions = verify_manifest(directory, catalogue=config.models.catalogue)
        return cls(
            flux=load_flux(directory / "flux", config, device),
            kokoro=load_kokoro(directory / "kokoro", config, device),
            clip=DualClip.load(
                directory,
                device=device,
                quantization=clip_quantization(config.models),
                calibrated=calibrated,
            ),
            animator=LivePortraitAnimator(
                load_liveportrait(directory / "liveportrait", config, device)
            ),
            revisions=revisions,
        )

    def by_name(self) -> dict[str, Any]:  # the models have no common interface
        """Return the models by name."""
        return {
            "flux": self.flux,
            "kokoro": self.kokoro,
            "clip": self.clip,
            "animator": self.animator,
        }

    def held_bytes(self) -> dict[str, int]:
        """Return the bytes that each part holds, as `flux.transformer`.

        Speech by onnxruntime is left out: it stays off the GPU, and does not tell.
        """
        return held_bytes_by_part(self.by_name())
