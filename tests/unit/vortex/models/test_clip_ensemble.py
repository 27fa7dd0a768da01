from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from training.drawing import draw
from training.faces import Attributes, Face, Motion, Shape
from training.loop import drawn
from vortex.errors import VortexInitializationError
from vortex.models.calibration import Calibration
from vortex.models.clip_ensemble import (
    ClipEncoder,
    DualClip,
    DualClipResult,
    clip_score,
    combine_embeddings,
    keyframe_indices,
)
from vortex.models.footprint import held_bytes
from vortex.models.vocabulary import Vocabulary
from vortex.utils.cancellation import CancellationToken, StageCancelled
from vortex.utils.composition import compose

EMBEDDING = functional.normalize(torch.ones(512), dim=0)
BELOW_70, BELOW_72 = math.nextafter(0.70, 0), math.nextafter(0.72, 0)


# --- scores and the verdict ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cosine", "score"),
    [(-1.0, 0.0), (-0.1, 0.0), (0.0, 0.0), (0.2, 0.5), (0.28, 0.7), (0.4, 1.0), (0.9, 1.0)],
)
def test_score_is_the_cosine_scaled_by_5_halves_within_0_and_1(cosine: float, score: float) -> None:
    assert float(clip_score(torch.tensor(cosine))) == pytest.approx(score)


def test_table_of_scores_in_the_documentation_is_right() -> None:
    rows = re.findall(r"^ *\| (-?\d\S*) +\| (\S+)", clip_score.__doc__ or "", flags=re.MULTILINE)
    assert len(rows) == 9
    for cosine, score in rows:
        assert float(clip_score(torch.tensor(float(cosine)))) == pytest.approx(float(score))


@pytest.mark.parametrize(
    ("score_b", "score_l", "passed"),
    [
        (0.70, 0.72, True),
        (BELOW_70, 0.72, False),
        (0.70, BELOW_72, False),
        (1.0, BELOW_72, False),
        (BELOW_70, 1.0, False),
    ],
)
def test_self_check_passes_from_both_thresholds_on(
    score_b: float, score_l: float, passed: bool
) -> None:
    assert DualClipResult.from_scores(EMBEDDING, score_b, score_l).self_check_passed is passed


def test_ensemble_weighs_the_large_model_more() -> None:
    assert DualClipResult.from_scores(EMBEDDING, 1.0, 0.0).ensemble_score == pytest.approx(0.4)
    assert DualClipResult.from_scores(EMBEDDING, 0.0, 1.0).ensemble_score == pytest.approx(0.6)
    assert DualClipResult.from_scores(EMBEDDING, 0.5, 0.9).ensemble_score == pytest.approx(0.74)


@pytest.mark.parametrize(
    ("score_b", "score_l", "outlier"),
    [
        (0.15, 0.0, False),
        (0.0, 0.15, False),
        (math.nextafter(0.15, 1), 0.0, True),
        (0.0, math.nextafter(0.15, 1), True),
        (0.75, 0.95, True),
        (0.75, 0.75, False),
    ],
)
def test_scores_more_than_15_hundredths_apart_are_an_outlier(
    score_b: float, score_l: float, outlier: bool
) -> None:
    assert DualClipResult.from_scores(EMBEDDING, score_b, score_l).outlier_detected is outlier


@pytest.mark.parametrize(
    ("constraints", "passed"),
    [
        ({}, True),
        ({"min_clip_score": 0.86}, True),
        ({"min_clip_score": 0.87}, False),
        ({"banned_found": (0,)}, False),
        ({"required_missing": (2,)}, False),
    ],
)
def test_good_scores_do_not_outweigh_the_recipes_constraints(
    constraints: dict[str, Any], passed: bool
) -> None:
    verdict = DualClipResult.from_scores(EMBEDDING, 0.80, 0.9001, **constraints)
    assert verdict.self_check_passed is passed


# --- keyframes and the embedding ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "indices"),
    [
        (1, [0, 0, 0, 0, 0]),
        (3, [0, 0, 1, 2, 2]),
        (5, [0, 1, 2, 3, 4]),
        (1080, [108, 324, 540, 756, 972]),
    ],
)
def test_keyframes_are_the_middles_of_five_equal_parts(frames: int, indices: list[int]) -> None:
    assert keyframe_indices(frames) == indices


def unit(width: int, generator: torch.Generator) -> torch.Tensor:
    return functional.normalize(torch.randn(width, generator=generator), dim=0)


