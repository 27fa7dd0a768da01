"""The portrait, by FLUX."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from vortex.errors import VortexInitializationError, one_line
from vortex.models.flux_tensors import check_flux_tensors
from vortex.models.quantization import Quantization, needed_bytes, quantize
from vortex.models.unsaid import Unsaid
from vortex.utils.cancellation import CancellationToken
from vortex.utils.vram import loading

logger = logging.getLogger(__name__)

# A distilled model: guidance is built in, and there is nothing to steer away from.
_GUIDANCE_SCALE = 0.0

# Our names of the pipeline's parts; the first two hold nearly all of the weights.
_PARTS = {
    "transformer": "transformer",
    "t5": "text_encoder_2",
    "clip_text": "text_encoder",
    "vae": "vae",
}
_QUANTIZED = ("transformer", "t5")

T5_TOKENS = 256
"""What schnell was distilled with; its tokenizer would take more."""
PROMPTS_KEPT = 16
"""Prompts whose embeddings are kept, on the device: 2.1 MB each in production."""


class FluxImage:
    """Text to image, by diffusers' FluxPipeline from a local directory.

    Blocking; one call at a time.
    """

    def __init__(self, pipeline: FluxPipeline, unsaid: Unsaid | None = None) -> None:
        """Draw with a loaded pipeline; `unsaid` completes prompts for it."""
        self._pipeline = pipeline
        self._unsaid = unsaid
        self._max_t5_tokens = min(T5_TOKENS, int(pipeline.tokenizer_2.model_max_length))
        self._encoded: OrderedDict[str, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        quantization: Quantization = "none",
    ) -> FluxImage:
        """Load from a directory as `FluxPipeline.save_pretrained` writes it.

        Nothing is fetched, and only safetensors are read. All parts stay on the device: moving them
        in and out for every slot would take longer than the denoising steps. `unsaid.json` is read
        where it is there.

        Args:
            directory: holds the pipeline.
            device: where to compute.
            dtype: of the weights that are not quantised, and of all activations.
            quantization: of the transformer and of T5.

        Raises:
            VortexInitializationError: a part is missing, damaged or too large for the device.
        """
        # diffusers would print the part of a prompt that it cuts off, and a bar for every call.
        diffusers_logging.set_verbosity_error()
        diffusers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        check_flux_tensors(directory)
        unsaid = Unsaid.read(directory)
        try:
            pipeline = FluxPipeline.from_pretrained(
                str(directory), dtype=dtype, local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # the libraries behind it have errors of their own
            raise VortexInitializationError(
                f"flux: {directory} cannot be loaded: {one_line(error)}"
            ) from error
        image = cls(pipeline, unsaid)
        methods: dict[str, Quantization] = {
            name: quantization if name in _QUANTIZED else "none" for name in image.parts
        }
        needed = sum(needed_bytes(part, methods[name]) for name, part in image.parts.items())
        with loading("flux", device, needed):
            for name, part in image.parts.items():
                quantize(part, methods[name], device=device, compute_dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        return image

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The networks by name: transformer, t5, clip_text, vae."""
        return {name: getattr(self._pipeline, theirs) for name, theirs in _PARTS.items()}

    def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        width: int,
        height: int,
        steps: int,
        seed: int,
        token: CancellationToken,
        on_step: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Make a picture; same arguments, same picture.

        Args:
            prompt: what to show. What the text encoders cannot hold is cut off, with a warning.
                What it leaves open is chosen by the seed, if the model has `unsaid.json`.
            negative_prompt: has no effect in a model without guidance; a warning says so.
            width: pixels, a multiple of 16.
            height: pixels, a multiple of 16.
            steps: denoising steps.
            seed: of the starting noise, and of what the prompt leaves open.
            token: polled before the text encoders, after each step and before decoding.
            on_step: called with steps done and steps in all.

        Returns:
            float32 `[1, 3, H, W]` in [0, 1], on the model's device.

        Raises:
            StageCancelled: the token was cancelled.
        """
        self._warn_about(prompt, negative_prompt)
        token.raise_if_cancelled()

        def after_step(
            _pipeline: FluxPipeline, step: int, _timestep: Any, kwargs: dict[str, Any]
        ) -> dict[str, Any]:
            # Python runs ahead of a GPU; without this, only the enqueueing would be cancelled.
            if kwargs["latents"].is_cuda:
                torch.cuda.current_stream().synchronize()
            if on_step is not None:
                on_step(step + 1, steps)
            # diffusers' own interrupt flag would still decode the half-made picture.
            token.raise_if_cancelled()
            return kwargs

        embeddings, pooled = self.encode(prompt, seed)
        token.raise_if_cancelled()
        picture: torch.Tensor = self._pipeline(
            prompt_embeds=embeddings,
            pooled_prompt_embeds=pooled,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=_GUIDANCE_SCALE,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="pt",
            return_dict=False,
            callback_on_step_end=after_step,
        )[0]
        return picture.float().clamp(0.0, 1.0)

    @torch.no_grad()
    def encode(self, prompt: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what T5 and CLIP read in a prompt; of the latest prompts it is kept.

        Args:
            prompt: what to show.
            seed: of what the prompt leaves open; see `generate`.
        """
        text = prompt if self._unsaid is None else self._unsaid.completed(prompt, seed)
        known = self._encoded.pop(text, None)
        if known is None:
            embeddings, pooled, _ = self._pipeline.encode_prompt(
                text, None, max_sequence_length=self._max_t5_tokens
            )
            known = embeddings, pooled
        self._encoded[text] = known
        if len(self._encoded) > PROMPTS_KEPT:
            self._encoded.popitem(last=False)
        return known

    def _warn_about(self, prompt: str, negative_prompt: str) -> None:
        encoded = len(self._pipeline.tokenizer_2(prompt, truncation=False).input_ids)
        if encoded > self._max_t5_tokens:
            logger.warning(
                "Prompt cut: it is longer than the text encoder",
                extra={"tokens": encoded, "max_tokens": self._max_t5_tokens},
            )
        if negative_prompt:
            logger.warning("Negative prompt has no effect: the image model has no guidance")
