"""Slots that a worker served once, out of its trace file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from consumer.simulation.traces import SimulatedSlot
from consumer.telemetry import semconv
from consumer.telemetry.trace_file import SpanRecord, read_trace_file

_COMPLETE = "slot-complete"
_WORK = frozenset(f"slot.{step}" for step in ("audio", "image", "video", "clip", "encode", "store"))


class UnreadableRecordingError(Exception):
    """A trace file holds nothing that can be served again."""


@dataclass(frozen=True)
class _Tick:
    arrived_ns: int
    deadline_ns: float
    worked_s: float | None
    """None if it was not made."""


def read_recorded(path: Path) -> list[SimulatedSlot]:
    """Return the ticks of a trace file as slots, in the order of arrival.

    A slot that was made takes what it took then; any other one the median of those.

    Raises:
        UnreadableRecordingError: the file cannot be read, or no slot in it was made.
    """
    try:
        spans = read_trace_file(path)
    except (OSError, ValueError) as error:
        raise UnreadableRecordingError(f"{path}: is not a readable trace file: {error}") from error
    ticks = sorted(_ticks(spans), key=lambda tick: tick.arrived_ns)
    worked = [tick.worked_s for tick in ticks if tick.worked_s is not None]
    if not worked:
        raise UnreadableRecordingError(
            f"{path}: holds no slot that was made; record one with telemetry.exporter: file"
        )
    usual_s, began_ns = median(worked), ticks[0].arrived_ns
    return [_slot(number, tick, began_ns, usual_s) for number, tick in enumerate(ticks)]


def _slot(number: int, tick: _Tick, began_ns: int, usual_s: float) -> SimulatedSlot:
    seconds = usual_s if tick.worked_s is None else tick.worked_s
    arrived_s = (tick.arrived_ns - began_ns) / 1e9
    return SimulatedSlot(
        number=number,
        arrived_s=arrived_s,
        deadline_s=(tick.deadline_ns - began_ns) / 1e9,
        units=seconds / usual_s,
        predicted_s=seconds,
        seconds=seconds,
        emitted_s=arrived_s,
    )


def _ticks(spans: Sequence[SpanRecord]) -> list[_Tick]:
    by_trace: dict[str, list[SpanRecord]] = {}
    for span in spans:
        by_trace.setdefault(span.trace_id, []).append(span)
    return [
        _tick(span, by_trace[span.trace_id])
        for span in spans
        if span.name.startswith("process ") and semconv.SLOT_DEADLINE_SLACK_MS in span.attributes
    ]


def _tick(process: SpanRecord, trace: Sequence[SpanRecord]) -> _Tick:
    published = [
        span.start_ns
        for span in trace
        if span.kind == "PRODUCER" and span.parent_span_id == process.span_id
    ]
    decided_ns = min(published, default=process.end_ns)
    work = [span for span in trace if span.name in _WORK]
    made = process.attributes.get(semconv.SLOT_OUTCOME) == _COMPLETE and work
    return _Tick(
        arrived_ns=process.start_ns,
        deadline_ns=decided_ns + process.attributes[semconv.SLOT_DEADLINE_SLACK_MS] * 1e6,
        worked_s=(max(s.end_ns for s in work) - min(s.start_ns for s in work)) / 1e9
        if made
        else None,
    )
