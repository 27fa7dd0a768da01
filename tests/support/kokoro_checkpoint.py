"""A small network of the package `kokoro` with random weights, in the layout as it is published."""

from __future__ import annotations

import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from kokoro_onnx.config import DEFAULT_VOCAB

needs_kokoro = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="the package kokoro is not released for Python 3.13"
)

VOICES = ("af_heart", "bm_george")
CONFIG: dict[str, Any] = {
    "vocab": DEFAULT_VOCAB,
    "n_token": 178,
    "hidden_dim": 512,  # which the decoder takes for granted
    "style_dim": 128,
    "n_layer": 1,
    "max_dur": 3,
    "n_mels": 80,
    "dropout": 0.2,
    "text_encoder_kernel_size": 3,
    "plbert": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 512,
        "num_hidden_layers": 1,
    },
    "istftnet": {
        "upsample_initial_channel": 512,  # as many as the decoder hands on
        "upsample_rates": [10, 6],
        "upsample_kernel_sizes": [20, 12],
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
        "gen_istft_n_fft": 20,
        "gen_istft_hop_size": 5,
    },
}


def write_published(directory: Path, *, seed: int = 0) -> None:
    """Write `config.json`, `kokoro-v1_0.pth` and `voices/NAME.pt`."""
    (directory / "voices").mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(published_tables(library_model()), directory / "kokoro-v1_0.pth")
        for voice in VOICES:
            torch.save(torch.randn(510, 1, 256), directory / "voices" / f"{voice}.pt")


def published_tables(model: torch.nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """Return the five tables of a network, named as they are after a training on several GPUs.

    What the package has beside that, a scale and an offset of each AdaIN's norm, was not trained.
    """
    tables: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        if not rest.endswith((".norm.weight", ".norm.bias")):
            tables.setdefault(part, {})[f"module.{rest}"] = tensor
    return tables


def library_model(directory: Path | None = None) -> torch.nn.Module:
    """Return the package's own network, as the package loads a directory; random without one."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    weights: Any = nothing if directory is None else directory / "kokoro-v1_0.pth"
    from kokoro.model import KModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: torch.nn.Module = KModel(repo_id="small", config=CONFIG, model=weights)
    return model.eval()
