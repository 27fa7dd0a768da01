from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.cases import slow_but
from training.faces import Face
from training.judge import Answers, Judge
from training.loop import Chance, Lesson, Report, Schedule, drawn, train
from training.puppet import Pose, true_motion
from training.train_autoencoder import Reconstruction
from training.train_clip import YesOrNo, shrunk
from training.train_flux import FewSteps, FlowMatching
from training.train_liveportrait import (
    Frames,
    PaintingMouths,
    ReadingMotion,
    Rendering,
    RenderingBeards,
    Stitching,
    opened,
)
from training.train_text import Reading
from vortex.models.liveportrait import LivePortraitDims
from vortex.models.liveportrait.checkpoints import Networks
from vortex.models.mini import shipped_weights

# In mixed precision torch says once that norms of queries and keys are not fused.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")

CPU = torch.device("cpu")
DIMS = replace(LivePortraitDims.mini(), image_size=64)


@cache
def moving_faces() -> Frames:
    return Frames.draw(3, 4, size=DIMS.output_size)


@pytest.fixture(scope="module")
def few() -> tuple[list[Face], torch.Tensor]:
    return drawn(3, 12, moving=0.5)


def lesson(part: str, few: tuple[list[Face], torch.Tensor]) -> Lesson:
    faces, portraits = few
    pattern = 2 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    latents = pattern.expand(len(faces), 4, 64)
    torch.manual_seed(0)
    match part:
        case "autoencoder":
            return Reconstruction(portraits, CPU, batch=2)
        case "flux":
            return FlowMatching(faces, latents, CPU, batch=4)
        case "few steps":
            return FewSteps(FlowMatching(faces, latents, CPU, batch=2))
        case "text":
            return Reading(CPU, batch=4)
        case "motion":
            return ReadingMotion(DIMS, moving_faces(), CPU, batch=4)
        case "rendering":
            return Rendering(DIMS, moving_faces(), CPU, sources=2)
        case "beards":
            return RenderingBeards(DIMS, moving_faces(), CPU, sources=2)
        case "mouths":
            return PaintingMouths(DIMS, moving_faces(), CPU, sources=2)
        case "stitching":
            return Stitching(DIMS, moving_faces(), CPU)
        case "judge":
            return Answers(faces, shrunk(portraits), CPU, batch=8)
        case _:
            return YesOrNo(part, faces, shrunk(portraits), CPU, batch=8)


def run(
    part: str, few: tuple[list[Face], torch.Tensor], checkpoint: Path, steps: int, stop: int
) -> tuple[Lesson, Report]:
    trained = lesson(part, few)
    schedule = Schedule(steps=steps, learning_rate=2e-3, ema_steps=10)
    return trained, train(trained, schedule, seed=1, checkpoint=checkpoint, stop_after=stop)


LEARNT = (
    *("autoencoder", "text", "flux", "rendering", "beards", "mouths"),
    *("motion", "stitching", "clip-b", "judge"),
)
RESUMED = ("autoencoder", "text", "flux", "few steps", "rendering", "stitching", "clip-l", "judge")


@pytest.mark.parametrize("part", slow_but(("text", "motion", "stitching", "clip-b"), LEARNT))
def test_few_steps_of_training_lower_the_loss(
    part: str, few: tuple[list[Face], torch.Tensor], tmp_path: Path
) -> None:
    _, report = run(part, few, tmp_path / "run.pt", steps=24, stop=24)
    assert np.mean(report.losses[-4:]) < 0.93 * np.mean(report.losses[:4])


@pytest.mark.parametrize("part", slow_but(("rendering", "judge"), RESUMED))
def test_interrupted_training_ends_with_the_same_bits(
    part: str, few: tuple[list[Face], torch.Tensor], tmp_path: Path
) -> None:
    whole, whole_report = run(part, few, tmp_path / "whole.pt", steps=4, stop=4)
    run(part, few, tmp_path / "parts.pt", steps=4, stop=2)
    resumed, report = run(part, few, tmp_path / "parts.pt", steps=4, stop=4)
    assert report.losses == whole_report.losses
    for name, value in whole.modules.state_dict().items():
        assert torch.equal(value, resumed.modules.state_dict()[name]), name


