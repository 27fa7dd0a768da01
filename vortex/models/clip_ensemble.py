"""The self-check: do two CLIP models find in the video what the recipe asked for?

Each model compares keyframes with texts by the cosine of their embeddings. On the way from there to
the verdict a cosine is first calibrated, where it is known how, and then scaled to a score of 0 to
1, see `clip_score`. What a prompt says in words that an encoder never learned lowers
its score, and leaves the verdict open.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vortex.errors import VortexInitializationError, one_line
from vortex.models.calibration import Calibration
from vortex.models.footprint import held_bytes
from vortex.models.int8 import quantize_rows
from vortex.models.quantization import ClipQuantization
from vortex.models.vocabulary import Vocabulary
from vortex.rung import KEYFRAMES
from vortex.utils.cancellation import CancellationToken
from vortex.utils.composition import portrait_square
from vortex.utils.vram import loading

PROMPT_PREFIX = "A photo depicts "
CONCEPT_PREFIX = PROMPT_PREFIX + "a portrait of a person, "
NEUTRAL_TEXTS = ("a person", "a portrait", "a picture of a person", "a character")
"""True of every video of a person; a concept must fit better than these do."""
EMBEDDING_WIDTH = 512

CLIP_SCORE_WEIGHT = 2.5  # Hessel et al. 2021, "CLIPScore", section 3
WEIGHT_B, WEIGHT_L = 0.4, 0.6
THRESHOLD_B, THRESHOLD_L = 0.70, 0.72
THRESHOLDS = {"clip-b": THRESHOLD_B, "clip-l": THRESHOLD_L}
"""Lowest score that passes, by the encoder's folder."""
OUTLIER_DIFFERENCE = 0.15

_PROJECTION_SEED = 512

Verdict = Literal["passed", "failed", "cannot-tell"]


@dataclass(frozen=True)
class DualClipResult:
    """The verdict on one video. Scores are on the CLIPScore scale, 0 to 1."""

    embedding: torch.Tensor
    """float32 `[512]`, unit length, on the CPU; stands for the video's content."""
    score_clip_b: float
    score_clip_l: float
    ensemble_score: float
    """0.4 b + 0.6 l."""
    self_check_passed: bool
    """Scores at their thresholds or above, all of the recipe's own constraints met, and no word of
    its prompt or concepts unknown."""
    outlier_detected: bool
    """The two scores differ by more than 0.15."""
    banned_found: tuple[int, ...] = ()
    """Indices of the recipe's banned concepts that the video shows."""
    required_missing: tuple[int, ...] = ()
    """Indices of the recipe's required concepts that it does not show."""
    worst_keyframe_score: float = 0.0
    """Ensemble score of the keyframe that fits worst; a mean hides a single black frame."""
    cosine_clip_b: float | None = None
    """Mean cosine of keyframes and prompt behind `score_clip_b`, as the encoder gave it."""
    cosine_clip_l: float | None = None
    """The same behind `score_clip_l`."""
    unknown_words: tuple[str, ...] = ()
    """Words of the prompt and the concepts that an encoder cannot compare with a picture."""
    contradicted: bool = False
    """The video shows something banned, lacks something required, or scores below the recipe's own
    limit."""

    @property
    def verdict(self) -> Verdict:
        """Whether the video shows what was asked; open, if words are unknown."""
        if self.self_check_passed:
            return "passed"
        return "cannot-tell" if self.unknown_words and not self.contradicted else "failed"

    @classmethod
    def from_scores(
        cls,
        embedding: torch.Tensor,
        score_clip_b: float,
        score_clip_l: float,
        *,
        min_clip_score: float | None = None,
        banned_found: tuple[int, ...] = (),
        required_missing: tuple[int, ...] = (),
        worst_keyframe_score: float = 0.0,
        cosine_clip_b: float | None = None,
        cosine_clip_l: float | None = None,
        unknown_words: tuple[str, ...] = (),
    ) -> DualClipResult:
        """Derive the verdict from the two scores and the recipe's constraints."""
        ensemble = WEIGHT_B * score_clip_b + WEIGHT_L * score_clip_l
        too_low = ensemble < (min_clip_score or 0.0)
        contradicted = too_low or bool(banned_found or required_missing)
        return cls(
            embedding=embedding,
            score_clip_b=score_clip_b,
            score_clip_l=score_clip_l,
            ensemble_score=ensemble,
            self_check_passed=(
                score_clip_b >= THRESHOLD_B
                and score_clip_l >= THRESHOLD_L
                and not contradicted
                and not unknown_words
            ),
            outlier_detected=abs(score_clip_b - score_clip_l) > OUTLIER_DIFFERENCE,
            banned_found=banned_found,
            required_missing=required_missing,
            worst_keyframe_score=worst_keyframe_score,
            cosine_clip_b=cosine_clip_b,
            cosine_clip_l=cosine_clip_l,
            unknown_words=unknown_words,
            contradicted=contradicted,
        )


