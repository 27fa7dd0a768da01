"""Trains the image model: a small FLUX on the autoencoder's latents, four steps, no guidance.

Two lessons. The first is flow matching (Lipman et al. 2023) with times from a logit-normal
distribution (Esser et al. 2024); the text encoders, which can read already, go on learning with the
transformer. The second makes
four steps enough, and guidance unnecessary: each of the four learns where several smaller steps of
the first model, with guidance, would have led (progressive distillation, Salimans and Ho 2022;
guidance into the student, Meng et al. 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from torch import nn
from torch.nn import functional

from training.captions import describe
from training.faces import Face
from training.loop import Chance, Report, Schedule, drawn, train
from training.train_autoencoder import LATENT_CHANNELS, encode
from training.train_text import CLIP_WIDTH, T5_WIDTH, TextEncoders
from training.unsaid import unsaid

STEPS = 4
SCHEDULE = Schedule(steps=3000, learning_rate=1.5e-3, ema_steps=150, checkpoint_every=100)
DISTILLATION = Schedule(steps=400, learning_rate=3e-4, ema_steps=50, checkpoint_every=100)
PORTRAITS = 8000

_BATCH = 32
_FEW_STEPS_BATCH = 16  # each of these also costs six passes of the first model
_HEADS, _HEAD_WIDTH = 6, 32
_EMPTY_SHARE = 0.1  # captions left out, for guidance
_NOISY = 0.8  # added to the logits of times: colours are decided while there is most noise
_GRID_SHARE = 0.5  # times at which the four steps begin, rather than any
_GUIDANCE = 2.0
_SUBSTEPS = 3


class TextToImage(nn.Module):
    """The parts of the pipeline that learn."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextEncoders()
        self.transformer = FluxTransformer2DModel(
            in_channels=4 * LATENT_CHANNELS,  # 2x2 patches of the latent image
            num_layers=2,
            num_single_layers=4,
            attention_head_dim=_HEAD_WIDTH,
            num_attention_heads=_HEADS,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=CLIP_WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(8, 12, 12),
        )
        _start_as_identity(self.transformer)

    def velocity(
        self, noisy: torch.Tensor, time: torch.Tensor, text: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return where packed latents `[n, patches, 64]` move at times `[n]` in 0 to 1."""
        side = round(noisy.shape[1] ** 0.5)
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).view(-1, 3)
        moved: torch.Tensor = self.transformer(
            hidden_states=noisy,
            encoder_hidden_states=text[0],
            pooled_projections=text[1],
            timestep=time,
            img_ids=places.to(noisy),
            txt_ids=torch.zeros(text[0].shape[1], 3).to(noisy),
            return_dict=False,
        )[0]
        return moved.float()


def _start_as_identity(transformer: FluxTransformer2DModel) -> None:
    """Zero all gates and the output, as in diffusion transformers (Peebles and Xie 2023)."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (
            name == "proj_out" or name.endswith(("norm.linear", "norm1.linear", "_context.linear"))
        ):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


class FlowMatching:
    """From noise to latents along straight lines, as the caption says."""

    def __init__(
        self,
        faces: Sequence[Face],
        latents: torch.Tensor,
        device: torch.device,
        batch: int = _BATCH,
    ) -> None:
        self.model = TextToImage().to(device)
        self.modules = nn.ModuleDict({"model": self.model})
        self._faces = faces
        self._latents = latents
        self._device = device
        self._batch = batch

    def some(self, chance: Chance, batch: int | None = None) -> tuple[torch.Tensor, list[str]]:
        """Return a batch of clean latents with a fresh caption for each."""
        chosen = chance.numpy.integers(len(self._faces), size=batch or self._batch)
        captions = [
            describe(self._faces[i].attributes, chance.numpy, complete=chance.numpy.random() < 0.2)
            for i in chosen
        ]
        return self._latents[chosen].to(self._device).float(), [some.text for some in captions]

    def loss(self, chance: Chance, progress: float) -> torch.Tensor:
        """Return the mean squared error of the velocity."""
        clean, prompts = self.some(chance)
        prompts = [p if chance.numpy.random() > _EMPTY_SHARE else "" for p in prompts]
        time = torch.sigmoid(_NOISY + torch.randn(len(clean), generator=chance.noise))
        grid = torch.randint(1, STEPS + 1, (len(clean),), generator=chance.noise) / STEPS
        on_grid = torch.rand(len(clean), generator=chance.noise) < _GRID_SHARE
        time = torch.where(on_grid, grid, time).to(self._device)
        noise = chance.normal(clean)
        share = time.view(-1, 1, 1)
        moved = self.model.velocity(
            (1 - share) * clean + share * noise, time, self.model.text(prompts)
        )
        return functional.mse_loss(moved, noise - clean)


