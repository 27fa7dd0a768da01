from __future__ import annotations

from consumer.demo.timeline import Interval, read_timelines
from consumer.telemetry.trace_file import SpanRecord

TOPIC = "slot.ticks"


def span(
    name: str,
    start_ns: int,
    end_ns: int,
    *,
    span_id: str,
    parent: str | None = None,
    trace_id: str = "t",
    kind: str = "INTERNAL",
    **attributes: int,
) -> SpanRecord:
    return SpanRecord(
        name=name,
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent,
        kind=kind,
        start_ns=start_ns,
        end_ns=end_ns,
        status="UNSET",
        status_message="",
        attributes={f"slot.{key}": value for key, value in attributes.items()},
        events=(),
        links=(),
        resource={},
        scope="test",
        schema_url="",
    )


def trace_of_slot(slot_id: int, trace_id: str) -> list[SpanRecord]:
    def id_of(part: str) -> str:
        return f"{trace_id}-{part}"

    def part(
        name: str, start_ns: int, end_ns: int, parent: str, kind: str = "INTERNAL"
    ) -> SpanRecord:
        return span(
            name, start_ns, end_ns, span_id=id_of(name), parent=parent, trace_id=trace_id, kind=kind
        )

    process = id_of("process")
    return [
        part(f"send {TOPIC}", 0, 2, id_of("root"), "PRODUCER"),
        span(
            f"process {TOPIC}",
            2,
            90,
            span_id=process,
            parent=id_of(f"send {TOPIC}"),
            trace_id=trace_id,
            kind="CONSUMER",
            id=slot_id,
        ),
        part("slot.queue", 3, 5, process),
        part("slot.make", 5, 80, process),
        part("slot.audio", 6, 30, id_of("slot.make")),
        part("slot.audio attempt", 7, 29, id_of("slot.audio")),
        part("slot.image", 6, 20, id_of("slot.make")),
        part("send slot.results", 80, 89, process, "PRODUCER"),
    ]


def test_steps_are_those_of_the_slots_own_trace() -> None:
    timelines = read_timelines([*trace_of_slot(1, "a"), *trace_of_slot(2, "b")], TOPIC)
    assert set(timelines) == {1, 2}
    assert timelines[2].whole == Interval(2, 90)
    assert timelines[2].steps == {
        "queue": (Interval(3, 5),),
        "audio": (Interval(6, 30),),
        "image": (Interval(6, 20),),
        "publish": (Interval(80, 89),),
    }
    assert timelines[2].worked


def test_tick_that_was_only_answered_did_no_work() -> None:
    answered = [s for s in trace_of_slot(1, "a") if s.name.startswith(("send", "process"))]
    assert not read_timelines(answered, TOPIC)[1].worked


def test_stage_that_ran_twice_has_two_intervals() -> None:
    again = span("slot.audio", 40, 50, span_id="again", parent="a-slot.make", trace_id="a")
    timelines = read_timelines([again, *trace_of_slot(1, "a")], TOPIC)
    assert timelines[1].steps["audio"] == (Interval(6, 30), Interval(40, 50))


def test_tick_that_could_not_be_read_has_no_timeline() -> None:
    assert read_timelines([span(f"process {TOPIC}", 0, 1, span_id="p")], TOPIC) == {}
