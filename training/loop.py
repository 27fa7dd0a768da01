"""One training loop for every part: steps, averaged weights, checkpoints, the same bits on resume.

All that is random in a step comes from generators made of the seed and the step's number, so a
checkpoint needs no random state, and a run that was interrupted ends as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from training.drawing import draw
from training.faces import REST, Face, Motion
from training.muon import Muon

_WARMUP_STEPS = 100
_EMA_WARMUP = 10  # the averaging horizon grows with the steps until it is `ema_steps`
_LAST_RATE = 0.05  # share of the learning rate that is left at the end


@dataclass(frozen=True)
class Chance:
    """All randomness of one step."""

    numpy: np.random.Generator
    noise: torch.Generator

    @classmethod
    def of(cls, seed: int, step: int) -> Chance:
        """Return fresh generators; same arguments, same numbers."""
        numpy = np.random.default_rng([seed, step])
        return cls(numpy, torch.Generator().manual_seed(int(numpy.integers(2**62))))

    def normal(self, like: torch.Tensor) -> torch.Tensor:
        """Return standard normal numbers of a tensor's shape, the same on every device."""
        return torch.randn(like.shape, generator=self.noise).to(like.device, like.dtype)


class Lesson(Protocol):
    """What is trained: modules and the loss of one step."""

    modules: nn.ModuleDict

    def loss(self, chance: Chance, progress: float) -> torch.Tensor:
        """Return the loss of one step; `progress` goes from 0 to 1 over the run."""


@dataclass(frozen=True)
class Schedule:
    """How a part is trained."""

    steps: int
    learning_rate: float
    weight_decay: float = 0.0
    ema_steps: int = 500
    checkpoint_every: int = 500


@dataclass
class Report:
    """What a run measured."""

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """Of all steps, resumed ones included."""


def train(
    lesson: Lesson,
    schedule: Schedule,
    *,
    seed: int,
    checkpoint: Path,
    say: Callable[[str], None] = print,
    stop_after: int | None = None,
) -> Report:
    """Train until the schedule's end; the modules are left with their averaged weights.

    Args:
        lesson: what to train.
        schedule: how long and how fast.
        seed: decides the batches.
        checkpoint: file to resume from, if it exists, and to write to.
        say: told the loss now and then.
        stop_after: leave (with a checkpoint) after this many steps of the schedule.
    """
    modules = lesson.modules
    optimizers = _optimizers(modules, schedule)
    average = {name: value.detach().clone() for name, value in modules.state_dict().items()}
    report, first = Report(), 0
    if checkpoint.exists():
        # Our own file, but still nothing that could run code.
        saved = torch.load(checkpoint, weights_only=True)
        modules.load_state_dict(saved["modules"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        average, first = saved["average"], saved["step"]
        report = Report(saved["losses"], saved["seconds"])
        say(f"resumed at step {first}")
    modules.train()
    device_type = next(modules.parameters()).device.type
    end = min(schedule.steps, stop_after or schedule.steps)
    started, before = time.monotonic(), report.seconds
    for step in range(first, end):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * _rate(step, schedule.steps)
        with torch.autocast(device_type, torch.bfloat16):
            loss = lesson.loss(Chance.of(seed, step), step / schedule.steps)
        modules.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        _follow(average, modules, step, schedule.ema_steps)
        report.losses.append(float(loss.detach()))
        report.seconds = before + time.monotonic() - started
        if (step + 1) % 50 == 0:
            recent = sum(report.losses[-50:]) / 50
            say(f"step {step + 1}/{schedule.steps}  loss {recent:.4f}  {report.seconds:.0f} s")
        if (step + 1) % schedule.checkpoint_every == 0 or step + 1 == end:
            _save(checkpoint, modules, optimizers, average, step + 1, report)
    modules.load_state_dict(average)
    modules.eval()
    return report


def _optimizers(modules: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Return Muon for matrices and convolutions, AdamW for tables of words, norms and biases."""
    tables = {id(m.weight) for m in modules.modules() if isinstance(m, nn.Embedding)}
    learning = [p for p in modules.parameters() if p.requires_grad]
    matrices = [p for p in learning if p.ndim >= 2 and id(p) not in tables]
    others = [p for p in learning if p.ndim < 2 or id(p) in tables]
    rate, decay = schedule.learning_rate, schedule.weight_decay
    return [
        Muon(matrices, lr=rate, weight_decay=decay),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _rate(step: int, steps: int) -> float:
    """Return the share of the learning rate: a short rise, then a cosine."""
    rise = min(1.0, (step + 1) / min(_WARMUP_STEPS, max(1, steps // 10)))
    fall = _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
    return rise * fall


@torch.no_grad()
def _follow(average: dict[str, torch.Tensor], modules: nn.Module, step: int, horizon: int) -> None:
    keep = 1 - 1 / min(horizon, 1 + step / _EMA_WARMUP)
    for name, value in modules.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - keep)
        else:
            average[name].copy_(value)


def _save(
    path: Path,
    modules: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    average: dict[str, torch.Tensor],
    step: int,
    report: Report,
) -> None:
    content: dict[str, Any] = {
        "modules": modules.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "average": average,
        "step": step,
        "losses": report.losses,
        "seconds": report.seconds,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)  # whole or not at all


def drawn(
    seed: int,
    count: int,
    *,
    moving: float,
    size: int = 128,
    held_out: bool = False,
    say: Callable[[str], None] = print,
) -> tuple[list[Face], torch.Tensor]:
    """Draw faces, the share `moving` of them in some random motion, the others at rest.

    Returns:
        The faces and their portraits, uint8 `[count, 3, size, size]`.
    """
    faces: list[Face] = []
    portraits = np.empty((count, size, size, 3), np.uint8)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        face = Face.sample(rng, held_out=held_out)
        motion = Motion.sample(rng) if rng.random() < moving else REST
        faces.append(face)
        portraits[number] = draw(face, motion, size)
        if (number + 1) % 2000 == 0:
            say(f"drawn {number + 1}/{count}")
    return faces, torch.from_numpy(portraits).permute(0, 3, 1, 2).contiguous()


def as_floats(portraits: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return uint8 portraits as float32 in [-1, 1] on the device."""
    return portraits.to(device).float() / 127.5 - 1.0
