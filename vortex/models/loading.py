"""Loads one model as a worker does, and lets go of it: would it load?"""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from vortex.config import VortexConfig
from vortex.errors import VortexInitializationError
from vortex.models.quantization import clip_quantization, flux_quantization
from vortex.utils.device import device_of

_MESSAGE_CHARS = 200


def try_loading(name: str, directory: Path, config: VortexConfig) -> None:
    """Load a model onto the configured device with the class that makes slots.

    Args:
        name: of the model, such as "flux".
        directory: the profile's directory.
        config: what a worker would run with.

    Raises:
        VortexInitializationError: the device or a part is missing, or a part does not fit; one
            line. Also if there is no class for such a model.
    """
    device = device_of(config.device.name)
    try:
        _load(name, directory / name, config, device)
    except (VortexInitializationError, ModuleNotFoundError):
        raise
    except Exception as error:  # of libraries, over parts that do not fit or memory that is short
        reason = " ".join(str(error).split())[:_MESSAGE_CHARS] or type(error).__name__
        raise VortexInitializationError(
            f"{name}: {directory / name} cannot be loaded on {device}: {reason}"
        ) from error
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _load(name: str, folder: Path, config: VortexConfig, device: torch.device) -> object:
    # Imported one by one, so that a missing library fails the model that needs it and no other.
    on_cpu = device.type == "cpu"
    match name:
        case "flux":
            from vortex.models.flux import FluxImage

            return FluxImage.load(
                folder,
                device=device,
                dtype=torch.float32 if on_cpu else torch.bfloat16,
                quantization=flux_quantization(config.models),
            )
        case "liveportrait":
            from vortex.models.liveportrait import LivePortrait

            dtype = torch.float32 if on_cpu else torch.float16
            return LivePortrait.load(folder, device=device, dtype=dtype)
        case "kokoro":
            from vortex.models.kokoro import KokoroSpeech

            return KokoroSpeech(
                folder,
                default_voice=config.models.default_voice,
                device=device,
                threads=config.device.cpu_threads,
            )
        case "clip-b" | "clip-l":
            from vortex.models.clip_ensemble import ClipEncoder

            return ClipEncoder(folder, device, quantization=clip_quantization(config.models))
        case _:
            raise VortexInitializationError(f"{name}: no class loads such a model")
