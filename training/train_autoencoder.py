"""Trains the autoencoder between 128x128 pixels and 16x16 latents of 16 channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional

from training.loop import Chance, Report, Schedule, as_floats, drawn, train

LATENT_CHANNELS = 16
DOWNSAMPLING = 8
SCHEDULE = Schedule(steps=2600, learning_rate=3e-3, ema_steps=100, checkpoint_every=200)
PORTRAITS = 2500

_BATCH = 16
_CROP = 64
_WHOLE_FROM = 0.85  # share of the run after which whole portraits replace crops
_EDGE_WEIGHT = 1.0
_KL_WEIGHT = 1e-4


def build() -> AutoencoderKL:
    """Return the untrained autoencoder, 1.7 M parameters. Convolutions alone: crops teach it."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        # One group: in several, a flat crop of one colour would be normalised to no colour.
        norm_num_groups=1,
        sample_size=128,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0,
        scaling_factor=1.0,
    )


class Reconstruction:
    """Portraits through the latents and back: absolute error of pixels and of their edges."""

    def __init__(self, portraits: torch.Tensor, device: torch.device, batch: int = _BATCH) -> None:
        self.vae = build().to(device)
        self.modules = nn.ModuleDict({"vae": self.vae})
        self._portraits = portraits
        self._device = device
        self._batch = batch

    def loss(self, chance: Chance, progress: float) -> torch.Tensor:
        """Return the loss on crops, towards the end on whole portraits, a quarter as many."""
        whole = progress >= _WHOLE_FROM
        size = self._portraits.shape[-1] if whole else _CROP
        count = max(1, self._batch // 4) if whole else self._batch
        crops = torch.stack([self._crop(chance, size) for _ in range(count)])
        pixels = as_floats(crops, self._device)
        coded = self.vae.encode(pixels).latent_dist
        latents = coded.mean + coded.std * chance.normal(coded.mean)
        seen = self.vae.decode(latents).sample.float()
        divergence: torch.Tensor = coded.kl().mean() / coded.mean[0].numel()
        error = functional.l1_loss(seen, pixels) + _EDGE_WEIGHT * edge_error(seen - pixels)
        return error + _KL_WEIGHT * divergence

    def _crop(self, chance: Chance, size: int) -> torch.Tensor:
        which = int(chance.numpy.integers(len(self._portraits)))
        room = self._portraits.shape[-1] - size
        top, left = chance.numpy.integers(room + 1, size=2).tolist()
        return self._portraits[which, :, top : top + size, left : left + size]


def edge_error(error: torch.Tensor) -> torch.Tensor:
    """Return how much an error of pixels differs between neighbours, down and across."""
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    return down + across


@torch.no_grad()
def encode(vae: AutoencoderKL, portraits: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the latents' means of uint8 portraits, on the CPU, neither shifted nor scaled."""
    return torch.cat(
        [
            vae.encode(as_floats(some, device)).latent_dist.mean.cpu()
            for some in torch.split(portraits, 32)
        ]
    )


@torch.no_grad()
def psnr_db(vae: AutoencoderKL, portraits: torch.Tensor, device: torch.device) -> float:
    """Return the mean peak signal-to-noise ratio of portraits coded and decoded."""
    ratios = []
    for some in torch.split(portraits, 32):
        pixels = as_floats(some, device)
        seen = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        ratios.append(-10 * ((seen - pixels) / 2).square().mean(dim=(1, 2, 3)).log10())
    return float(torch.cat(ratios).mean())


def run(
    directory: Path,
    *,
    seed: int,
    device: torch.device,
    schedule: Schedule = SCHEDULE,
    portraits: int = PORTRAITS,
    say: Callable[[str], None] = print,
) -> Report:
    """Train, measure on held-out faces, and save as `directory/vae`."""
    _, pictures = drawn(seed, portraits, moving=0.5, say=say)
    torch.manual_seed(seed)  # modules initialise from the global generator
    lesson = Reconstruction(pictures, device)
    report = train(lesson, schedule, seed=seed, checkpoint=directory / "autoencoder.pt", say=say)
    latents = encode(lesson.vae, pictures[:500], device)
    lesson.vae.register_to_config(
        shift_factor=round(float(latents.mean()), 4),
        scaling_factor=round(1 / float(latents.std()), 4),
    )
    _, unseen = drawn(seed + 1, 200, moving=0.5, held_out=True, say=say)
    say(f"held-out faces: {psnr_db(lesson.vae, unseen, device):.1f} dB")
    lesson.vae.save_pretrained(directory / "vae", safe_serialization=True)
    return report
