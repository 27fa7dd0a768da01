"""Flux on the GPU: NF4 as it is loaded, stopped between steps, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vortex.errors import VortexInitializationError
from vortex.models.flux import FluxImage
from vortex.models.footprint import held_bytes
from vortex.utils.cancellation import CancellationToken, StageCancelled

pytestmark = [pytest.mark.gpu, pytest.mark.models]

ALLOCATION_BYTES = 512


def load(directory: Path, device: torch.device) -> FluxImage:
    return FluxImage.load(
        directory / "mini" / "flux", device=device, dtype=torch.bfloat16, quantization="nf4"
    )


def draw(flux: FluxImage, steps: int = 4, token: CancellationToken | None = None) -> torch.Tensor:
    token = token or CancellationToken()
    return flux.generate("a clown", width=64, height=64, steps=steps, seed=1, token=token)


@pytest.fixture
def flux(cuda: torch.device, mini_models: Path) -> FluxImage:
    return load(mini_models, cuda)


def test_nf4_draws_on_the_gpu_nearly_what_it_draws_on_the_cpu(
    flux: FluxImage, mini_models: Path
) -> None:
    on_cpu = draw(load(mini_models, torch.device("cpu")))
    picture = draw(flux).cpu()
    assert -10 * (picture - on_cpu).square().mean().log10() > 33
    assert torch.equal(draw(flux).cpu(), picture)


def test_bytes_counted_are_those_that_the_gpu_allocated(
    cuda: torch.device, mini_models: Path
) -> None:
    before = torch.cuda.memory_allocated(cuda)
    flux = load(mini_models, cuda)
    allocated = torch.cuda.memory_allocated(cuda) - before
    counted = sum(map(held_bytes, flux.parts.values()))
    tensors = sum(6 * len(list(part.parameters())) for part in flux.parts.values())
    assert counted <= allocated <= counted + tensors * ALLOCATION_BYTES


def test_cancelled_portrait_stops_within_one_step(flux: FluxImage) -> None:
    token, done = CancellationToken(), []

    def on_step(step: int, _: int) -> None:
        done.append(step)
        if step == 2:
            token.cancel()

    with pytest.raises(StageCancelled):
        flux.generate(
            "a clown", width=64, height=64, steps=50, seed=1, token=token, on_step=on_step
        )
    assert done == [1, 2]


def test_gpu_without_room_is_told_in_one_line(cuda: torch.device, mini_models: Path) -> None:
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved(cuda)
    torch.cuda.set_per_process_memory_fraction((held + 4_000_000) / total, cuda)
    try:
        with pytest.raises(
            VortexInitializationError, match=r"^flux: out of memory on cuda:0 .* GB were free"
        ) as caught:
            load(mini_models, cuda)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
    assert "\n" not in str(caught.value)
