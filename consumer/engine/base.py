"""The interface between the worker and what makes its slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from consumer.job import TickKey
from schemas import (
    Artifact,
    MissReason,
    Provenance,
    Quality,
    Recipe,
    SpokenScript,
    Stage,
    Verification,
)
from vortex.rung import FULL, Rung
from vortex.slot import SlotListener


class EngineLostError(Exception):
    """The engine died or hangs while it made a slot; it must be replaced before the next one."""


class EngineStartError(Exception):
    """The engine cannot start; the message is one line that says what to do."""


@dataclass(frozen=True)
class SlotRequest:
    """One slot to make. Plain data, so that it can go to another process."""

    key: TickKey
    slot_id: int
    channel: str
    recipe: Recipe
    seed: int
    """The seed to begin with."""
    deadline_s: float
    """Monotonic seconds; the clock is the same in all processes of a machine."""
    admitted: bool = False
    """Whether `Engine.rule_out` was asked, and let the slot pass."""
    rungs: tuple[Rung, ...] = (FULL,)
    """The rung to begin at, and those below it to which the slot may step down."""
    rung_why: str = ""
    """Why it does not begin at the best rung; empty if it does."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """Carrier of the trace context under which the work is done."""


@dataclass(frozen=True)
class SlotMade:
    """The slot's video is stored, whole and durable."""

    artifact: Artifact
    verification: Verification
    quality: Quality
    seed: int
    """The seed that made it; not the requested one if that failed the self-check."""
    models: Mapping[str, str]
    times_ms: Mapping[str, float]
    """Milliseconds of each step, named as in the event's breakdown."""
    provenance: Provenance | None = None
    speech: SpokenScript | None = None


@dataclass(frozen=True)
class SlotNotMade:
    """There is no video, and nothing was left behind."""

    reason: MissReason
    stage: Stage | None
    detail: str
    times_ms: Mapping[str, float]
    """Milliseconds of the steps that were reached."""
    cancelled: bool = False
    """Whether an operator cancelled it."""


EngineResult = SlotMade | SlotNotMade


class OnStage(Protocol):
    """Told each stage of a slot when it begins, and when it ends, well or not."""

    def __call__(self, stage: Stage, *, ended: bool = False) -> None:
        """Note it; called on the event loop, must not block."""


def ignore_stage(stage: Stage, *, ended: bool = False) -> None:
    """Be told of a stage, and do nothing."""


class StageListener(SlotListener):
    """Passes a slot's steps on as stages."""

    def __init__(self, on_stage: OnStage) -> None:
        self._on_stage = on_stage

    def step_began(self, step: str) -> None:
        """A step began; see `SlotListener`."""
        self._on_stage(Stage(step))

    def step_ended(self, step: str) -> None:
        """A step ended; see `SlotListener`."""
        self._on_stage(Stage(step), ended=True)


class Engine(Protocol):
    """Makes one slot at a time; meanwhile another may be encoded to its end and stored.

    And the next one may be spoken while one is rendered.
    """

    @property
    def ready(self) -> bool:
        """Whether it is started and not lost."""

    async def start(self) -> None:
        """Load everything; afterwards the first slot is as fast as any.

        Raises:
            EngineStartError: something is missing or wrong, and trying again will not help.
            EngineLostError: it died or hung while it started.
        """

    async def run(self, request: SlotRequest, on_stage: OnStage = ignore_stage) -> EngineResult:
        """Make the slot. A slot that fails is a result; cancelling the call stops the work.

        Once the stage `encode` or `store` began, the next slot may be asked for.

        A stage that exceeds its limit may still be stopping when this returns; see `settle`.

        Raises:
            EngineLostError: the engine itself failed.
        """

    async def speak_ahead(self, request: SlotRequest) -> None:
        """Speak a slot that should be made next while another one is rendered.

        `run` takes the speech from there, also while it is being made; if another slot is run
        first, or another seed of the one in the making, it is dropped. Best effort: what fails is
        done again by `run`. Cancelling the call stops the work.

        Raises:
            EngineLostError: the engine itself failed.
        """

    async def settle(self) -> None:
        """Return when the next slot can be made.

        Raises:
            EngineLostError: what is left of the last slot does not stop.
        """

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The rungs at which it may make slots, the best first; at least one."""

    def predict_s(self, recipe: Recipe, rung: Rung = FULL) -> float | None:
        """Return the seconds from start to stored video, or None while nothing was measured.

        Infinite on a rung above the lowest if a stage would exceed its limit there; whether the
        lowest may be tried is for `rule_out` to say.
        """

    def predict_rest_s(self, recipe: Recipe, rung: Rung, stage: Stage) -> float | None:
        """Return the seconds from the start of a stage to stored video, or None if not known."""

    @property
    def spread(self) -> float:
        """The standard deviation of such a prediction, relative to it."""

    @property
    def overlap_room_s(self) -> float:
        """The next slot may begin while one is being stored that has at least so long left.

        Infinite: only after it.
        """

    def speech_room_s(self, recipe: Recipe) -> float:
        """Return how long before its deadline a slot must end for this one to be spoken meanwhile.

        Infinite: it is not to be spoken ahead.
        """

    def rule_out(self, recipe: Recipe) -> str | None:
        """Return in words why this engine cannot make the slot on any rung, or None.

        None also while it does not know: the slot may be tried. Whoever is given a reason refuses
        the slot, and it counts as refused; after some, one is tried all the same.
        """

    def most_work(self) -> Mapping[str, float]:
        """Return the most work of each stage for which its limit leaves room, as far as is known.

        In the units of `work_units`. What is not named has no limit.
        """

    @property
    def memory_bytes(self) -> int:
        """Main memory of the engine's process; 0 if it has none of its own."""

    async def stop(self) -> None:
        """Let go of everything; bounded in time."""
