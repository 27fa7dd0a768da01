"""NF4 on the small Flux, as it is loaded from disk; bytes are counted, pictures compared."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from vortex.config import VortexConfig
from vortex.errors import VortexInitializationError
from vortex.models.flux import FluxImage
from vortex.models.footprint import held_bytes, held_bytes_by_part
from vortex.models.nf4 import Nf4Linear
from vortex.models.quantization import (
    BITS_PER_WEIGHT,
    clip_quantization,
    flux_quantization,
    is_quantizable,
    needed_bytes,
    quantize,
)
from vortex.utils.cancellation import CancellationToken, StageCancelled

CPU = torch.device("cpu")
# Measured: 22.0 to 23.9 dB. Networks as small as these have few weights to average errors over;
# with random weights it is 35 dB. Another seed's picture is at 10 to 12 dB.
LEAST_PSNR_DB = 21.0


class Two(nn.Module):
    """Two linear layers, the second of which NF4 leaves alone, and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(256, 512)
        self.odd = nn.Linear(96, 64)
        self.norm = nn.LayerNorm(32)


def network(seed: int = 0) -> Two:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Two().eval().requires_grad_(requires_grad=False)


def in_nf4(dtype: torch.dtype = torch.float32) -> Two:
    quantized = network()
    quantize(quantized, "nf4", device=CPU, compute_dtype=dtype)
    return quantized


def test_quantised_weight_holds_a_little_more_than_four_bits() -> None:
    weights = 256 * 512
    layer = in_nf4().wide
    layer.bias = None
    bits = 8 * held_bytes(layer) / weights
    assert BITS_PER_WEIGHT["nf4"] < bits < 4.5
    assert BITS_PER_WEIGHT["nf4"] == pytest.approx(4.127, abs=1e-3)


def test_weights_stay_as_small_when_they_were_used() -> None:
    layer = in_nf4().wide
    before = held_bytes(layer)
    layer(torch.ones(3, 256))
    assert held_bytes(layer) == before


def test_quantised_layer_computes_nearly_the_same() -> None:
    inputs = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    exact, rounded = network().wide(inputs), in_nf4().wide(inputs)
    error = (rounded - exact).norm() / exact.norm()
    assert 0 < error < 0.12


def test_bytes_never_look_like_the_type_of_activations() -> None:
    """T5 converts activations to the type of a weight, and loses them if that is uint8."""
    for dtype in (torch.float32, torch.bfloat16):
        layer = in_nf4(dtype).wide
        layer(torch.ones(2, 256, dtype=dtype))
        assert layer.weight.dtype == dtype


def test_layers_whose_rows_do_not_fill_their_blocks_are_left_alone() -> None:
    quantized = in_nf4()
    assert type(quantized.wide) is Nf4Linear
    assert type(quantized.odd) is nn.Linear
    assert torch.equal(quantized.odd.weight, network().odd.weight)


def test_bytes_are_foretold_to_two_percent() -> None:
    wide = nn.Sequential(nn.Linear(1024, 1024), nn.LayerNorm(1024))
    foretold = needed_bytes(wide, "nf4")
    assert needed_bytes(wide, "none") == held_bytes(wide)
    quantize(wide, "nf4", device=CPU, compute_dtype=torch.float32)
    assert held_bytes(wide) == pytest.approx(foretold, rel=0.02)


def test_missing_package_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(
        VortexInitializationError,
        match=r"^models\.flux_quantization int8 needs the package torchao, .*`pip install torchao`",
    ):
        quantize(network(), "int8", device=CPU, compute_dtype=torch.float32)


# --- what is held -------------------------------------------------------------------------------


def test_what_two_names_share_is_counted_once() -> None:
    shared = nn.ModuleList([linear := nn.Linear(8, 8, bias=False), linear])
    shared.append(nn.Linear(8, 8, bias=False))
    shared[2].weight = linear.weight
    assert held_bytes(shared) == 8 * 8 * 4


def test_buffers_count_as_weights_do() -> None:
    norm = nn.BatchNorm2d(16)
    assert held_bytes(norm) == 4 * 16 * 4 + 8  # and an integer that counts batches


