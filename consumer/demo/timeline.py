"""When each step of a slot ran, out of its trace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from consumer.telemetry.semconv import SLOT_ID
from consumer.telemetry.trace_file import SpanRecord

STEPS = ("queue", "audio", "image", "video", "clip", "encode", "store", "publish")
_QUEUE, _PUBLISH = "queue", "publish"


@dataclass(frozen=True)
class Interval:
    """A stretch of time, in nanoseconds since the epoch."""

    start_ns: int
    end_ns: int

    @property
    def length_ns(self) -> int:
        """How long it is."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True)
class Timeline:
    """One tick from its arrival at the worker to its published outcome."""

    whole: Interval
    steps: dict[str, tuple[Interval, ...]]
    """Names of `STEPS`, those that ran; several intervals where another seed was tried."""

    @property
    def worked(self) -> bool:
        """Whether anything was made for it, rather than only answered."""
        return not self.steps.keys() <= {_QUEUE, _PUBLISH}


def read_timelines(spans: Sequence[SpanRecord], ticks_topic: str) -> dict[int, Timeline]:
    """Return the timeline of every slot whose tick was processed, by its slot id."""
    by_trace: dict[str, list[SpanRecord]] = defaultdict(list)
    for span in spans:
        by_trace[span.trace_id].append(span)
    return {
        int(span.attributes[SLOT_ID]): _timeline(span, by_trace[span.trace_id])
        for span in spans
        if span.name == f"process {ticks_topic}" and SLOT_ID in span.attributes
    }


def _timeline(process: SpanRecord, trace: Iterable[SpanRecord]) -> Timeline:
    steps: dict[str, list[Interval]] = defaultdict(list)
    for span in sorted(trace, key=lambda span: span.start_ns):
        step = span.name.removeprefix("slot.")
        if span.kind == "PRODUCER" and span.parent_span_id == process.span_id:
            step = _PUBLISH
        if step in STEPS:
            steps[step].append(Interval(span.start_ns, span.end_ns))
    return Timeline(
        Interval(process.start_ns, process.end_ns),
        {step: tuple(intervals) for step, intervals in steps.items()},
    )
