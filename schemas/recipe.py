"""What a slot should show and say."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator

MAX_SLOT_DURATION_S = 45.0
MAX_SEED = 2**32 - 1
MAX_TRIED_SEEDS = 16
MIN_SIDE_PX = 64
MAX_SIDE_PX = 1024
SIDE_STEP_PX = 16
_SIDE = "|".join(map(str, range(MIN_SIDE_PX, MAX_SIDE_PX + 1, SIDE_STEP_PX)))

Concept = Annotated[str, Field(min_length=1, max_length=200)]
# Lists are refused at their first wrong item: a quarter of a megabyte has room for 130,000.
Concepts = Annotated[tuple[Concept, ...], FailFast()]


class ContractModel(BaseModel):
    """Base of all that travels over Kafka: strict types, frozen, unknown fields ignored.

    Ignoring what is unknown lets a newer producer talk to an older worker; a change that an older
    worker must not ignore gets a new `schema_version`.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        # An error names the field and the limit; the value may be a whole script.
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


class Emotion(StrEnum):
    """How the script is spoken."""

    NEUTRAL = "neutral"
    EXCITED = "excited"
    SAD = "sad"
    ANGRY = "angry"
    MANIC = "manic"


class Expression(StrEnum):
    """What the face shows."""

    NEUTRAL = "neutral"
    EXCITED = "excited"
    MANIC = "manic"
    CALM = "calm"


class SlotParams(ContractModel):
    """Length and format of the video."""

    duration_sec: float = Field(default=MAX_SLOT_DURATION_S, gt=0, le=MAX_SLOT_DURATION_S)
    """Length of the video in seconds."""
    fps: int = Field(default=24, ge=1, le=60)
    """Frames per second, constant. A whole number as 24, not 24.0, which JSON Schema lets pass."""
    resolution: str = Field(
        default="512x512",
        pattern=r"^[1-9][0-9]{1,3}x[1-9][0-9]{1,3}$",
        # What the validator below allows, for those who validate by the published schema.
        json_schema_extra={"allOf": [{"pattern": f"^({_SIDE})x({_SIDE})$"}]},
    )
    """Width x height in pixels, for example "512x512"; each 64 to 1024 and a multiple of 16."""

    @field_validator("resolution")
    @classmethod
    def _check_resolution(cls, value: str) -> str:
        for side in map(int, value.split("x")):
            if not MIN_SIDE_PX <= side <= MAX_SIDE_PX or side % SIDE_STEP_PX:
                raise ValueError(
                    f"each side must be {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels and a multiple of"
                    f" {SIDE_STEP_PX}"
                )
        return value

    @property
    def width(self) -> int:
        """Pixels across."""
        return int(self.resolution.split("x")[0])

    @property
    def height(self) -> int:
        """Pixels down."""
        return int(self.resolution.split("x")[1])

    @property
    def frame_count(self) -> int:
        """Number of frames of the video, at least one."""
        return max(1, round(self.duration_sec * self.fps))


class AudioTrack(ContractModel):
    """What is said, and how."""

    script: str = Field(min_length=1, max_length=5000)
    """The words to speak; what does not fit into the slot is cut at a sentence."""
    voice_id: str = Field(default="default", min_length=1, max_length=64)
    """A voice of the worker's voice pack, or "default" for the worker's own choice."""
    speed: float = Field(default=1.0, ge=0.8, le=1.2)
    """Tempo, 1 is the voice's natural one."""
    emotion: Emotion = Field(default=Emotion.NEUTRAL, strict=False)
    """Emotion of the voice."""


class VisualTrack(ContractModel):
    """Who is seen."""

    prompt: str = Field(min_length=1, max_length=2000)
    """Describes the portrait; what is too long for the image model's text encoders is cut off."""
    negative_prompt: str = Field(default="", max_length=2000)
    """What should not be seen; has no effect on distilled image models without guidance."""
    expression_sequence: Annotated[
        tuple[Annotated[Expression, Field(strict=False)], ...], FailFast()
    ] = Field(default=(Expression.NEUTRAL,), min_length=1, max_length=16, strict=False)
    """Expressions in order, each held for an equal share of the slot."""


class SemanticConstraints(ContractModel):
    """What the self-check must find in the finished video."""

    min_clip_score: float | None = Field(default=None, ge=0, le=1)
    """Lowest ensemble score to accept on the CLIPScore scale, on top of the worker's thresholds."""
    banned_concepts: Concepts = Field(default=(), max_length=16, strict=False)
    """Texts that must not match the video."""
    required_concepts: Concepts = Field(default=(), max_length=16, strict=False)
    """Texts that must match the video."""
    # Left out where it is null, so that recipes from before it was known keep their checksums.
    max_seeds: int | None = Field(
        default=None, ge=1, le=MAX_TRIED_SEEDS, exclude_if=lambda value: value is None
    )
    """How many seeds to try while the self-check fails and time is left; 1 tries no other.

    null: as many as the worker tries by itself.
    """


def recipe_sha256(recipe: Recipe) -> str:
    """Return the checksum of a recipe with all its defaults; see `Provenance`.

    A field that was added later counts only where it is set.
    """
    content = json.dumps(
        recipe.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(content.encode()).hexdigest()


class Recipe(ContractModel):
    """Everything that decides what the video looks and sounds like."""

    recipe_id: str = Field(default="", max_length=200)
    """The producer's own name for this recipe; not interpreted."""
    slot_params: SlotParams = SlotParams()
    """Length and format."""
    audio_track: AudioTrack
    """The speech."""
    visual_track: VisualTrack
    """The picture."""
    semantic_constraints: SemanticConstraints = SemanticConstraints()
    """The self-check."""
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    """Same recipe and seed, same video. Without one, it is derived from channel and slot id."""