def near(vector: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    other = unit(len(vector), generator)
    return functional.normalize(share * vector + (1 - share) * other, dim=0)


@pytest.mark.parametrize(
    ("width_b", "width_l", "worst", "typical"), [(64, 96, 1e-5, 1e-5), (512, 768, 0.15, 0.04)]
)
def test_dot_product_of_two_embeddings_is_the_weighted_mean_of_their_cosines(
    width_b: int, width_l: int, worst: float, typical: float
) -> None:
    """Exactly where the vectors fit side by side; else as Johnson and Lindenstrauss promise."""
    generator = torch.Generator().manual_seed(0)
    errors = []
    for share in torch.linspace(0, 1, 50).tolist():
        first_b, first_l = unit(width_b, generator), unit(width_l, generator)
        second_b, second_l = near(first_b, share, generator), near(first_l, share, generator)
        expected = 0.4 * (first_b @ second_b) + 0.6 * (first_l @ second_l)
        got = combine_embeddings(first_b, first_l) @ combine_embeddings(second_b, second_l)
        errors.append(abs(float(got - expected)))
    assert max(errors) < worst
    assert sum(errors) / len(errors) < typical


@pytest.mark.parametrize(("width_b", "width_l"), [(64, 96), (512, 768)])
def test_embedding_is_512_numbers_of_unit_length(width_b: int, width_l: int) -> None:
    generator = torch.Generator().manual_seed(1)
    embedding = combine_embeddings(unit(width_b, generator), unit(width_l, generator))
    assert embedding.shape == (512,)
    assert embedding.dtype == torch.float32
    assert float(embedding.norm()) == pytest.approx(1.0, abs=1e-5)


def test_embedding_is_the_same_in_every_version_and_on_every_machine() -> None:
    """Embeddings of old events stay comparable with those of new ones."""
    embedding = combine_embeddings(torch.eye(512)[0], torch.eye(768)[0])
    expected = [-0.0121368, -0.0335586, 0.0219755, 0.0061133]
    assert embedding[:4].tolist() == pytest.approx(expected, abs=1e-6)


# --- what is seen, with two encoders that know three colours ------------------------------------

COLOURS = {"red": 0, "green": 1, "blue": 2}


class ColourEncoder:
    """Embeds a frame as its mean colour, and a text "A photo depicts red" as pure red."""

    vocabulary = Vocabulary(shown=COLOURS.keys(), neutral={"a", "the"})

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        return functional.normalize(frames.mean(dim=(2, 3)), dim=1)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        pure, grey = torch.eye(3), functional.normalize(torch.ones(3), dim=0)
        words = [text.removeprefix("A photo depicts ").split(", ")[-1] for text in texts]
        return torch.stack([pure[COLOURS[word]] if word in COLOURS else grey for word in words])


def film(*colours: str) -> torch.Tensor:
    """Return a video with one frame of each colour, uint8; unknown colours are black."""
    palette = torch.cat([torch.eye(3), torch.zeros(1, 3)])
    frames = palette[[COLOURS.get(colour, 3) for colour in colours]]
    return (frames[:, :, None, None].expand(-1, -1, 16, 16) * 255).to(torch.uint8)


def judge(
    video: torch.Tensor,
    prompt: str = "red",
    calibrations: tuple[Calibration, Calibration] = (Calibration(), Calibration()),
    **constraints: Any,
) -> DualClipResult:
    judges: list[Any] = [ColourEncoder(calibration) for calibration in calibrations]
    return DualClip(*judges).verify(video, prompt, token=CancellationToken(), **constraints)


def test_video_of_what_the_prompt_says_passes_and_another_does_not() -> None:
    assert judge(film("red")).self_check_passed
    assert judge(film("red")).ensemble_score == pytest.approx(1.0)
    assert not judge(film("blue")).self_check_passed
    assert judge(film("blue")).ensemble_score == 0.0


def test_banned_concept_rejects_a_video_that_matches_its_prompt() -> None:
    verdict = judge(film("red"), banned_concepts=("green", "red"), required_concepts=("red",))
    assert verdict.banned_found == (1,)
    assert verdict.required_missing == ()
    assert not verdict.self_check_passed


def test_missing_required_concept_rejects_a_video_that_matches_its_prompt() -> None:
    verdict = judge(film("red"), banned_concepts=("blue",), required_concepts=("red", "green"))
    assert verdict.required_missing == (1,)
    assert verdict.banned_found == ()
    assert not verdict.self_check_passed


def test_one_black_keyframe_shows_in_the_worst_score_though_the_mean_hides_it() -> None:
    verdict = judge(film("red", "red", "black", "red", "red"))
    assert verdict.ensemble_score == pytest.approx(0.8)
    assert verdict.worst_keyframe_score == 0.0


def test_cosines_are_calibrated_before_they_are_scored_and_told_as_they_were() -> None:
    strict, lenient = Calibration(scale=0.5, offset=-0.2), Calibration(offset=0.1)
    video = film("red", "blue", "red", "blue", "blue")
    verdict = judge(video, calibrations=(strict, lenient))
    assert verdict.cosine_clip_b == verdict.cosine_clip_l == pytest.approx(0.4)
    # A red frame has a cosine of 1 and a blue one of 0; scores are cut to 0 and 1 frame by frame.
    assert verdict.score_clip_b == pytest.approx((2 * 2.5 * 0.3 + 0.0) / 5)
    assert verdict.score_clip_l == pytest.approx((2 * 1.0 + 3 * 2.5 * 0.1) / 5)
    assert verdict.worst_keyframe_score == pytest.approx(0.6 * 0.25)


def test_concept_counts_as_shown_from_its_margin_over_neutral_texts_on() -> None:
    half = film("green", "red")  # green has a cosine of 0.4, and neutral texts have one of 0.58
    generous = Calibration(concept_margin=-0.2)
    assert judge(half, banned_concepts=("green",)).banned_found == ()
    lenient = judge(half, calibrations=(generous, generous), banned_concepts=("green", "blue"))
    assert lenient.banned_found == (0,)


@pytest.mark.parametrize("prompt", ["a red dragon", "dragon", "the", "🐉", "!!", "rouge"])
def test_words_that_an_encoder_does_not_know_vouch_for_nothing(prompt: str) -> None:
    clear, verdict = judge(film("red")), judge(film("red", "green", "blue"), prompt)
    assert clear.verdict == "passed"
    assert verdict.verdict == "cannot-tell"
    assert not verdict.self_check_passed
    assert verdict.ensemble_score <= 0.5


def test_unknown_concept_is_neither_found_nor_missing_and_named() -> None:
    verdict = judge(film("red"), banned_concepts=("a dragon",), required_concepts=("a beach",))
    assert (verdict.banned_found, verdict.required_missing) == ((), ())
    assert (verdict.verdict, verdict.unknown_words) == ("cannot-tell", ("dragon", "beach"))


def test_unknown_word_does_not_excuse_what_is_banned() -> None:
    verdict = judge(film("red"), banned_concepts=("red",), required_concepts=("a beach",))
    assert verdict.verdict == "failed"


# --- the real classes with mini weights ---------------------------------------------------------


@pytest.fixture(scope="module")
def clip(mini_models: Path) -> DualClip:
    return DualClip.load(mini_models / "mini", device=torch.device("cpu"))


def verify(clip: DualClip, video: torch.Tensor, **changes: Any) -> DualClipResult:
    arguments: dict[str, Any] = {"prompt": "a clown", "token": CancellationToken()}
    return clip.verify(video, **{**arguments, **changes})


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, 48, 80), dtype=torch.uint8, generator=generator)