def test_another_seed_gives_other_weights(
    few: tuple[list[Face], torch.Tensor], tmp_path: Path
) -> None:
    schedule = Schedule(steps=2, learning_rate=2e-3)
    first = train(lesson("judge", few), schedule, seed=1, checkpoint=tmp_path / "1.pt")
    second = train(lesson("judge", few), schedule, seed=2, checkpoint=tmp_path / "2.pt")
    assert first.losses != second.losses


def test_every_other_face_has_a_full_beard_where_beards_are_learnt() -> None:
    frames = Frames.draw(5, 12, size=128, bearded=True)
    judge = Judge.load(shipped_weights() / "judge.safetensors")
    seen = [opinion["facial_hair"] for opinion in judge.opinions(frames.pictures[1::2, 0])]
    assert seen == 6 * ["beard"]


def test_inside_of_a_mouth_is_hidden_as_far_as_it_opens_and_between_the_lips() -> None:
    face = Face.sample(np.random.default_rng(1))
    shut, half, wide = (
        true_motion([face.shape], [Pose(lips=lips)]).placed() for lips in (0.0, 0.5, 1.0)
    )
    like = torch.zeros(1, 1, 64, 64)
    hidden = [opened(shut, driving, like)[0, 0] for driving in (shut, half, wide)]
    assert hidden[0].max() == 0
    assert 0.2 < hidden[1].max() < 0.8 < hidden[2].max() <= 1
    row, column = divmod(int(hidden[2].argmax()), 64)
    lower, upper = (int((wide[0, point, 1] + 1) * 32) for point in (19, 20))
    assert upper < row < lower
    assert abs(column - 31.5) < 2
    assert opened(wide, wide, like).max() == 0  # the source shows it


def test_rendering_goes_on_from_trained_networks() -> None:
    dims = LivePortraitDims.mini()
    frames = Frames.draw(3, 4, size=dims.output_size)
    trained = Networks.load(shipped_weights() / "liveportrait", dims)
    known, new = (
        Rendering(dims, frames, CPU, sources=2, networks=networks) for networks in (trained, None)
    )
    loss, loss_of_new = (some.loss(Chance.of(1, 0), 1.0) for some in (known, new))
    assert loss < 0.5 * loss_of_new
    assert loss.requires_grad


def test_nothing_but_the_generator_learns_to_paint_mouths() -> None:
    painting = PaintingMouths(DIMS, moving_faces(), CPU, sources=2)
    painting.loss(Chance.of(1, 0), 1.0).backward()  # type: ignore[no-untyped-call]
    assert painting.generator.fc.weight.grad is not None
    others = (*painting.appearance.parameters(), *painting.warping.parameters())
    assert all(parameter.grad is None for parameter in others)
    learning = {id(parameter) for parameter in painting.modules.parameters()}
    assert learning == {id(parameter) for parameter in painting.generator.parameters()}


def test_where_a_mouth_opens_counts_more_while_mouths_are_painted() -> None:
    face = Face.sample(np.random.default_rng(1))
    shut, wide = (true_motion([face.shape], [Pose(lips=lips)]).placed() for lips in (0.0, 1.0))
    drawn = torch.zeros(1, 3, 64, 64)
    usual, painting = (
        lesson(DIMS, moving_faces(), CPU, sources=2) for lesson in (Rendering, PaintingMouths)
    )
    for progress in (0.0, 1.0):
        opening, closing = (
            painting._weight(*pair, drawn, progress) - usual._weight(*pair, drawn, progress)
            for pair in ((shut, wide), (wide, shut))
        )
        assert opening.max() > 30
        inside = opened(shut, wide, drawn)
        torch.testing.assert_close(opening / opening.max(), inside / inside.max())
        assert closing.abs().max() == 0
