"""Do FLUX's files hold the tensors that its networks have, all and no others?"""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextModel, T5EncoderModel

from vortex.errors import VortexInitializationError, one_line

_PARTS = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": T5EncoderModel,
    "transformer": FluxTransformer2DModel,
    "vae": AutoencoderKL,
}
_WRONG = {
    "missing_keys": "is missing",
    "unexpected_keys": "is not known",
    "mismatched_keys": "is of another shape",
}


def check_flux_tensors(directory: Path) -> None:
    """Compare names and shapes; takes seconds and no memory.

    The libraries fill in random numbers for a tensor that is missing, and say so in the log alone.

    Args:
        directory: as `FluxPipeline.save_pretrained` writes it.

    Raises:
        VortexInitializationError: a tensor or file is missing or unexpected, or does not fit.
    """
    for part, network in _PARTS.items():
        if not (directory / part).is_dir():
            raise VortexInitializationError(f"flux: {directory / part} is missing")
        try:
            _, report = network.from_pretrained(
                str(directory),
                subfolder=part,
                device_map="meta",
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=True,
            )
        except Exception as error:  # the libraries behind it have errors of their own
            raise VortexInitializationError(
                f"flux: {directory / part} cannot be loaded: {one_line(error)}"
            ) from error
        for kind, what in _WRONG.items():
            if names := sorted(map(str, report[kind])):
                others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
                raise VortexInitializationError(
                    f"flux: {directory / part}: tensor '{names[0]}' {what}{others}"
                )