def test_same_video_gets_the_same_verdict_as_bytes_and_as_floats(
    clip: DualClip, video: torch.Tensor
) -> None:
    first, second = verify(clip, video), verify(clip, video.float() / 255)
    assert torch.equal(first.embedding, second.embedding)
    assert first.ensemble_score == second.ensemble_score
    assert first.embedding.shape == (512,)
    assert float(first.embedding.norm()) == pytest.approx(1.0, abs=1e-5)
    assert not torch.equal(verify(clip, 255 - video).embedding, first.embedding)


SHOWN = "a woman with long red hair in a green coat in front of a blue wall"


def presenter(**attributes: str) -> torch.Tensor:
    """Return five drawn frames of what `SHOWN` says, but for what is changed."""
    rng = np.random.default_rng(4)
    shown = Attributes(
        person="woman",
        skin="pale",
        hair_colour="red",
        hair_style="long",
        eyewear="none",
        facial_hair="none",
        headwear="none",
        garment="coat",
        coat_colour="green",
        background="blue",
    )
    face = Face(replace(shown, **attributes), Shape.sample(rng))
    frames = np.stack([draw(face, Motion.sample(rng)) for _ in range(5)])
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def test_worst_keyframe_score_is_that_of_the_worst_frame_alone(clip: DualClip) -> None:
    frames = presenter()
    frames[2] = 0
    alone = [verify(clip, frame[None], prompt=SHOWN).ensemble_score for frame in frames]
    together = verify(clip, frames, prompt=SHOWN)
    assert alone[2] == min(alone) < 0.5 < max(alone)
    assert together.worst_keyframe_score == pytest.approx(alone[2], abs=1e-5)