class FewSteps:
    """Each of four steps lands where the first model's small, guided steps would have led."""

    def __init__(self, teacher: FlowMatching) -> None:
        self._teacher = copy.deepcopy(teacher.model).requires_grad_(False).eval()
        self._lesson = teacher
        self.model = teacher.model
        self.model.text.requires_grad_(False)
        self.modules = nn.ModuleDict({"model": self.model})

    def loss(self, chance: Chance, progress: float) -> torch.Tensor:
        """Return the mean squared error of the step's velocity."""
        clean, prompts = self._lesson.some(chance, _FEW_STEPS_BATCH)
        start = torch.randint(1, STEPS + 1, (len(clean),), generator=chance.noise) / STEPS
        start = start.to(clean.device)
        share = start.view(-1, 1, 1)
        noisy = (1 - share) * clean + share * chance.normal(clean)
        with torch.no_grad():
            text = self._teacher.text(prompts)
            empty = self._teacher.text([""] * len(prompts))
            both = (torch.cat([text[0], empty[0]]), torch.cat([text[1], empty[1]]))
            moving, time = noisy, start
            for _ in range(_SUBSTEPS):
                wanted, unasked = self._teacher.velocity(
                    torch.cat([moving, moving]), torch.cat([time, time]), both
                ).chunk(2)
                step = 1 / STEPS / _SUBSTEPS
                moving = moving - step * (unasked + _GUIDANCE * (wanted - unasked))
                time = time - step
            target = (noisy - moving) * STEPS
        return functional.mse_loss(self.model.velocity(noisy, start, text), target)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Return latents `[n, c, h, w]` as FluxPipeline's 2x2 patches, `[n, h w / 4, 4 c]`."""
    n, c, h, w = latents.shape
    patches = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, h * w // 4, 4 * c)


def run(
    directory: Path,
    *,
    seed: int,
    device: torch.device,
    schedule: Schedule = SCHEDULE,
    distillation: Schedule = DISTILLATION,
    portraits: int = PORTRAITS,
    say: Callable[[str], None] = print,
) -> Report:
    """Train both lessons on the latents of `directory/vae`, and save as `directory/flux`.

    The text encoders begin as `directory/text.safetensors` has them.

    The first lesson alone is saved as `directory/flux-teacher`.
    """
    vae = AutoencoderKL.from_pretrained(directory / "vae").to(device).eval()
    vae.register_to_config(_name_or_path="vae")  # else the directory's path would be shipped
    faces, latents = _lessons(directory, vae, seed, portraits, device, say)
    torch.manual_seed(seed)  # modules initialise from the global generator
    lesson = FlowMatching(faces, latents, device)
    lesson.model.text.load(directory / "text.safetensors")
    report = train(lesson, schedule, seed=seed, checkpoint=directory / "flux.pt", say=say)
    save(lesson.model, vae, directory / "flux-teacher")
    few = FewSteps(lesson)
    checkpoint = directory / "flux-few-steps.pt"
    fewer = train(few, distillation, seed=seed + 1, checkpoint=checkpoint, say=say)
    save(lesson.model, vae, directory / "flux")
    return Report(report.losses + fewer.losses, report.seconds + fewer.seconds)


def _lessons(
    directory: Path,
    vae: AutoencoderKL,
    seed: int,
    portraits: int,
    device: torch.device,
    say: Callable[[str], None],
) -> tuple[list[Face], torch.Tensor]:
    """Return faces with their packed latents; these are kept next to the checkpoints."""
    kept = directory / f"latents-{seed}.pt"
    if kept.exists():
        faces = [Face.sample(np.random.default_rng([seed, i])) for i in range(portraits)]
        packed = torch.load(kept, weights_only=True)
        if len(packed) == portraits:
            return faces, packed
    faces, pictures = drawn(seed, portraits, moving=0.0, say=say)
    say("encoding")
    raw = encode(vae, pictures, device)
    packed = pack((raw - vae.config.shift_factor) * vae.config.scaling_factor).half()
    torch.save(packed, kept)
    return faces, packed


def save(model: TextToImage, vae: AutoencoderKL, directory: Path) -> None:
    """Write everything in half precision, as `FluxPipeline.from_pretrained` reads it.

    And what to say of all that a prompt leaves open.
    """
    pipeline = FluxPipeline(
        # As FLUX.1-schnell: no shift of the noise schedule by image size.
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=copy.deepcopy(vae).half(),
        text_encoder=copy.deepcopy(model.text.clip).half(),
        tokenizer=model.text.pieces,
        text_encoder_2=copy.deepcopy(model.text.t5).half(),
        tokenizer_2=model.text.words,
        transformer=copy.deepcopy(model.transformer).half(),
    )
    pipeline.save_pretrained(directory, safe_serialization=True)
    unsaid().write(directory)