def clip_score(cosine: torch.Tensor) -> torch.Tensor:
    """Return `2.5 * max(cosine, 0)`, at most 1 (Hessel et al. 2021, equation 1, clamped).

    | cosine | score |                                              |
    | ------ | ----- | -------------------------------------------- |
    | -0.10  | 0.000 | all that is negative                         |
    | 0.00   | 0.000 |                                              |
    | 0.10   | 0.250 |                                              |
    | 0.20   | 0.500 | lowest usual of a picture and its caption    |
    | 0.28   | 0.700 | threshold of the base encoder                |
    | 0.288  | 0.720 | threshold of the large encoder               |
    | 0.35   | 0.875 | highest usual of a picture and its caption   |
    | 0.40   | 1.000 |                                              |
    | 0.60   | 1.000 | all that is above 0.40                       |
    """
    return (CLIP_SCORE_WEIGHT * cosine.clamp(min=0.0)).clamp(max=1.0)


def keyframe_indices(frames: int, keyframes: int = KEYFRAMES) -> list[int]:
    """Return evenly spaced frames, the middles of so many equal parts."""
    return [int((part + 0.5) * frames / keyframes) for part in range(keyframes)]


def combine_embeddings(of_b: torch.Tensor, of_l: torch.Tensor) -> torch.Tensor:
    """Return one unit vector `[512]` for two unit vectors of any width.

    Both are put end to end, weighted by the square roots of 0.4 and 0.6, so that the dot product
    of two such vectors is the weighted mean of their cosines. A longer vector is projected to 512
    by a fixed Gaussian matrix (Johnson and Lindenstrauss 1984), which keeps dot products nearly; a
    shorter one is padded with zeros, which keeps them exactly.
    """
    joined = torch.cat([WEIGHT_B**0.5 * of_b, WEIGHT_L**0.5 * of_l]).float().cpu()
    width = joined.shape[0]
    if width > EMBEDDING_WIDTH:
        combined = _projection(width) @ joined
    else:
        combined = functional.pad(joined, (0, EMBEDDING_WIDTH - width))
    unit: torch.Tensor = functional.normalize(combined, dim=0)
    return unit


@lru_cache(maxsize=2)
def _projection(width: int) -> torch.Tensor:
    generator = np.random.default_rng(_PROJECTION_SEED)
    matrix = generator.standard_normal((EMBEDDING_WIDTH, width), dtype=np.float32)
    scaled: torch.Tensor = torch.from_numpy(matrix) / EMBEDDING_WIDTH**0.5
    return scaled


