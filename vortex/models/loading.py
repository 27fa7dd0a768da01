"""Loads each model of a profile with the class that makes slots.

The classes are imported one by one, so that a missing library fails the model that needs it and no
other.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vortex.config import VortexConfig
from vortex.errors import VortexInitializationError, one_line
from vortex.models.quantization import clip_quantization, flux_quantization
from vortex.utils.device import device_of, half_precision

if TYPE_CHECKING:
    from vortex.models.clip_ensemble import ClipEncoder
    from vortex.models.flux import FluxImage
    from vortex.models.kokoro import KokoroSpeech
    from vortex.models.liveportrait import LivePortrait


def load_flux(folder: Path, config: VortexConfig, device: torch.device) -> FluxImage:
    """Load the image model, bfloat16 on a GPU."""
    from vortex.models.flux import FluxImage

    return FluxImage.load(
        folder,
        device=device,
        dtype=torch.float32 if device.type == "cpu" else torch.bfloat16,
        quantization=flux_quantization(config.models),
    )


def load_liveportrait(folder: Path, config: VortexConfig, device: torch.device) -> LivePortrait:
    """Load the face model, in half precision where the device computes with it."""
    from vortex.models.liveportrait import LivePortrait

    return LivePortrait.load(folder, device=device, dtype=half_precision(device))


def load_kokoro(folder: Path, config: VortexConfig, device: torch.device) -> KokoroSpeech:
    """Load the speech model."""
    from vortex.models.kokoro import KokoroSpeech

    return KokoroSpeech(
        folder,
        default_voice=config.models.default_voice,
        device=device,
        threads=torch.get_num_threads(),
    )


def load_clip(folder: Path, config: VortexConfig, device: torch.device) -> ClipEncoder:
    """Load one of the two models of the self-check."""
    from vortex.models.calibration import Calibration
    from vortex.models.clip_ensemble import ClipEncoder

    return ClipEncoder(
        folder,
        device,
        quantization=clip_quantization(config.models),
        calibration=Calibration.read(folder.parent, folder.name),
    )


LOADERS: Mapping[str, Callable[[Path, VortexConfig, torch.device], object]] = {
    "flux": load_flux,
    "liveportrait": load_liveportrait,
    "kokoro": load_kokoro,
    "clip-b": load_clip,
    "clip-l": load_clip,
}
"""By name of the model, which is also its folder's."""


def try_loading(name: str, directory: Path, config: VortexConfig) -> None:
    """Load a model onto the configured device as a worker does, and let go of it.

    Args:
        name: of the model, such as "flux".
        directory: the profile's directory.
        config: what a worker would run with.

    Raises:
        VortexInitializationError: the device or a part is missing, or a part does not fit; one
            line. Also if there is no class for such a model.
    """
    device = device_of(config.device.name)
    if name not in LOADERS:
        raise VortexInitializationError(f"{name}: no class loads such a model")
    try:
        LOADERS[name](directory / name, config, device)
    except (VortexInitializationError, ModuleNotFoundError):
        raise
    except Exception as error:  # of libraries, over parts that do not fit or memory that is short
        raise VortexInitializationError(
            f"{name}: {directory / name} cannot be loaded on {device}: {one_line(error)}"
        ) from error
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
