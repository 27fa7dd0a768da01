"""One slot on its way through the stages: its recipe, and what the stages leave for each other."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from schemas import Recipe
from schemas.describe import describe_validation_error
from vortex.errors import InvalidRecipeError
from vortex.rung import FULL, Rung

if TYPE_CHECKING:
    import asyncio

    import numpy as np
    import torch

    from vortex.models.kokoro import Speech


class MediaSink(Protocol):
    """Takes the video while it is made; its methods block and are called from a stage's thread."""

    def begin(
        self, *, waveform: np.ndarray, sample_rate_hz: int, fps: int, width: int, height: int
    ) -> None:
        """Start over: what an earlier attempt of the video stage wrote is discarded.

        Args:
            waveform: float32 `[samples]` in [-1, 1], mono, as long as the video or shorter.
            sample_rate_hz: samples per second of the waveform.
            fps: frames per second, constant.
            width: pixels across.
            height: pixels down.
        """

    def write(self, frames: np.ndarray) -> None:
        """Append frames, uint8 `[n, H, W, 3]`; they are not referred to after the call."""


class SlotListener:
    """Told how a slot comes along; this one does nothing with it."""

    def step_began(self, step: str) -> None:
        """A step began: a stage, or what follows the stages."""

    def step_ended(self, step: str) -> None:
        """A step ended, well or not."""

    def attempt_began(self, stage: str) -> None:
        """An attempt of a stage began, under the stage's time limit."""

    def attempt_ended(self, stage: str) -> None:
        """An attempt ended, well or not."""

    def beat(self) -> None:
        """Work goes on; called often, from a stage's thread."""


@dataclass(frozen=True)
class SpokenAhead:
    """A slot's speech, made before the slot itself began."""

    waveform: torch.Tensor
    """What the audio stage returns."""
    speech: Speech | None
    """What the audio stage leaves in the slot's context."""
    took_ms: float


@dataclass
class SlotContext:
    """One slot on its way through the stages.

    The scheduler hands it to pipelines that declare `takes_slot_context`; plain pipelines never
    see it. Stages leave here what later stages and the caller need, on the event loop's thread.
    """

    recipe: Recipe
    slot_id: int | None
    seed: int
    """Decides every random choice of the slot."""
    sink: MediaSink | None = None
    """Takes frames as they are made; None keeps them in the result alone."""
    listener: SlotListener = field(default_factory=SlotListener)
    admitted: bool = False
    """Whether the caller has asked already what the limits rule out."""
    rungs: tuple[Rung, ...] = (FULL,)
    """The rung in force, and those below it to which the slot may still step down."""
    rung_why: str = ""
    """Why the rung in force is not the best; empty if it is."""
    video_end_by_s: float = math.inf
    """Monotonic second by which the video stage must end."""
    ahead: asyncio.Task[SpokenAhead] | None = None
    """Speaks the slot since before it began; None if nothing was done ahead."""

    stage: str | None = None
    """The last step that began; after an error, the one that failed."""
    breakdown: dict[str, float] = field(default_factory=dict)
    """Milliseconds of each step that ended, well or not: `audio_ms`, `image_ms`, …

    Of a slot that was spoken ahead, `audio_ms` is what that took, before the slot began.
    """
    speech: Speech | None = None
    """What the audio stage made, with the times of its phonemes."""
    frames_computed: int = 0
    """Frames that the video stage rendered."""
    steps: int = 0
    """Denoising steps that the image stage took."""

    @property
    def rung(self) -> Rung:
        """The rung in force."""
        return self.rungs[0]

    def step_down(self, rung: Rung, why: str) -> None:
        """Go on at a lower rung; what is behind stays as it is."""
        self.rungs = self.rungs[self.rungs.index(rung) :]
        self.rung_why = why

    @contextmanager
    def step(self, name: str, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
        """Run one step of the slot inside, and note what it took, however it ends.

        Args:
            name: of the step, as in the event's breakdown without its unit: "audio", "encode".
            clock: monotonic seconds.
        """
        self.stage = name
        self.listener.step_began(name)
        started_s = clock()
        try:
            yield
        except Exception:
            self.stage = name  # of two steps in parallel, the one that failed
            raise
        finally:
            self.breakdown[f"{name}_ms"] = (clock() - started_s) * 1000
            self.listener.step_ended(name)


def as_recipe(recipe: Recipe | Mapping[str, Any]) -> Recipe:
    """Return a mapping as the recipe that it describes; a `Recipe` is returned as it is.

    Raises:
        InvalidRecipeError: a field is missing or out of bounds; one line without the recipe's text.
    """
    if isinstance(recipe, Recipe):
        return recipe
    try:
        return Recipe.model_validate(recipe)
    except ValidationError as error:
        raise InvalidRecipeError(f"recipe: {describe_validation_error(error)}") from error


def slot_seed(recipe: Recipe, slot_id: int | None, channel: str = "main") -> int:
    """Return the recipe's seed, or one derived from channel and slot id.

    Derived, so that a slot made again after a crash is the same slot.
    """
    if recipe.seed is not None:
        return recipe.seed
    return zlib.crc32(f"{channel}/{slot_id}".encode())