class ClipEncoder:
    """One open_clip model with its tokenizer, preprocessing, calibration and vocabulary."""

    calibration: Calibration
    """What its cosines count for; without one, what they are."""
    vocabulary: Vocabulary | None
    """The words that it knows; None is any."""

    def __init__(
        self,
        directory: Path,
        device: torch.device,
        *,
        quantization: ClipQuantization = "none",
        calibration: Calibration | None = None,
    ) -> None:
        """Load `open_clip_config.json` and `open_clip_model.safetensors`.

        `vocabulary.json` is read where it is there.

        Args:
            directory: holds these files, and the tokenizer's if it is not open_clip's own.
            device: where to compute.
            quantization: of the weights; activations have float32 in any case.
            calibration: see `Calibration.read`.

        Raises:
            VortexInitializationError: a file is missing or does not fit, or the device is full.
        """
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when open_clip is imported
        import open_clip

        source = f"local-dir:{directory}"
        try:
            # Without the last argument, absent weights would mean random ones.
            model = open_clip.create_model(source, device="cpu", require_pretrained=True)
            self._tokenize = open_clip.get_tokenizer(source)
            config = json.loads((directory / "open_clip_config.json").read_text(encoding="utf-8"))
            preprocessing = config["preprocess_cfg"]
        except Exception as error:  # the libraries behind it have errors of their own
            raise VortexInitializationError(
                f"{directory.name}: {directory} cannot be loaded: {one_line(error)}"
            ) from error
        model.eval().requires_grad_(False)
        if quantization == "int8":
            quantize_rows(model)
        with loading(directory.name, device, held_bytes(model)):
            self._model: Any = model.to(device)  # open_clip ships no types
        self.calibration = calibration or Calibration()
        self.vocabulary = Vocabulary.read(directory)
        self._device = device
        size = model.visual.image_size
        self._side = size[0] if isinstance(size, tuple | list) else size
        self._mean = torch.tensor(preprocessing["mean"], device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing["std"], device=device).view(1, 3, 1, 1)

    @property
    def network(self) -> nn.Module:
        """The open_clip model."""
        network: nn.Module = self._model
        return network

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Return unit vectors `[n, width]` for frames float32 `[n, 3, H, W]` in [0, 1].

        Of a frame that is not square, the part is seen in which it shows the portrait.
        """
        # CLIP scales as here, but then cuts the centre out, where a tall frame has half a head.
        scaled = functional.interpolate(
            portrait_square(frames.to(self._device)),
            (self._side, self._side),
            mode="bicubic",
            antialias=True,
        ).clamp(0.0, 1.0)
        with torch.inference_mode():
            encoded: torch.Tensor = self._model.encode_image(
                (scaled - self._mean) / self._std, normalize=True
            )
        return encoded.float()

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return unit vectors `[n, width]`; a text is cut to the model's 77 tokens."""
        with torch.inference_mode():
            encoded: torch.Tensor = self._model.encode_text(
                self._tokenize(list(texts)).to(self._device), normalize=True
            )
        return encoded.float()