def test_video_of_something_else_does_not_pass(clip: DualClip) -> None:
    other = presenter(coat_colour="yellow", background="red")
    assert verify(clip, presenter(), prompt=SHOWN).self_check_passed
    assert not verify(clip, other, prompt=SHOWN).self_check_passed


@pytest.mark.parametrize(
    "attribute", [{"coat_colour": "yellow"}, {"background": "red"}, {"hair_colour": "black"}]
)
def test_one_thing_that_is_otherwise_lowers_both_scores(
    clip: DualClip, attribute: dict[str, str]
) -> None:
    right = verify(clip, presenter(), prompt=SHOWN)
    wrong = verify(clip, presenter(**attribute), prompt=SHOWN)
    assert wrong.score_clip_b < right.score_clip_b - 0.1
    assert wrong.score_clip_l < right.score_clip_l - 0.1


def test_banned_concept_that_is_shown_rejects_and_a_required_one_that_is_not(
    clip: DualClip,
) -> None:
    frames = presenter()
    concepts = ["a man with a beard", "a woman in a green coat"]
    banned = verify(clip, frames, prompt=SHOWN, banned_concepts=concepts)
    assert (banned.banned_found, banned.self_check_passed) == ((1,), False)
    required = verify(clip, frames, prompt=SHOWN, required_concepts=concepts)
    assert (required.required_missing, required.self_check_passed) == ((0,), False)


@pytest.mark.parametrize("file", ["{}", "[]", '{"shown": ["hat"]}', "no JSON"])
def test_vocabulary_that_is_none_is_refused_in_one_line(file: str, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text(file)
    with pytest.raises(VortexInitializationError, match=r"'shown' and 'neutral'") as caught:
        Vocabulary.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_encoder_without_a_vocabulary_knows_every_word(mini_models: Path, tmp_path: Path) -> None:
    for name in ("clip-b", "clip-l"):
        shutil.copytree(mini_models / "mini" / name, tmp_path / name, copy_function=os.symlink)
        (tmp_path / name / "vocabulary.json").unlink()
    published = DualClip.load(tmp_path, device=torch.device("cpu"))
    verdict = verify(published, presenter(), prompt="a dragon", banned_concepts=["a beach"])
    assert verdict.unknown_words == ()
    assert verdict.verdict != "cannot-tell"


def test_black_video_does_not_pass(clip: DualClip) -> None:
    verdict = verify(clip, torch.zeros(5, 3, 64, 64, dtype=torch.uint8))
    assert not verdict.self_check_passed
    assert torch.isfinite(verdict.embedding).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_video_with_values_that_are_no_numbers_is_refused(
    clip: DualClip, video: torch.Tensor, value: float
) -> None:
    spoilt = video.float() / 255
    spoilt[2, 0, 0, 0] = value
    with pytest.raises(ValueError, match="NaN or infinite values"):
        verify(clip, spoilt)


def test_video_without_frames_is_refused(clip: DualClip, video: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"T > 0, got \[0, 3, 48, 80\]"):
        verify(clip, video[:0])


def test_cancelled_check_gives_no_verdict(clip: DualClip, video: torch.Tensor) -> None:
    token = CancellationToken()
    token.cancel()
    with pytest.raises(StageCancelled):
        verify(clip, video, token=token)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("open_clip_model.safetensors", None),
        ("open_clip_model.safetensors", bytes(1000)),
        ("open_clip_config.json", None),
        ("open_clip_config.json", b"{"),
    ],
)
@pytest.mark.filterwarnings("default")  # what the library says of it is not ours
def test_model_that_cannot_be_loaded_is_named_in_one_line(
    file: str, content: bytes | None, mini_models: Path, tmp_path: Path
) -> None:
    for model in ("clip-b", "clip-l"):
        shutil.copytree(mini_models / "mini" / model, tmp_path / model, copy_function=os.symlink)
    spoilt = tmp_path / "clip-l" / file
    spoilt.unlink()
    if content is not None:
        spoilt.write_bytes(content)
    with pytest.raises(VortexInitializationError) as caught:
        DualClip.load(tmp_path, device=torch.device("cpu"))
    message = str(caught.value)
    assert message.startswith(f"clip-l: {tmp_path / 'clip-l'} cannot be loaded: ")
    assert "\n" not in message


