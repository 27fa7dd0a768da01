"""LivePortrait at full size on the GPU: its precisions, and frames that arrive while others are
drawn."""

from __future__ import annotations

import pytest
import torch

from tests.unit.vortex.models.liveportrait.test_liveportrait import recipe_networks
from vortex.models.liveportrait import LivePortrait, LivePortraitDims
from vortex.utils.cancellation import CancellationToken
from vortex.utils.composition import compose

pytestmark = pytest.mark.gpu

DIMS = LivePortraitDims.full()
FRAMES = 4
# Of 255. Rounding to half precision moves no edge by a pixel; single pixels may differ by more.
# Bounds that are set, and not yet taken on any card.
MEAN_TOLERANCE = 1.0
P99_TOLERANCE = 6.0


def frames(device: torch.device, dtype: torch.dtype, batch: int = FRAMES) -> torch.Tensor:
    """Render the same picture, turned a little from frame to frame."""
    model = LivePortrait(recipe_networks(DIMS), DIMS, device=device, dtype=dtype)
    picture = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    source = model.prepare(picture)
    angles = torch.linspace(0, 5, FRAMES).unsqueeze(1).expand(-1, 3)
    driving = model.drive(source, expression=torch.zeros(FRAMES, 21, 3), angles=angles)
    return model.render(source, driving, batch_frames=batch, token=CancellationToken())


@pytest.fixture(scope="module")
def exact(cuda: torch.device) -> torch.Tensor:
    return frames(cuda, torch.float32).int()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_draws_nearly_what_float32_draws(
    dtype: torch.dtype, cuda: torch.device, exact: torch.Tensor
) -> None:
    difference = (frames(cuda, dtype).int() - exact).abs().float()
    assert difference.mean() < MEAN_TOLERANCE
    assert difference.flatten()[::7].quantile(0.99) < P99_TOLERANCE


def test_gpu_draws_what_the_cpu_draws(exact: torch.Tensor) -> None:
    difference = (frames(torch.device("cpu"), torch.float32).int() - exact).abs().float()
    assert difference.mean() < MEAN_TOLERANCE


def test_batches_change_no_more_than_rounding(cuda: torch.device, exact: torch.Tensor) -> None:
    one_by_one = frames(cuda, torch.float32, batch=1).int()
    assert (one_by_one - exact).abs().float().mean() < MEAN_TOLERANCE


@pytest.mark.parametrize("size", [(1024, 576), (576, 1024)])
def test_gpu_composes_what_the_cpu_composes(size: tuple[int, int], cuda: torch.device) -> None:
    pictures = torch.randint(0, 256, (2, 3, 512, 512), dtype=torch.uint8)
    difference = compose(pictures.to(cuda), *size).cpu().int() - compose(pictures, *size).int()
    assert difference.abs().max() <= 1
