"""Timelines as bars, in percent of a chart's width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consumer.demo.timeline import STEPS, Interval, Timeline

LABELS = {
    "queue": "queue",
    "audio": "speech",
    "image": "portrait",
    "video": "video",
    "clip": "self-check",
    "encode": "encoding",
    "store": "storing",
    "publish": "publishing",
}
_WAITING = "queue"
_MARK_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60)
_MOST_MARKS = 7


@dataclass(frozen=True)
class Bar:
    """One interval of a step."""

    step: str
    left: float
    width: float


@dataclass(frozen=True)
class Row:
    """A line of a chart: a step of one slot, or a slot with all its steps."""

    label: str
    bars: tuple[Bar, ...]
    length: str
    """All of its intervals together, with a unit."""


@dataclass(frozen=True)
class Mark:
    """A label of the time axis."""

    text: str
    left: float


@dataclass(frozen=True)
class Chart:
    """Rows on one clock, which is 0 at the left."""

    rows: tuple[Row, ...]
    marks: tuple[Mark, ...]


def chart_of_steps(timeline: Timeline) -> Chart:
    """Draw a slot's steps below each other, from the start of its work."""
    steps = {step: timeline.steps[step] for step in STEPS if step in timeline.steps}
    steps.pop(_WAITING, None)
    clock = _span([interval for intervals in steps.values() for interval in intervals])
    rows = tuple(_row(LABELS[step], {step: intervals}, clock) for step, intervals in steps.items())
    return Chart(rows, _marks(clock))


def chart_of_run(timelines: Mapping[str, Timeline]) -> Chart:
    """Draw all slots below each other, by their names, from the first one's arrival."""
    clock = _span([timeline.whole for timeline in timelines.values()])
    rows = tuple(_row(name, timeline.steps, clock) for name, timeline in timelines.items())
    return Chart(rows, _marks(clock))


def _span(intervals: Sequence[Interval]) -> Interval:
    start_ns = min((interval.start_ns for interval in intervals), default=0)
    return Interval(start_ns, max((interval.end_ns for interval in intervals), default=start_ns))


def _row(label: str, steps: Mapping[str, tuple[Interval, ...]], clock: Interval) -> Row:
    whole_ns = max(1, clock.length_ns)
    bars = tuple(
        Bar(
            step,
            left=round(100 * (interval.start_ns - clock.start_ns) / whole_ns, 3),
            width=round(100 * interval.length_ns / whole_ns, 3),
        )
        for step, intervals in steps.items()
        for interval in intervals
    )
    total_ns = sum(interval.length_ns for intervals in steps.values() for interval in intervals)
    return Row(
        label, bars, f"{total_ns / 1e9:.2f} s" if total_ns >= 1e9 else f"{total_ns / 1e6:.0f} ms"
    )


def _marks(clock: Interval) -> tuple[Mark, ...]:
    whole_s = clock.length_ns / 1e9
    step_s = next(
        (step_s for step_s in _MARK_STEPS_S if whole_s / step_s < _MOST_MARKS), _MARK_STEPS_S[-1]
    )
    count = int(whole_s / step_s) + 1 if whole_s else 0
    return tuple(
        Mark(f"{number * step_s:g} s", round(100 * number * step_s / whole_s, 3))
        for number in range(count)
    )