# --- what is seen of a frame ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(mini_models: Path) -> ClipEncoder:
    return ClipEncoder(mini_models / "mini" / "clip-l", torch.device("cpu"))


@pytest.mark.parametrize("size", [(64, 128), (192, 256), (128, 64), (320, 240), (1024, 576)])
def test_portrait_is_seen_in_every_format_as_in_the_square(
    size: tuple[int, int], encoder: ClipEncoder, portraits: torch.Tensor
) -> None:
    square = encoder.encode_frames(portraits.float() / 255)
    composed = encoder.encode_frames(compose(portraits, *size).float() / 255)
    assert float(functional.cosine_similarity(square, composed).mean()) > 0.95


@pytest.mark.parametrize("size", [(64, 128), (128, 64)])
def test_frame_that_shows_the_portrait_elsewhere_or_not_at_all_is_seen_to_differ(
    size: tuple[int, int], encoder: ClipEncoder, portraits: torch.Tensor
) -> None:
    square = encoder.encode_frames(portraits.float() / 255)
    frames = compose(portraits, *size)
    along = 2 if size[0] < size[1] else 3
    moved = frames.roll(size[3 - along] // 3, dims=along)
    covered = frames[..., :32, :32].repeat_interleave(4, 2).repeat_interleave(4, 3)
    for broken in (moved, covered[..., : size[1], : size[0]], torch.zeros_like(frames)):
        seen = encoder.encode_frames(broken.float() / 255)
        assert float(functional.cosine_similarity(square, seen).mean()) < 0.8


# --- INT8 ---------------------------------------------------------------------------------------

PROMPTS = [
    "a woman with red hair",
    "a bald man with a beard",
    "a robot",
    "an empty street at night",
]


@pytest.fixture(scope="module")
def portraits() -> torch.Tensor:
    return drawn(5, 10, moving=0.0)[1]


@pytest.mark.parametrize("name", ["clip-b", "clip-l"])
def test_embeddings_of_int8_weights_are_nearly_those_of_float32(
    name: str, portraits: torch.Tensor, mini_models: Path
) -> None:
    directory, cpu = mini_models / "mini" / name, torch.device("cpu")
    exact = ClipEncoder(directory, cpu)
    rounded = ClipEncoder(directory, cpu, quantization="int8")
    frames = portraits.float() / 255
    pairs = [
        (exact.encode_frames(frames), rounded.encode_frames(frames)),
        (exact.encode_texts(PROMPTS), rounded.encode_texts(PROMPTS)),
    ]
    for reference, got in pairs:
        cosines = functional.cosine_similarity(reference, got)
        assert float(cosines.min()) > 0.999
        assert not torch.equal(reference, got)
    of_exact, of_rounded = (clip_score(seen @ read.T) for seen, read in zip(*pairs, strict=True))
    assert of_exact.max() > 0.1
    assert (of_exact - of_rounded).abs().max() < 0.01
    assert torch.equal(rounded.encode_frames(frames), pairs[0][1])


def test_int8_weights_hold_a_quarter_of_the_bytes_attention_included(mini_models: Path) -> None:
    directory, cpu = mini_models / "mini" / "clip-l", torch.device("cpu")
    exact = held_bytes(ClipEncoder(directory, cpu).network)
    encoder = ClipEncoder(directory, cpu, quantization="int8")
    assert held_bytes(encoder.network) < 0.3 * exact
    encoder.encode_texts(PROMPTS)
    encoder.encode_frames(torch.rand(2, 3, 64, 64))
    assert held_bytes(encoder.network) < 0.3 * exact  # nothing that was unpacked is kept
    attention = [m for m in encoder.network.modules() if isinstance(m, torch.nn.MultiheadAttention)]
    assert attention
    for module in attention:
        rows = module.parametrizations["in_proj_weight"].original0
        assert rows.dtype == torch.int8