class DualClip:
    """Two CLIP models that judge together. Blocking; one call at a time."""

    def __init__(self, base: ClipEncoder, large: ClipEncoder, *, calibrated: bool = False) -> None:
        self._base = base
        self._large = large
        self.calibrated = calibrated
        """Whether scores are on the scale on which the thresholds mean something."""

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        device: torch.device,
        quantization: ClipQuantization = "none",
        calibrated: bool = True,
    ) -> DualClip:
        """Load the folders `clip-b` and `clip-l` of a model directory; see `ClipEncoder`.

        Args:
            directory: of the profile, with the calibrations, if there are any.
            device: where to compute.
            quantization: of the weights.
            calibrated: whether to use the calibrations.

        Raises:
            VortexInitializationError: a file is missing or does not fit, a calibration belongs to
                other weights, or the device is full.
        """
        maps = {name: Calibration.read(directory, name) for name in THRESHOLDS if calibrated}
        whole = bool(maps) and None not in maps.values()  # one alone would make no common scale
        encoders = (
            ClipEncoder(
                directory / name,
                device,
                quantization=quantization,
                calibration=maps[name] if whole else None,
            )
            for name in THRESHOLDS
        )
        return cls(*encoders, calibrated=whole)

    @property
    def encoders(self) -> Mapping[str, ClipEncoder]:
        """The two by the names of their folders."""
        return dict(zip(THRESHOLDS, (self._base, self._large), strict=True))

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The two open_clip models by name: b, l."""
        return {"b": self._base.network, "l": self._large.network}

    def unknown_words(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Return the words that one of the two models, or both, cannot compare with a picture."""
        words = (
            word
            for model in (self._base, self._large)
            if model.vocabulary is not None
            for text in texts
            for word in model.vocabulary.look_up(text).unknown
        )
        return tuple(dict.fromkeys(words))

    def verify(
        self,
        video: torch.Tensor,
        prompt: str,
        *,
        banned_concepts: Sequence[str] = (),
        required_concepts: Sequence[str] = (),
        min_clip_score: float | None = None,
        keyframes: int = KEYFRAMES,
        token: CancellationToken,
    ) -> DualClipResult:
        """Judge a video by its keyframes; same arguments, same verdict.

        A concept is judged by contrast: it is shown when it fits better, by the encoders' margin,
        than texts that are true of every video do on average. One with unknown words is neither
        shown nor missing.

        Args:
            video: `[T, 3, H, W]`, uint8 or float in [0, 1].
            prompt: what the video should show.
            banned_concepts: must not be shown.
            required_concepts: must be shown.
            min_clip_score: lowest ensemble score to accept, on top of the thresholds.
            keyframes: how many frames to look at, evenly spaced.
            token: polled before each model.

        Raises:
            ValueError: the video has no frames, or NaN or infinite values.
            StageCancelled: the token was cancelled.
        """
        if video.ndim != 4 or video.shape[0] == 0:
            raise ValueError(f"a video is [T, 3, H, W] with T > 0, got {list(video.shape)}")
        frames = video[keyframe_indices(video.shape[0], keyframes)]
        frames = frames.float() / 255.0 if frames.dtype == torch.uint8 else frames.float()
        if not torch.isfinite(frames).all():
            raise ValueError("the video has NaN or infinite values")
        concepts = (*banned_concepts, *required_concepts)
        found, embeddings = [], []
        for model in (self._base, self._large):
            token.raise_if_cancelled()
            seen = model.encode_frames(frames)
            found.append(Finding.of(model, seen, prompt, concepts))
            embeddings.append(functional.normalize(seen.mean(dim=0), dim=0))
        of_b, of_l = found
        contrasts = WEIGHT_B * of_b.contrasts + WEIGHT_L * of_l.contrasts
        known = [not self.unknown_words([concept]) for concept in concepts]
        banned = range(len(banned_concepts))
        required = range(banned.stop, len(concepts))
        worst = (WEIGHT_B * of_b.scores + WEIGHT_L * of_l.scores).min()
        return DualClipResult.from_scores(
            combine_embeddings(*embeddings),
            float(of_b.scores.mean()),
            float(of_l.scores.mean()),
            min_clip_score=min_clip_score,
            banned_found=tuple(i for i in banned if known[i] and contrasts[i] > 0),
            required_missing=tuple(
                i - required.start for i in required if known[i] and contrasts[i] <= 0
            ),
            worst_keyframe_score=float(worst),
            cosine_clip_b=of_b.cosine,
            cosine_clip_l=of_l.cosine,
            unknown_words=self.unknown_words([prompt, *concepts]),
        )


@dataclass(frozen=True)
class Finding:
    """What one model sees of a prompt and of concepts in keyframes."""

    cosine: float
    """Mean of frames and prompt, as the encoder gave it."""
    scores: torch.Tensor
    """`[frames]`: how well each shows the prompt, as far as the encoder knows its words."""
    contrasts: torch.Tensor
    """`[concepts]`: by how much each fits better than is needed to count as shown."""

    @classmethod
    def of(
        cls, model: ClipEncoder, seen: torch.Tensor, prompt: str, concepts: Sequence[str]
    ) -> Finding:
        """Compare keyframes, `[frames, width]` as the model encoded them, with texts."""
        texts = [
            PROMPT_PREFIX + prompt,
            *(CONCEPT_PREFIX + concept for concept in concepts),
            *(PROMPT_PREFIX + text for text in NEUTRAL_TEXTS),
        ]
        cosines = (seen @ model.encode_texts(texts).T).cpu()  # [frames, texts]
        share = 1.0 if model.vocabulary is None else model.vocabulary.look_up(prompt).share
        neutral = cosines[:, -len(NEUTRAL_TEXTS) :].mean()
        of_concepts = cosines[:, 1 : 1 + len(concepts)].mean(dim=0)
        return cls(
            cosine=float(cosines[:, 0].mean()),
            scores=share * clip_score(model.calibration.apply(cosines[:, 0])),
            contrasts=of_concepts - neutral - model.calibration.concept_margin,
        )
