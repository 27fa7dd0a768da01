"""One tick on its way to its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import Span

from schemas import DeadlineMissed, Recipe, SlotComplete, SlotTick, Stage
from vortex.slot import slot_seed
from vortex.utils.clock import now_s

# A tick that was written to Kafka longer ago, or later than now, counts as written now.
MAX_AGE_S = 3600.0


class TickKey(NamedTuple):
    """Where a tick was read; permanently identifies it."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Arrival:
    """When a tick arrived, on both clocks.

    The wall clock is read once; from then on time is what the monotonic clock says has passed, so
    that a stepped clock neither misses a slot nor saves one.
    """

    wall: datetime
    monotonic_s: float

    @classmethod
    def now(cls) -> Arrival:
        """Read both clocks."""
        return cls(datetime.now(UTC), now_s())

    def to_monotonic_s(self, wall: datetime) -> float:
        """Return the monotonic second of a wall-clock time."""
        return self.monotonic_s + (wall - self.wall).total_seconds()

    def emitted_s(self, timestamp_ms: int | None) -> float:
        """Return the monotonic second of a record's timestamp, as far as that can be believed."""
        if timestamp_ms is None:
            return self.monotonic_s
        age_s = self.wall.timestamp() - timestamp_ms / 1000
        return self.monotonic_s - age_s if 0 <= age_s <= MAX_AGE_S else self.monotonic_s

    def to_wall(self, monotonic_s: float) -> datetime:
        """Return the wall-clock time of a monotonic second."""
        return self.wall + timedelta(seconds=monotonic_s - self.monotonic_s)


@dataclass(frozen=True, eq=False)
class Job:
    """A readable tick that waits for its outcome or is being made."""

    key: TickKey
    tick: SlotTick
    seed: int
    """The recipe's, or the one derived for a recipe without."""
    arrival: Arrival
    emitted_s: float
    """When it was written to Kafka, in monotonic seconds: a backlog is no flood of arrivals."""
    deadline_s: float
    """Monotonic seconds."""
    span: Span
    """The tick's `process` span, open until the outcome is published."""
    context: Context
    """Holds `span`; parent of everything done for the tick."""
    written_ms: int | None = None
    """The record's timestamp, milliseconds since 1970; None if it has none."""

    @classmethod
    def of(
        cls,
        key: TickKey,
        tick: SlotTick,
        arrival: Arrival,
        span: Span,
        context: Context,
        timestamp_ms: int | None = None,
    ) -> Job:
        """Make the job of a tick that has just arrived in a record with a timestamp."""
        seed = slot_seed(tick.recipe, tick.slot_id, tick.channel)
        deadline_s = arrival.to_monotonic_s(tick.deadline)
        emitted_s = arrival.emitted_s(timestamp_ms)
        return cls(key, tick, seed, arrival, emitted_s, deadline_s, span, context, timestamp_ms)

    @property
    def recipe(self) -> Recipe:
        """What the slot should show and say."""
        return self.tick.recipe

    def close(self) -> None:
        """End the tick's span, unless that was done: the tick is left undecided."""
        _end_once(self.span)


@dataclass(frozen=True)
class Step:
    """How far a slot has come, for those who watch. Times are monotonic seconds."""

    stage: Stage | None = None
    """The stage that began or ended; None: the slot begins to wait."""
    began_s: float | None = None
    """When the stage began."""
    ended_s: float | None = None
    """When the stage ended, well or not; None while it goes on."""
    needed_s: float | None = None
    """With how many seconds a waiting slot is planned; None while nothing was measured."""
    planned_start_s: float | None = None
    """When the work of a waiting slot should begin; None if the plan has no room for it yet."""
    finish_s: float | None = None
    """When the slot should be stored, as predicted when the stage began."""
    rung: str | None = None
    """The quality rung on which the work began."""
    rung_why: str = ""
    """Why that is not the best; empty if it is."""


class DeadLetterReason(StrEnum):
    """Why a record is put among the dead letters, in one word."""

    UNREADABLE = "unreadable"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, eq=False)
class Decision:
    """What is to be written for one tick, together with its offset."""

    key: TickKey
    topic: str
    record_key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    span: Span
    """The tick's `process` span; ends when the decision is published."""
    context: Context
    """Holds `span`."""
    carries_trace: bool = True
    """Whether the trace context goes into the headers; a dead letter keeps its own."""
    smaller: Decision | None = None
    """What is written instead if the topic refuses a record of this size."""
    outcome: SlotComplete | DeadlineMissed | DeadLetterReason | None = None
    """What was decided, for metrics."""

    def close(self) -> None:
        """End the tick's span, unless that was done: published, or no longer ours to publish."""
        _end_once(self.span)


def _end_once(span: Span) -> None:
    # A tick can be given up by its partition and by the dispatcher, in either order.
    if span.is_recording():
        span.end()
