from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from consumer.config import SlateConfig
from consumer.engine.base import SlotMade, SlotNotMade, SlotRequest
from consumer.job import Decision, Job
from consumer.outcome import MAX_DETAIL_CHARS, OutcomeWriter
from consumer.telemetry import semconv
from schemas import (
    Breakdown,
    DeadlineMissed,
    MissReason,
    SlotComplete,
    Stage,
    WorkerInfo,
    parse_outcome,
)
from tests.support.engines import slot_made
from tests.support.jobs import job

ARRIVED_S = 1000.0
WRITER = OutcomeWriter("slot.results", "group-1", WorkerInfo(id="worker-1", version="0.1.0"))
FAILED = SlotNotMade(MissReason.FAILED, Stage.VIDEO, "out of memory", {"audio_ms": 1204.1234})


def waiting(slot_id: int = 12345) -> Job:
    span = TracerProvider().get_tracer("test").start_span("process")
    return job(
        slot_id, deadline_in_s=45.0, arrived_s=ARRIVED_S, offset=1842, partition=3, span=span
    )


def made_of(of: Job) -> SlotMade:
    tick = of.tick
    return slot_made(
        SlotRequest(of.key, tick.slot_id, tick.channel, of.recipe, of.seed, of.deadline_s)
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Give a clock for decisions; it shows `s` monotonic seconds."""
    clock = SimpleNamespace(s=ARRIVED_S + 13.0)
    monkeypatch.setattr("consumer.outcome.now_s", lambda: clock.s)
    return clock


def complete(decision: Decision) -> SlotComplete:
    assert decision.value is not None
    event = parse_outcome(decision.value)
    assert isinstance(event, SlotComplete)
    return event


def missed(decision: Decision) -> DeadlineMissed:
    assert decision.value is not None
    event = parse_outcome(decision.value)
    assert isinstance(event, DeadlineMissed)
    return event


@pytest.mark.usefixtures("clock")
def test_slot_made_in_time_is_complete() -> None:
    slot = waiting()
    made = made_of(slot)
    event = complete(WRITER.write(slot, made, ARRIVED_S + 2.5))
    assert (event.slot_id, event.channel, event.deadline) == (12345, "main", slot.tick.deadline)
    assert (event.source.topic, event.source.partition, event.source.offset) == tuple(slot.key)
    assert event.decided_at == slot.arrival.wall + timedelta(seconds=13)
    assert event.slack_ms == 32_000.0
    assert (event.artifact, event.verification) == (made.artifact, made.verification)
    assert (event.quality, event.seed, event.models) == (made.quality, made.seed, made.models)
    assert event.worker == WRITER.worker


@pytest.mark.usefixtures("clock")
def test_breakdown_tells_waiting_from_work() -> None:
    slot = waiting()
    event = complete(WRITER.write(slot, made_of(slot), ARRIVED_S + 2.5))
    assert event.breakdown == Breakdown(
        queue_ms=2500.0,
        audio_ms=40.0,
        image_ms=30.0,
        video_ms=200.0,
        clip_ms=5.0,
        total_ms=13_000.0,
    )


@pytest.mark.usefixtures("clock")
def test_slot_that_never_started_waited_all_the_time() -> None:
    refused = SlotNotMade(MissReason.PREDICTED, None, "no time", {})
    event = missed(WRITER.write(waiting(), refused, None))
    assert event.breakdown == Breakdown(queue_ms=13_000.0, total_ms=13_000.0)


@pytest.mark.usefixtures("clock")
def test_slot_that_was_not_made_is_missed_with_its_reason() -> None:
    event = missed(WRITER.write(waiting(), FAILED, ARRIVED_S + 1.0))
    assert (event.reason, event.stage, event.detail) == (
        MissReason.FAILED,
        Stage.VIDEO,
        "out of memory",
    )
    assert event.breakdown.audio_ms == 1204.123
    assert event.breakdown.video_ms is None


@pytest.mark.parametrize(("after_s", "late"), [(44.999, False), (45.0, True), (50.5, True)])
def test_slot_made_after_its_deadline_is_missed(
    clock: SimpleNamespace, after_s: float, late: bool
) -> None:
    slot = waiting()
    clock.s = ARRIVED_S + after_s
    decision = WRITER.write(slot, made_of(slot), ARRIVED_S + 2.5)
    if not late:
        assert complete(decision).slack_ms == 1.0
        return
    event = missed(decision)
    assert (event.reason, event.stage) == (MissReason.LATE, None)
    assert event.detail == f"finished {after_s - 45.0:.3f} s after the deadline"
    assert event.slack_ms == (45.0 - after_s) * 1000
    assert event.breakdown.video_ms == 200.0


@pytest.mark.usefixtures("clock")
def test_long_detail_is_cut_to_what_the_contract_allows() -> None:
    lengthy = SlotNotMade(MissReason.FAILED, None, "x" * 5000, {})
    assert len(missed(WRITER.write(waiting(), lengthy, None)).detail) == MAX_DETAIL_CHARS


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("kind", ["slot-complete", "deadline-missed"])
def test_record_is_keyed_by_slot_and_carries_cloud_events_headers(kind: str) -> None:
    slot = waiting()
    decision = WRITER.write(slot, made_of(slot) if kind == "slot-complete" else FAILED, None)
    assert (decision.topic, decision.record_key, decision.key) == (
        "slot.results",
        b"12345",
        slot.key,
    )
    decided_at = slot.arrival.wall + timedelta(seconds=13)
    assert {name: value.decode() for name, value in decision.headers} == {
        "ce_specversion": "1.0",
        "ce_id": "slot.ticks-3-1842",
        "ce_source": "/vortex/group-1",
        "ce_type": f"vortex.{kind}.v1",
        "ce_time": decided_at.isoformat(),
        "ce_subject": "main/12345",
        "ce_dataschema": f"urn:vortex:schema:{kind}:v1",
        "content-type": "application/json",
    }


def test_event_id_is_the_ticks_whoever_decides_and_however(clock: SimpleNamespace) -> None:
    slot = waiting()
    other = OutcomeWriter("slot.results", "group-1", WorkerInfo(id="worker-2", version="0.2.0"))
    first = WRITER.write(slot, made_of(slot), None)
    clock.s += 100.0
    second = other.write(slot, FAILED, None)
    next_tick = job(12345, arrived_s=ARRIVED_S, offset=1843, partition=3)
    neighbour = WRITER.write(next_tick, FAILED, None)
    ids = [
        (dict(one.headers)["ce_source"], dict(one.headers)["ce_id"])
        for one in (first, second, neighbour)
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.usefixtures("clock")
def test_span_says_what_became_of_the_tick() -> None:
    slot = waiting()
    WRITER.write(slot, FAILED, None)
    assert isinstance(slot.span, ReadableSpan)
    attributes = slot.span.attributes or {}
    assert attributes[semconv.SLOT_OUTCOME] == "deadline-missed"
    assert attributes[semconv.SLOT_REASON] == "failed"
    assert attributes[semconv.SLOT_DEADLINE_SLACK_MS] == 32_000.0
    assert slot.span.end_time is None  # it ends when the decision is published


@pytest.mark.usefixtures("clock")
def test_missed_span_is_an_error_of_the_type_of_its_reason() -> None:
    slot = waiting()
    WRITER.write(slot, FAILED, ARRIVED_S + 2.5)
    span = slot.span
    assert isinstance(span, ReadableSpan)
    assert not span.status.is_ok
    assert span.attributes is not None
    assert span.attributes[semconv.ERROR_TYPE] == "failed"


@pytest.mark.usefixtures("clock")
def test_each_outcome_is_one_log_line_and_a_miss_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    made, lost = waiting(1), waiting(2)
    WRITER.write(made, made_of(made), ARRIVED_S + 2.5)
    WRITER.write(lost, FAILED, ARRIVED_S + 2.5)
    first, second = (vars(record) for record in caplog.records)
    assert (first["levelname"], first["slot_id"], first["slack_ms"]) == ("INFO", 1, 32_000.0)
    assert (second["levelname"], second["slot_id"], second["slack_ms"]) == ("WARNING", 2, 32_000.0)
    assert (second["reason"], second["stage"]) == ("failed", Stage.VIDEO)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("channels", "expected"), [({"main": "s3://main.mp4"}, "s3://main.mp4"), ({}, "s3://all.mp4")]
)
def test_miss_names_the_slate_of_its_channel(channels: dict[str, str], expected: str) -> None:
    slates = SlateConfig(default="s3://all.mp4", channels=channels)
    writer = replace(WRITER, slate=slates)
    assert missed(writer.write(waiting(), FAILED, None)).slate_uri == expected
    assert missed(WRITER.write(waiting(), FAILED, None)).slate_uri is None
