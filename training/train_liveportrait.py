"""Trains the small LivePortrait on drawn faces, whose true motion is known.

Three lessons, each by itself: the motion extractor reads keypoints, expression and angles off a
picture; appearance, warping and generator learn to draw one frame of a face from another and the
true keypoints of both; a small network learns to correct keypoints. Two more continue the second
with many full beards: a mouth that is shut is a thin line in them, from which one that opens has to
be invented. The one learns where a mouth opens, the other to paint it there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from training.drawing import draw
from training.faces import Face
from training.loop import Chance, Lesson, Report, Schedule, train
from training.puppet import Pose, true_motion
from training.train_autoencoder import edge_error
from vortex.models.liveportrait.blocks import SpectralConv2d
from vortex.models.liveportrait.checkpoints import Networks
from vortex.models.liveportrait.dims import LivePortraitDims
from vortex.models.liveportrait.motion import KEYPOINTS, Motion
from vortex.models.liveportrait.motion_extractor import MotionExtractor
from vortex.models.liveportrait.portrait import LivePortrait
from vortex.models.liveportrait.stitching import stitching_network
from vortex.models.liveportrait.warping import Warping
from vortex.utils.cancellation import CancellationToken

MOTION = Schedule(steps=1500, learning_rate=2e-3, ema_steps=100, checkpoint_every=500)
RENDERING = Schedule(steps=5500, learning_rate=2e-3, ema_steps=150, checkpoint_every=250)
CORRECTIONS = Schedule(steps=1000, learning_rate=2e-3, ema_steps=100, checkpoint_every=500)
BEARDS = Schedule(steps=1400, learning_rate=1.5e-3, ema_steps=100, checkpoint_every=100)
MOUTHS = Schedule(steps=1200, learning_rate=1e-3, ema_steps=100, checkpoint_every=100)
FACES = 2500
FACES_WITH_BEARDS = 1200
FRAMES = 4  # of each face, the first at rest
UNSEEN_FACES = 100

_MOTION_BATCH = 32
_SOURCES, _DRIVINGS = 4, 2
_FROM_REST_SHARE = 0.7
_BLUR, _NOISE = 0.8, 0.04  # a generated portrait is less sharp than a drawn one
_JITTER = 0.004  # of true keypoints: those that are read are not exact
_EDGE_WEIGHT = 1.0
_PART_RADIUS = 0.09
# Lips and eyes first, then all the rest too: their weight, by the progress of the run.
_PROGRESS, _PART_WEIGHT = (1 / 3, 2 / 3, 5 / 6), (40.0, 12.0, 3.0)
_PARTS = (6, 12, 14, 17, 19, 20, 11, 13, 15, 16)
_KEYPOINT_GAIN, _PART_GAIN, _SUM_GAIN = 2.0, 8.0, 0.04
_UPPER_LIP, _LOWER_LIP = 20, 19
_WIDEST_GAP = 0.12  # by which open lips are further apart than closed ones
_MOUTH_WIDTH = 0.09
_MOST_HIDDEN = 0.9
_MOUTH_WEIGHT = 40.0  # a mouth is one of a hundred places, and mostly shut
_INSIDE_WEIGHT = 60.0  # of the pixels of a mouth that opens
_SHIFT = 0.06

_AnyLesson = TypeVar("_AnyLesson", bound=Lesson)


@dataclass(frozen=True)
class Frames:
    """Drawn faces in motion: `f` faces, `FRAMES` frames each, the first at rest.

    Attributes:
        pictures: uint8 `[f, FRAMES, 3, S, S]`.
        motion: of all frames one after the other.
        placed: keypoints `[f, FRAMES, 21, 3]`.
    """

    pictures: torch.Tensor
    motion: Motion
    placed: torch.Tensor

    @classmethod
    def draw(
        cls,
        seed: int,
        count: int,
        *,
        size: int,
        held_out: bool = False,
        bearded: bool = False,
        say: Callable[[str], None] = print,
    ) -> Frames:
        """Draw faces at random, `bearded`: every other one with a full beard.

        Same arguments, same frames.
        """
        pictures = np.empty((count, FRAMES, size, size, 3), np.uint8)
        shapes, poses = [], []
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            face = Face.sample(rng, held_out=held_out)
            while bearded and number % 2 and face.attributes.facial_hair != "beard":
                face = Face.sample(rng, held_out=held_out)
            of_face = [Pose(), *(Pose.sample(rng) for _ in range(FRAMES - 1))]
            for frame, pose in enumerate(of_face):
                pictures[number, frame] = draw(face, pose.drawn(), size)
            shapes += [face.shape] * FRAMES
            poses += of_face
            if (number + 1) % 500 == 0:
                say(f"drawn {number + 1}/{count} faces")
        motion = true_motion(shapes, poses)
        return cls(
            torch.from_numpy(pictures).permute(0, 1, 4, 2, 3).contiguous(),
            motion,
            motion.placed().view(count, FRAMES, KEYPOINTS, 3),
        )


class ReadingMotion:
    """Where the keypoints of a picture are, and how they came there."""

    def __init__(
        self,
        dims: LivePortraitDims,
        frames: Frames,
        device: torch.device,
        batch: int = _MOTION_BATCH,
    ) -> None:
        self.model = MotionExtractor(dims).to(device)
        self.modules = nn.ModuleDict({"model": self.model})
        self._frames, self._batch, self._device = frames, batch, device
        self._size = dims.image_size

    def loss(self, chance: Chance, progress: float) -> torch.Tensor:
        """Return the sum of the absolute errors, each in units of what it moves in the picture."""
        pictures = self._frames.pictures.flatten(0, 1)
        chosen = torch.from_numpy(chance.numpy.integers(len(pictures), size=self._batch))
        seen = self.model(_worn(shrunk(pictures[chosen], self._size, self._device), chance))
        true = self._frames.motion
        placed = self._frames.placed.flatten(0, 1)

        def error(have: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
            return (have.float() - want[chosen].to(self._device)).abs().mean()

        return (
            error(seen.placed(), placed)
            + error(seen.keypoints, true.keypoints)
            # Few of its numbers ever differ from zero, and those by little.
            + 10 * error(seen.expression, true.expression)
            + error(seen.scale, true.scale)
            + error(seen.translation, true.translation)
            + math.radians(1) * error(seen.angles, true.angles)
        )


class _Scaled(nn.Module):
    """Multiplies a weight's input channels while it is trained, and so the length of its steps."""

    gain: torch.Tensor

    def __init__(self, gain: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("gain", gain, persistent=False)

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        return raw * self.gain

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / self.gain


def _scale_steps(warping: Warping, occlusion_gain: float) -> list[nn.Module]:
    """Give the convolutions around the keypoints steps of their own length; return these.

    A mouth that opens changes its keypoints' Gaussians by a tenth of what else there is to see: who
    sees them takes longer steps for these channels. Flow and occlusion sum up thousands of inputs
    in front of a softmax and a sigmoid, which saturate unless their steps are short.
    """
    motion: Any = warping.dense_motion_network  # what a ModuleList holds has no precise type
    first, last = motion.hourglass.encoder.down_blocks[0].conv, motion.hourglass.decoder.conv
    seen = first.in_channels
    gain = torch.ones(KEYPOINTS + 1, seen // (KEYPOINTS + 1))
    gain[1:, 0] = _KEYPOINT_GAIN
    gain[[1 + part for part in _PARTS], 0] = _PART_GAIN
    others = torch.ones(last.in_channels - seen)
    gains = {
        first: gain.view(1, -1, 1, 1, 1),
        last: torch.cat([others, gain.flatten()]).view(1, -1, 1, 1, 1),
        motion.mask: torch.tensor(_SUM_GAIN),
        motion.occlusion: torch.tensor(occlusion_gain),
    }
    for convolution, gain in gains.items():
        parametrize.register_parametrization(convolution, "weight", _Scaled(gain))
    return list(gains)


@torch.no_grad()
def _reopen_occlusion(warping: Warping) -> None:
    """Have nearly nothing hidden, instead of nothing at all.

    There the sigmoid saturates in the first run, and lets no gradient through. What moves in a face
    is then told by what there is to move, and a full beard is the same all over.
    """
    motion: Any = warping.dense_motion_network
    nn.init.zeros_(motion.occlusion.weight)
    nn.init.constant_(motion.occlusion.bias, 2.0)


class Rendering:
    """One frame of a face from another one, and the keypoints of both."""

    _occlusion_gain = _SUM_GAIN

    def __init__(
        self,
        dims: LivePortraitDims,
        frames: Frames,
        device: torch.device,
        sources: int = _SOURCES,
        networks: Networks | None = None,
    ) -> None:
        known = networks or Networks.untrained(dims)
        self.appearance = known.appearance.to(device)
        self.warping = known.warping
        self._scaled = _scale_steps(self.warping, self._occlusion_gain)
        self.warping.to(device)
        self.generator = known.generator.to(device)
        self.modules = nn.ModuleDict(
            {
                "appearance": self.appearance,
                "warping": self.warping,
                "generator": self.generator,
            }
        ).requires_grad_(True)  # what was loaded is made to be used, not to learn
        self._frames, self._sources, self._device = frames, sources, device
        self._size = dims.image_size

    def loss(self, chance: Chance, progress: float) -> torch.Tensor:
        """Return the absolute error of pixels and of their edges, more of it for lips and eyes."""
        rng = chance.numpy
        chosen = rng.integers(len(self._frames.pictures), size=self._sources)
        from_rest = rng.random(self._sources) < _FROM_REST_SHARE
        first = np.where(from_rest, 0, rng.integers(FRAMES, size=self._sources))
        others = np.stack([rng.permutation(FRAMES)[:_DRIVINGS] for _ in chosen])
        pictures, placed = self._frames.pictures, self._frames.placed
        source = _worn(shrunk(pictures[chosen, first], self._size, self._device), chance)
        here = placed[chosen, first]
        there = placed[chosen[:, None], others]
        jitter = _JITTER * chance.normal(here)  # the same for all frames of a face
        driving = (there + jitter.unsqueeze(1)).flatten(0, 1).to(self._device)
        prepared = self.warping.prepare(self.appearance(source), (here + jitter).to(self._device))
        warped = self.warping(prepared, driving).features
        drawn = self.generator(warped)
        wanted = pictures[chosen[:, None], others].flatten(0, 1).to(self._device).float() / 255.0
        before = here.unsqueeze(1).expand_as(there).flatten(0, 1).to(self._device)
        after = there.flatten(0, 1).to(self._device)
        weight = self._weight(before, after, drawn, progress)
        error = weight / weight.mean(dim=(2, 3), keepdim=True) * (drawn - wanted)
        total: torch.Tensor = error.abs().mean() + _EDGE_WEIGHT * edge_error(error)
        return total + self._other_error(before, after)

    def _weight(
        self, source: torch.Tensor, driving: torch.Tensor, drawn: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """Return what each pixel's error counts beside others of its frame, `[n, 1, S, S]`.

        Args:
            source: keypoints of the picture that each frame is drawn from, `[n, 21, 3]`.
            driving: keypoints of the frames, `[n, 21, 3]`.
            drawn: the frames, `[n, 3, S, S]`.
            progress: of the run, from 0 to 1.
        """
        more = float(np.interp(progress, _PROGRESS, _PART_WEIGHT))
        return _part_weights(driving, drawn.shape[-1], more)

    def _other_error(self, source: torch.Tensor, driving: torch.Tensor) -> torch.Tensor | float:
        """Return what else is wrong, if anything; see `_weight` for the arguments."""
        return 0.0

    def settle(self) -> None:
        """After training: bring weights and singular vectors into the form that is saved."""
        for convolution in self._scaled:
            parametrize.remove_parametrizations(convolution, "weight")
        for module in self.generator.modules():
            if isinstance(module, SpectralConv2d):
                module.estimate_vectors(20)  # of the averaged weights


class RenderingBeards(Rendering):
    """The same, and where a mouth opens: nothing in a full beard moves that would show it."""

    _occlusion_gain = 0.1
    _logits: torch.Tensor

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        motion: Any = self.warping.dense_motion_network
        # Before the sigmoid, which lets no gradient through where it is 1 in half precision.
        motion.occlusion.register_forward_hook(lambda *passed: setattr(self, "_logits", passed[2]))

    def _other_error(self, source: torch.Tensor, driving: torch.Tensor) -> torch.Tensor | float:
        """Return how far the occlusion is from hiding the insides of mouths, and nothing else."""
        logits = self._logits.float()
        inside = opened(source, driving, logits)
        return functional.binary_cross_entropy_with_logits(
            logits, 1 - _MOST_HIDDEN * inside, weight=1 + _MOUTH_WEIGHT * inside
        )


class PaintingMouths(Rendering):
    """The generator alone again, mostly on what it paints where a mouth opens.

    Where that is, it is told by what is hidden. Everything before it stays as it is.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for network in (self.appearance, self.warping):
            network.eval().requires_grad_(False)
        self.modules = nn.ModuleDict({"generator": self.generator})

    def _weight(
        self, source: torch.Tensor, driving: torch.Tensor, drawn: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """Return what each pixel's error counts, most within mouths that open."""
        inside = opened(source, driving, drawn)
        return super()._weight(source, driving, drawn, progress) + _INSIDE_WEIGHT * inside


def opened(source: torch.Tensor, driving: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return how far the source does not show the inside of the mouth, of `like`'s shape, 0 to 1.

    Args:
        source: keypoints `[n, 21, 3]`.
        driving: keypoints `[n, 21, 3]` of the frames that are asked for.
        like: `[n, 1, H, W]`.
    """
    upper, lower = driving[:, _UPPER_LIP], driving[:, _LOWER_LIP]
    gap = lower[:, 1] - upper[:, 1]
    wider = gap - (source[:, _LOWER_LIP, 1] - source[:, _UPPER_LIP, 1])
    x, y = ((upper + lower) / 2)[:, :2].T.unsqueeze(-1)
    height, width = like.shape[-2:]
    across = (torch.linspace(-1, 1, width, device=like.device) - x) / _MOUTH_WIDTH
    down = (torch.linspace(-1, 1, height, device=like.device) - y) / (gap.unsqueeze(-1) / 2)
    near = torch.exp(-0.5 * (down.square().unsqueeze(-1) + across.square().unsqueeze(-2)))
    share = (wider / _WIDEST_GAP).clamp(0, 1)
    return (share[:, None, None] * near).unsqueeze(1)


class Stitching:
    """Takes back what a driver moves and a neck does not allow: a shift of the whole head."""

    def __init__(self, dims: LivePortraitDims, frames: Frames, device: torch.device) -> None:
        self.model = stitching_network(dims).to(device)
        self.modules = nn.ModuleDict({"model": self.model})
        _start_at_nothing(self.model)
        self._placed, self._device = frames.placed, device

    def loss(self, chance: Chance, progress: float) -> torch.Tensor:
        """Return the mean squared error of the corrected keypoints."""
        count = 128
        chosen = chance.numpy.integers(len(self._placed), size=count)
        which = chance.numpy.integers(1, FRAMES, size=count)
        source = self._placed[chosen, 0].to(self._device)
        wanted = self._placed[chosen, which].to(self._device)
        shift = torch.zeros(count, 1, 3)
        shift[: count // 2, 0, :2] = _SHIFT * torch.randn(count // 2, 2, generator=chance.noise)
        driven = wanted + shift.to(self._device)
        pairs = torch.cat([source.flatten(1), driven.flatten(1)], dim=-1)
        change = self.model(pairs).float()
        moved = driven + change[:, :-2].view(-1, KEYPOINTS, 3)
        moved = moved + functional.pad(change[:, None, -2:], (0, 1))
        error: torch.Tensor = 1000 * functional.mse_loss(moved, wanted)
        return error


def _start_at_nothing(network: nn.Module) -> None:
    """Zero the last layer: at first, nothing is corrected."""
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def shrunk(pictures: torch.Tensor, size: int, device: torch.device) -> torch.Tensor:
    """Return uint8 pictures as the networks read them, float32 in [0, 1]."""
    pixels = pictures.to(device).float() / 255.0
    return functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)


def _worn(pixels: torch.Tensor, chance: Chance) -> torch.Tensor:
    """Return pictures a little blurred and noisy, as generated ones are."""
    blurred = functional.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    share, noise = (
        torch.from_numpy(chance.numpy.uniform(0, most, (len(pixels), 1, 1, 1))).to(pixels)
        for most in (_BLUR, _NOISE)
    )
    worn: torch.Tensor = torch.lerp(pixels, blurred, share) + noise * chance.normal(pixels)
    return worn.clamp(0, 1)


def _part_weights(placed: torch.Tensor, size: int, more: float) -> torch.Tensor:
    """Return what each pixel counts, `[n, 1, size, size]`: 1, at lips and eyes `more` than that."""
    axis = torch.linspace(-1, 1, size, device=placed.device)
    x, y, _ = placed[:, list(_PARTS)].unbind(-1)
    near_x, near_y = (
        torch.exp(-0.5 * ((axis - centre.unsqueeze(-1)) / _PART_RADIUS) ** 2) for centre in (x, y)
    )
    near = torch.einsum("nky,nkx->nkyx", near_y, near_x)
    return 1 + more * near.amax(dim=1, keepdim=True)


@torch.no_grad()
def psnr_db(model: LivePortrait, frames: Frames) -> tuple[float, float]:
    """Return the mean peak signal-to-noise ratio of frames rendered from those at rest.

    Returns:
        Of the frames, and for comparison of the frames at rest themselves.
    """
    token = CancellationToken()
    rendered: list[torch.Tensor] = []
    still: list[torch.Tensor] = []
    for number, pictures in enumerate(frames.pictures):
        wanted = pictures[1:].float() / 255.0
        source = model.prepare(pictures[:1].float() / 255.0)
        one = slice(number * FRAMES, (number + 1) * FRAMES)
        own = Motion(*(getattr(frames.motion, name)[one] for name in vars(frames.motion)))
        driving = model.drive(
            source, expression=own.expression[1:] - own.expression[:1], angles=own.angles[1:]
        )
        seen = model.render(source, driving, batch_frames=FRAMES, token=token).float() / 255.0
        for pixels, ratios in ((seen, rendered), (pictures[:1].float() / 255.0, still)):
            ratios.append(-10 * (pixels - wanted).square().mean(dim=(1, 2, 3)).log10())
    return float(torch.cat(rendered).mean()), float(torch.cat(still).clamp(max=60).mean())


def run(
    directory: Path,
    *,
    seed: int,
    device: torch.device,
    schedules: tuple[Schedule, Schedule, Schedule] = (MOTION, RENDERING, CORRECTIONS),
    faces: int = FACES,
    say: Callable[[str], None] = print,
) -> Report:
    """Train all five networks, measure on held-out faces, save as `directory/liveportrait`."""
    dims = LivePortraitDims.mini()
    frames = Frames.draw(seed, faces, size=dims.output_size, say=say)
    motion, rendering, corrections = schedules
    reports = []

    def learn(name: str, lesson: Callable[[], _AnyLesson], schedule: Schedule) -> _AnyLesson:
        say(f"liveportrait: {name}")
        torch.manual_seed(seed)  # modules initialise from the global generator
        taught = lesson()
        checkpoint = directory / f"liveportrait-{name}.pt"
        reports.append(train(taught, schedule, seed=seed, checkpoint=checkpoint, say=say))
        return taught

    drawing = learn("rendering", lambda: Rendering(dims, frames, device), rendering)
    reading = learn("motion", lambda: ReadingMotion(dims, frames, device), motion)
    stitching = learn("stitching", lambda: Stitching(dims, frames, device), corrections)
    drawing.settle()
    networks = Networks(
        drawing.appearance,
        reading.model,
        drawing.warping,
        drawing.generator,
        stitching.model,
    )
    _save(networks, directory, dims, seed, say)
    return Report(
        [loss for report in reports for loss in report.losses],
        sum(report.seconds for report in reports),
    )


def run_beards(
    directory: Path,
    *,
    seed: int,
    device: torch.device,
    schedule: Schedule = BEARDS,
    faces: int = FACES_WITH_BEARDS,
    say: Callable[[str], None] = print,
) -> Report:
    """Continue the rendering of `directory/liveportrait` with many full beards; save it there."""

    def lesson(frames: Frames, networks: Networks) -> Rendering:
        _reopen_occlusion(networks.warping)
        return RenderingBeards(LivePortraitDims.mini(), frames, device, networks=networks)

    return _continue("beards", lesson, directory, seed, schedule, faces, say)


def run_mouths(
    directory: Path,
    *,
    seed: int,
    device: torch.device,
    schedule: Schedule = MOUTHS,
    faces: int = FACES_WITH_BEARDS,
    say: Callable[[str], None] = print,
) -> Report:
    """Continue the generator of `directory/liveportrait`, after the beards; save it there."""

    def lesson(frames: Frames, networks: Networks) -> Rendering:
        return PaintingMouths(LivePortraitDims.mini(), frames, device, networks=networks)

    return _continue("mouths", lesson, directory, seed, schedule, faces, say)


def _continue(
    name: str,
    lesson: Callable[[Frames, Networks], Rendering],
    directory: Path,
    seed: int,
    schedule: Schedule,
    faces: int,
    say: Callable[[str], None],
) -> Report:
    """Go on with the networks of `directory/liveportrait`, and save them there."""
    dims = LivePortraitDims.mini()
    frames = Frames.draw(seed + 2, faces, size=dims.output_size, bearded=True, say=say)
    networks = Networks.load(directory / "liveportrait", dims)
    drawing = lesson(frames, networks)
    checkpoint = directory / f"liveportrait-{name}.pt"
    report = train(drawing, schedule, seed=seed, checkpoint=checkpoint, say=say)
    drawing.settle()
    _save(networks, directory, dims, seed, say)
    return report


def _save(
    networks: Networks,
    directory: Path,
    dims: LivePortraitDims,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Save as `directory/liveportrait`, and measure what was saved on held-out faces."""
    for network in networks:
        network.cpu().eval()
    networks.save(directory / "liveportrait", dims, dtype=torch.float16)
    measured = LivePortrait.load(
        directory / "liveportrait", device=torch.device("cpu"), dtype=torch.float32
    )
    unseen = Frames.draw(seed + 1, UNSEEN_FACES, size=dims.output_size, held_out=True, say=say)
    ratio, still = psnr_db(measured, unseen)
    say(f"held-out faces in motion: {ratio:.1f} dB; a still of them: {still:.1f} dB")
