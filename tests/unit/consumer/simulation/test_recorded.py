from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from consumer.simulation.recorded import UnreadableRecordingError, read_recorded
from consumer.telemetry import semconv
from consumer.telemetry.trace_file import FileSpanExporter

SECOND = 10**9


class Recorder:
    """Writes spans as a worker does, at moments of a test's choice."""

    def __init__(self, path: Path) -> None:
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(FileSpanExporter(path)))
        self._tracer = self._provider.get_tracer("test")

    @contextmanager
    def handed_over(self, arrived_s: float, partition: int) -> Iterator[None]:
        """Have the tick within come from another worker."""
        process = self._tracer.start_span(
            "process slot.ticks",
            start_time=round(arrived_s * SECOND),
            attributes={
                semconv.SLOT_OUTCOME: semconv.HANDED_OVER,
                semconv.PARTITION_ID: str(partition),
            },
        )
        with trace.use_span(process, end_on_exit=True):
            send = self._tracer.start_span("send slot.handover", kind=trace.SpanKind.PRODUCER)
            with trace.use_span(send, end_on_exit=True):
                yield

    def tick(
        self,
        arrived_s: float,
        decided_s: float,
        slack_s: float,
        work: tuple[float, float] | None,
        partition: int | None = None,
        spoken_ahead_s: float = 0.0,
    ) -> None:
        where = {} if partition is None else {semconv.PARTITION_ID: str(partition)}
        process = self._tracer.start_span(
            "process slot.ticks",
            start_time=round(arrived_s * SECOND),
            attributes={
                semconv.SLOT_DEADLINE_SLACK_MS: round(slack_s * 1000),
                semconv.SLOT_OUTCOME: "deadline-missed" if work is None else "slot-complete",
                **where,
            },
        )
        within = trace.set_span_in_context(process)
        if work is not None:
            begin, end = (round(moment * SECOND) for moment in work)
            middle = (begin + end) // 2
            ahead = round((work[0] - spoken_ahead_s) * SECOND)
            if spoken_ahead_s:
                marked = {semconv.SLOT_AHEAD: True}
                spoken = self._tracer.start_span("slot.audio", within, marked, start_time=ahead)
                spoken.end(begin)
            self._tracer.start_span("slot.image", within, start_time=begin).end(middle)
            self._tracer.start_span("slot.store", within, start_time=middle).end(end)
        send = self._tracer.start_span(
            "send slot.results",
            within,
            kind=trace.SpanKind.PRODUCER,
            start_time=round(decided_s * SECOND),
        )
        send.end(round((decided_s + 1) * SECOND))
        process.end(round((decided_s + 2) * SECOND))


def test_recorded_ticks_arrive_and_take_what_they_did(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "traces.jsonl")
    recorder.tick(arrived_s=1005.0, decided_s=1030.0, slack_s=-2.0, work=None)
    recorder.tick(arrived_s=1000.0, decided_s=1010.0, slack_s=35.0, work=(1001.0, 1009.0))
    first, second = read_recorded(tmp_path / "traces.jsonl").slots
    assert (first.number, first.arrived_s, first.deadline_s, first.seconds) == (0, 0.0, 45.0, 8.0)
    assert (second.number, second.arrived_s, second.deadline_s) == (1, 5.0, 28.0)
    assert second.seconds == 8.0  # it was not made, so the median of those that were


def test_slot_that_was_spoken_ahead_takes_what_it_did_from_its_own_beginning(
    tmp_path: Path,
) -> None:
    recorder = Recorder(tmp_path / "traces.jsonl")
    recorder.tick(1000.0, 1020.0, slack_s=25.0, work=(1010.0, 1018.0), spoken_ahead_s=5.0)
    (slot,) = read_recorded(tmp_path / "traces.jsonl").slots
    assert slot.seconds == 8.0


def test_handed_over_tick_arrives_where_it_was_read_first(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "traces.jsonl")
    recorder.tick(arrived_s=1000.0, decided_s=1010.0, slack_s=35.0, work=(1001.0, 1009.0))
    with recorder.handed_over(arrived_s=1003.0, partition=3):
        recorder.tick(arrived_s=1005.0, decided_s=1030.0, slack_s=18.0, work=(1020.0, 1029.0))
    _, second = read_recorded(tmp_path / "traces.jsonl").slots
    assert (second.arrived_s, second.deadline_s) == (3.0, 48.0)


def test_partitions_are_known_if_each_tick_says_its_own(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "traces.jsonl")
    recorder.tick(1000.0, 1010.0, 35.0, (1001.0, 1009.0), partition=2)
    with recorder.handed_over(arrived_s=1003.0, partition=5):
        recorder.tick(1005.0, 1030.0, 18.0, (1020.0, 1029.0), partition=0)
    assert read_recorded(tmp_path / "traces.jsonl").partitions == [2, 5]
    recorder.tick(1100.0, 1110.0, 35.0, (1101.0, 1109.0))
    assert read_recorded(tmp_path / "traces.jsonl").partitions is None


@pytest.mark.parametrize("content", [None, "no trace\n", ""])
def test_file_without_slots_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "traces.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UnreadableRecordingError, match=r"traces\.jsonl"):
        read_recorded(path)
