"""An independent classifier of drawn portraits: which attributes does a generated one show?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from training.faces import ATTRIBUTES, Attributes, Face
from training.loop import Chance, Report, Schedule, drawn, train
from training.train_clip import shrunk

SCHEDULE = Schedule(steps=4000, learning_rate=3e-3, ema_steps=100, checkpoint_every=300)
PORTRAITS = 12000

_BATCH = 48
_NOISE = 0.08


class Judge(nn.Module):
    """A small convolutional network with one answer for each attribute."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 48, 64, 96)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.GroupNorm(1, after), nn.SiLU()]
        self.trunk = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(16 * widths[-1], 192), nn.SiLU()
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(192, len(values)) for name, values in ATTRIBUTES.items()}
        )

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return logits for each attribute; pixels are `[n, 3, 64, 64]` in 0 to 1."""
        trunk = self.trunk(2 * pixels - 1)
        return {name: head(trunk) for name, head in self.heads.items()}

    @torch.no_grad()
    def opinions(self, portraits: torch.Tensor) -> list[dict[str, str]]:
        """Return the likeliest value of each attribute for uint8 portraits of any size."""
        logits = self(shrunk(portraits).float() / 255.0)
        best = {name: some.argmax(dim=1).tolist() for name, some in logits.items()}
        return [
            {name: ATTRIBUTES[name][best[name][i]] for name in ATTRIBUTES}
            for i in range(len(portraits))
        ]

    @classmethod
    def load(cls, path: Path) -> Judge:
        """Load what `run` saved."""
        judge = cls()
        judge.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        return judge.eval()


class Answers:
    """Every attribute from the pixels, blurred and noisy ones too."""

    def __init__(
        self,
        faces: Sequence[Face],
        portraits: torch.Tensor,
        device: torch.device,
        batch: int = _BATCH,
    ) -> None:
        self.model = Judge().to(device)
        self.modules = nn.ModuleDict({"model": self.model})
        self._portraits = portraits
        self._truth = {
            name: torch.tensor([values.index(getattr(face.attributes, name)) for face in faces])
            for name, values in ATTRIBUTES.items()
        }
        self._device = device
        self._batch = batch

    def loss(self, chance: Chance, progress: float) -> torch.Tensor:
        """Return the mean cross entropy over all attributes."""
        chosen = chance.numpy.integers(len(self._portraits), size=self._batch)
        pixels = self._portraits[chosen].to(self._device).float() / 255.0
        blurred = functional.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
        share = float(chance.numpy.uniform(0, 0.8))
        noise = float(chance.numpy.uniform(0, _NOISE))
        pixels = torch.lerp(pixels, blurred, share) + noise * chance.normal(pixels)
        answers = self.model(pixels)
        errors = [
            functional.cross_entropy(logits.float(), self._truth[name][chosen].to(self._device))
            for name, logits in answers.items()
        ]
        return torch.stack(errors).mean()


def shares_right(
    opinions: Sequence[dict[str, str]], truths: Sequence[Attributes]
) -> dict[str, float]:
    """Return for each attribute how often it was recognised; no one sees a bald head's colour."""
    right: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    for opinion, truth in zip(opinions, truths, strict=True):
        hairless = truth.hair_style == "bald" and truth.facial_hair == "none"
        for name in ATTRIBUTES:
            if name != "hair_colour" or not hairless:
                right[name].append(opinion[name] == getattr(truth, name))
    return {name: round(sum(some) / max(1, len(some)), 3) for name, some in right.items()}


def run(
    directory: Path,
    *,
    seed: int,
    device: torch.device,
    schedule: Schedule = SCHEDULE,
    portraits: int = PORTRAITS,
    say: Callable[[str], None] = print,
) -> Report:
    """Train, measure on held-out faces, and save as `directory/judge.safetensors`."""
    faces, pictures = drawn(seed + 2, portraits, moving=0.3, say=say)
    torch.manual_seed(seed)  # modules initialise from the global generator
    lesson = Answers(faces, shrunk(pictures), device)
    report = train(lesson, schedule, seed=seed, checkpoint=directory / "judge.pt", say=say)
    unseen, unseen_pictures = drawn(seed + 1, 300, moving=0.3, held_out=True, say=say)
    model = lesson.model.cpu()
    shares = shares_right(model.opinions(unseen_pictures), [face.attributes for face in unseen])
    say(f"drawn held-out faces: {shares}")
    halved = {name: value.half() for name, value in model.state_dict().items()}
    save_file(halved, directory / "judge.safetensors")
    return report
