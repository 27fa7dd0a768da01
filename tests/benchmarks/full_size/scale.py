"""How large everything is: as published, or so small that a CPU runs it in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vortex.models.liveportrait import LivePortraitDims
from vortex.models.quantization import Quantization


@dataclass(frozen=True)
class Scale:
    """Sizes of the models and of the slots that are made with them."""

    name: str
    transformer: dict[str, Any]
    t5: dict[str, Any]
    clip_text: dict[str, Any]
    vae: dict[str, Any]
    liveportrait: LivePortraitDims
    clip: dict[str, dict[str, Any]]
    """open_clip's configurations by folder."""
    text_tokens: int
    """What T5 reads of a prompt."""
    duration_s: float
    fps: int
    size: int
    """Pixels, both sides, of portrait and video."""
    variant_frames: int
    """Frames rendered to compare LivePortrait's variants; a multiple of every batch."""
    variant_batches: tuple[int, ...]
    matmul_width: int
    script: str
    quantization: Quantization = "nf4"


_SENTENCE = "Good evening, and welcome to the programme, with all that the day has brought. "

# FLUX.1-schnell, T5-XXL and CLIP-L as their repository's configuration files give them.
FULL = Scale(
    name="full",
    transformer={
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": False,
        "axes_dims_rope": (16, 56, 56),
    },
    t5={"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240}
    | {"num_layers": 24, "num_heads": 64},
    clip_text={"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768}
    | {"num_hidden_layers": 12, "num_attention_heads": 12},
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
    liveportrait=LivePortraitDims.full(),
    clip={
        "clip-b": {
            "embed_dim": 512,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
            "text_cfg": {"context_length": 77, "vocab_size": 49408}
            | {"width": 512, "heads": 8, "layers": 12},
        },
        "clip-l": {
            "embed_dim": 768,
            "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
            "text_cfg": {"context_length": 77, "vocab_size": 49408}
            | {"width": 768, "heads": 12, "layers": 12},
        },
    },
    text_tokens=256,
    duration_s=45.0,
    fps=24,
    size=512,
    variant_frames=96,
    variant_batches=(1, 4, 8, 12),
    matmul_width=8192,
    script=_SENTENCE * 9,
)

SMALL = Scale(
    name="small",
    transformer={
        "in_channels": 64,
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 64,
        "guidance_embeds": False,
        "axes_dims_rope": (8, 12, 12),
    },
    t5={"vocab_size": 32128, "d_model": 64, "d_kv": 32, "d_ff": 128}
    | {"num_layers": 1, "num_heads": 2},
    clip_text={"hidden_size": 64, "intermediate_size": 128, "projection_dim": 64}
    | {"num_hidden_layers": 1, "num_attention_heads": 2},
    vae={"block_out_channels": (8, 16, 16, 16), "layers_per_block": 1, "norm_num_groups": 8},
    liveportrait=LivePortraitDims.mini(),
    clip={
        name: {
            "embed_dim": width,
            "vision_cfg": {"image_size": 64, "layers": 1, "width": 64}
            | {"head_width": 32, "patch_size": 16},
            "text_cfg": {"context_length": 77, "vocab_size": 49408}
            | {"width": 64, "heads": 2, "layers": 1},
        }
        for name, width in (("clip-b", 64), ("clip-l", 96))
    },
    text_tokens=48,
    duration_s=1.0,
    fps=4,
    size=64,
    variant_frames=4,
    variant_batches=(1, 4),
    matmul_width=256,
    script="Good evening.",
)
