"""One tick on its way to its outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import Span

from schemas import DeadlineMissed, Recipe, SlotComplete, SlotTick, Stage
from vortex.slot import slot_seed
from vortex.utils.clock import now_s

# An engine process, which knows requests for slots, starts without Kafka's client.
if TYPE_CHECKING:
    from aiokafka.structs import ConsumerRecord

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


@dataclass(frozen=True)
class Hop:
    """How a tick came here from the worker that read it first."""

    source: TickKey
    """Where the tick was read first."""
    worker: str
    """Who handed it over."""
    at: datetime
    """When."""
    why: str
    """What that worker's plan said."""
    arrived: datetime
    """When that worker read it."""
    written_ms: int | None
    """The timestamp of the record there, milliseconds since 1970; None if it had none."""


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
    """The timestamp of the record that was read first, milliseconds since 1970; None without."""
    hop: Hop | None = None
    """How it came here, if another worker has handed it over."""
    record: ConsumerRecord | None = None
    """What was read, where it may be handed over."""

    @property
    def arrived_s(self) -> float:
        """When its tick was read first, in monotonic seconds; wherever that was, not after now."""
        here_s = self.arrival.monotonic_s
        if self.hop is None:
            return here_s
        return min(here_s, self.arrival.to_monotonic_s(self.hop.arrived))

    @property
    def source(self) -> TickKey:
        """Where the tick was read first: permanently identifies it to everybody."""
        return self.key if self.hop is None else self.hop.source

    @classmethod
    def of(
        cls,
        key: TickKey,
        tick: SlotTick,
        arrival: Arrival,
        span: Span,
        context: Context,
        timestamp_ms: int | None = None,
        *,
        hop: Hop | None = None,
        record: ConsumerRecord | None = None,
    ) -> Job:
        """Make the job of a tick that has just arrived in a record with a timestamp."""
        return cls(
            key=key,
            tick=tick,
            seed=slot_seed(tick.recipe, tick.slot_id, tick.channel),
            arrival=arrival,
            emitted_s=arrival.emitted_s(timestamp_ms),
            deadline_s=arrival.to_monotonic_s(tick.deadline),
            span=span,
            context=context,
            written_ms=timestamp_ms,
            hop=hop,
            record=record,
        )

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
    smaller: Callable[[], Decision] | None = None
    """Makes what is written instead if the topic refuses a record of this size."""
    outcome: SlotComplete | DeadlineMissed | DeadLetterReason | Hop | None = None
    """What was decided, for metrics; a hop if the tick was handed over."""
    partition: int | None = None
    """Of the topic; None leaves it to the key."""

    def close(self) -> None:
        """End the tick's span, unless that was done: published, or no longer ours to publish."""
        _end_once(self.span)


def _end_once(span: Span) -> None:
    # A tick can be given up by its partition and by the dispatcher, in either order.
    if span.is_recording():
        span.end()
