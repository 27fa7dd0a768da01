from __future__ import annotations

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

    def tick(
        self, arrived_s: float, decided_s: float, slack_s: float, work: tuple[float, float] | None
    ) -> None:
        process = self._tracer.start_span(
            "process slot.ticks",
            start_time=round(arrived_s * SECOND),
            attributes={
                semconv.SLOT_DEADLINE_SLACK_MS: round(slack_s * 1000),
                semconv.SLOT_OUTCOME: "deadline-missed" if work is None else "slot-complete",
            },
        )
        within = trace.set_span_in_context(process)
        if work is not None:
            begin, end = (round(moment * SECOND) for moment in work)
            middle = (begin + end) // 2
            self._tracer.start_span("slot.audio", within, start_time=begin).end(middle)
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


@pytest.mark.parametrize("content", [None, "no trace\n", ""])
def test_file_without_slots_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "traces.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UnreadableRecordingError, match=r"traces\.jsonl"):
        read_recorded(path)