def test_models_without_modules_are_left_out() -> None:
    assert held_bytes_by_part({"kokoro": object()}) == {}


# --- the small Flux -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def load(mini_models: Path) -> Callable[..., FluxImage]:
    def load_flux(method: str, dtype: torch.dtype = torch.float32) -> FluxImage:
        directory = mini_models / "mini" / "flux"
        return FluxImage.load(directory, device=CPU, dtype=dtype, quantization=method)  # type: ignore[arg-type]

    return load_flux


def draw(flux: FluxImage, prompt: str, seed: int = 1) -> torch.Tensor:
    return flux.generate(
        prompt, width=128, height=128, steps=4, seed=seed, token=CancellationToken()
    )


def psnr_db(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(-10 * (first - second).square().mean().log10())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flux_in_nf4_draws_nearly_the_same_picture(
    dtype: torch.dtype, load: Callable[..., FluxImage]
) -> None:
    exact, rounded = load("none"), load("nf4", dtype)
    for prompt in ("an old man with a hat", "a clown", "a robot with silver skin"):
        picture = draw(rounded, prompt)
        assert psnr_db(picture, draw(exact, prompt)) > LEAST_PSNR_DB
        assert torch.equal(draw(rounded, prompt), picture)
        assert psnr_db(picture, draw(exact, prompt, seed=3)) < LEAST_PSNR_DB - 6


def test_flux_in_nf4_holds_what_it_should_part_by_part(load: Callable[..., FluxImage]) -> None:
    exact, rounded = load("none").parts, load("nf4").parts
    assert list(exact) == ["transformer", "t5", "clip_text", "vae"]
    for name in ("transformer", "t5"):
        linears = [m for m in exact[name].modules() if is_quantizable(m)]
        weights = sum(m.weight.numel() for m in linears)
        saved = held_bytes(exact[name]) - held_bytes(rounded[name])
        bits = 32 - 8 * saved / weights
        # A layer's own tables of codes take a kilobyte, which shows in layers as small as these.
        tables = 8 * 1100 * len(linears) / weights
        assert bits == pytest.approx(BITS_PER_WEIGHT["nf4"] + tables, rel=0.02)
    for name in ("clip_text", "vae"):
        assert held_bytes(rounded[name]) == held_bytes(exact[name])


def test_flux_in_nf4_stops_after_the_step_that_was_cancelled(
    load: Callable[..., FluxImage],
) -> None:
    flux, token, done = load("nf4"), CancellationToken(), []

    def on_step(step: int, of: int) -> None:
        done.append((step, of))
        token.cancel()

    with pytest.raises(StageCancelled):
        flux.generate("a clown", width=64, height=64, steps=4, seed=1, token=token, on_step=on_step)
    assert done == [(1, 4)]


def test_flux_that_does_not_fit_is_told_with_the_bytes_that_it_needs(
    load: Callable[..., FluxImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: Nf4Linear, *_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    needed_gb = sum(needed_bytes(part, "none") for part in load("none").parts.values()) / 1e9
    monkeypatch.setattr(Nf4Linear, "__init__", no_room)
    with pytest.raises(VortexInitializationError, match=r"^flux: out of memory on cpu") as caught:
        load("nf4")
    (told_gb,) = re.findall(r"needs (\S+) GB", str(caught.value))
    assert 0.3 * needed_gb < float(told_gb) < needed_gb


@pytest.mark.parametrize(
    ("profile", "flux", "clip"), [("mini", "none", "none"), ("production", "nf4", "int8")]
)
def test_profile_decides_how_weights_are_kept_where_nothing_else_is_set(
    profile: str, flux: str, clip: str
) -> None:
    models = VortexConfig.load().models.model_copy(update={"profile": profile})
    assert (flux_quantization(models), clip_quantization(models)) == (flux, clip)


@pytest.mark.parametrize("profile", ["mini", "production"])
def test_quantization_that_is_set_wins_over_the_profile(profile: str) -> None:
    methods = {"flux_quantization": "int8", "clip_quantization": "none"}
    models = VortexConfig.load().models.model_copy(update={"profile": profile, **methods})
    assert (flux_quantization(models), clip_quantization(models)) == ("int8", "none")
