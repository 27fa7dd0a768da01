"""Slots that a worker served once, out of its trace file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from consumer.simulation.traces import SimulatedSlot
from consumer.telemetry import semconv
from consumer.telemetry.trace_file import SpanRecord, read_trace_file

_COMPLETE = "slot-complete"
MOST_UNITS = 11.0
"""Of usual slots in one, as a simulated recipe can say; see `recipe_of`."""
_WORK = frozenset(f"slot.{step}" for step in ("audio", "image", "video", "clip", "encode", "store"))


class UnreadableRecordingError(Exception):
    """A trace file holds nothing that can be served again."""


@dataclass(frozen=True)
class Tick:
    """One tick as it was served."""

    arrived_s: float
    """On the wall clock, as the deadline."""
    deadline_s: float
    worked_s: float | None
    """None if it was not made."""
    partition: int | None
    """Where it was read; None if that is not known."""


@dataclass(frozen=True)
class Recorded:
    """Slots of a load that was served once, in the order of arrival."""

    slots: list[SimulatedSlot]
    partitions: list[int] | None
    """Where each one's tick was read; None if that is not known of all."""

    @classmethod
    def of(cls, ticks: Iterable[Tick], where: str, remedy: str) -> Recorded:
        """Take ticks in any order.

        A slot that was made takes what it took then; any other one the median of those.

        Args:
            ticks: those that were served.
            where: they were recorded, for the error.
            remedy: what to do if none was made.

        Raises:
            UnreadableRecordingError: no slot was made.
        """
        by_arrival = sorted(ticks, key=lambda tick: tick.arrived_s)
        worked = [tick.worked_s for tick in by_arrival if tick.worked_s is not None]
        if not worked:
            raise UnreadableRecordingError(f"{where}: holds no slot that was made; {remedy}")
        usual_s, began_s = median(worked), by_arrival[0].arrived_s
        slots = [_slot(number, tick, began_s, usual_s) for number, tick in enumerate(by_arrival)]
        partitions = [tick.partition for tick in by_arrival if tick.partition is not None]
        return cls(slots, partitions if len(partitions) == len(slots) else None)

    @property
    def load(self) -> float:
        """Seconds of work that arrived in a second."""
        span_s = max(slot.arrived_s for slot in self.slots)
        work_s = sum(slot.seconds for slot in self.slots)
        return work_s / span_s if span_s > 0 else work_s


def read_recorded(path: Path) -> Recorded:
    """Return the ticks of a trace file.

    A slot that was made takes what it took then; any other one the median of those.

    Raises:
        UnreadableRecordingError: the file cannot be read, or no slot in it was made.
    """
    try:
        spans = read_trace_file(path)
    except (OSError, ValueError) as error:
        raise UnreadableRecordingError(f"{path}: is not a readable trace file: {error}") from error
    remedy = "record one with telemetry.exporter: file"
    return Recorded.of(_ticks(spans), str(path), remedy)


def _slot(number: int, tick: Tick, began_s: float, usual_s: float) -> SimulatedSlot:
    seconds = usual_s if tick.worked_s is None else tick.worked_s
    arrived_s = tick.arrived_s - began_s
    return SimulatedSlot(
        number=number,
        arrived_s=arrived_s,
        deadline_s=tick.deadline_s - began_s,
        units=min(MOST_UNITS, seconds / usual_s),
        predicted_s=seconds,
        seconds=seconds,
        emitted_s=arrived_s,
    )


def _ticks(spans: Sequence[SpanRecord]) -> list[Tick]:
    by_trace: dict[str, list[SpanRecord]] = {}
    for span in spans:
        by_trace.setdefault(span.trace_id, []).append(span)
    by_id = {span.span_id: span for span in spans}
    return [
        _tick(span, by_trace[span.trace_id], by_id)
        for span in spans
        if span.name.startswith("process ") and semconv.SLOT_DEADLINE_SLACK_MS in span.attributes
    ]


def _tick(
    process: SpanRecord, trace: Sequence[SpanRecord], by_id: Mapping[str, SpanRecord]
) -> Tick:
    published = [
        span.start_ns
        for span in trace
        if span.kind == "PRODUCER" and span.parent_span_id == process.span_id
    ]
    decided_ns = min(published, default=process.end_ns)
    work = [
        span for span in trace if span.name in _WORK and not span.attributes.get(semconv.SLOT_AHEAD)
    ]
    made = process.attributes.get(semconv.SLOT_OUTCOME) == _COMPLETE and work
    read_first = _read_first(process, by_id)
    partition = read_first.attributes.get(semconv.PARTITION_ID)
    return Tick(
        arrived_s=read_first.start_ns / 1e9,
        deadline_s=decided_ns / 1e9 + process.attributes[semconv.SLOT_DEADLINE_SLACK_MS] / 1e3,
        worked_s=(max(s.end_ns for s in work) - min(s.start_ns for s in work)) / 1e9
        if made
        else None,
        partition=None if partition is None else int(partition),
    )


def _read_first(process: SpanRecord, by_id: Mapping[str, SpanRecord]) -> SpanRecord:
    """Return where a tick was read first: a donor's span, if it was handed over."""
    sent = by_id.get(process.parent_span_id or "")
    donor = by_id.get(sent.parent_span_id or "") if sent is not None else None
    if donor is not None and donor.attributes.get(semconv.SLOT_OUTCOME) == semconv.HANDED_OVER:
        return donor
    return process
