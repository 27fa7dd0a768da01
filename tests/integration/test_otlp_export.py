"""Spans on their way to a collector that answers, one that is not there, and one that hangs."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from consumer.telemetry.propagation import extract, inject
from consumer.telemetry.tracing import Tracing, configure_tracing
from tests.support.otlp_receiver import OtlpReceiver

SPAN_COUNT = 1000
EXPORT_TIMEOUT_S = 10.0  # OTEL_EXPORTER_OTLP_TIMEOUT's default: what one wait for a collector takes


@dataclass(frozen=True)
class OtlpSettings:
    exporter: Literal["none", "otlp", "console", "file"] = "otlp"
    file: Path | None = None
    service_name: str = "vortex-worker"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield receiver


@pytest.fixture
def dead_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.fixture
def hanging_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # connects, and nobody answers
        port = listening.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        yield


def end_spans(tracing: Tracing, count: int) -> float:
    """End `count` spans and return the seconds that it took."""
    tracer = tracing.provider.get_tracer("vortex.test")
    started_s = time.monotonic()
    for _ in range(count):
        tracer.start_span("stage").end()
    return time.monotonic() - started_s


def shutdown_duration_s(tracing: Tracing, timeout_s: float) -> float:
    started_s = time.monotonic()
    tracing.shutdown(timeout_s)
    return time.monotonic() - started_s


def telemetry_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    sources = ("opentelemetry", "consumer.telemetry")
    return [record for record in caplog.records if record.name.startswith(sources)]


def test_trace_from_producer_to_outcome_arrives_as_one_tree(
    receiver: OtlpReceiver,
) -> None:
    tracing = configure_tracing(OtlpSettings(), set_global=False)
    tracer = tracing.provider.get_tracer("consumer.worker")
    tick_headers: list[tuple[str, bytes]] = []
    with tracer.start_as_current_span("send slot.ticks", kind=SpanKind.PRODUCER):
        inject(tick_headers)
    with (
        tracer.start_as_current_span(
            "process slot.ticks",
            context=extract(tick_headers),
            kind=SpanKind.CONSUMER,
            attributes={"slot.id": 7},
        ) as process,
        tracer.start_as_current_span(
            "send slot.results",
            kind=SpanKind.PRODUCER,
            links=[trace.Link(process.get_span_context())],
        ) as sent,
    ):
        sent.add_event("committed")

    spans = {span.name: span for span in receiver.wait_for(lambda spans: len(spans) == 3)}
    tick, work, outcome = (
        spans[name] for name in ("send slot.ticks", "process slot.ticks", "send slot.results")
    )
    assert (tick.parent_span_id, work.parent_span_id, outcome.parent_span_id) == (
        None,
        tick.span_id,
        work.span_id,
    )
    assert {span.trace_id for span in spans.values()} == {tick.trace_id}
    assert (tick.kind, work.kind) == ("PRODUCER", "CONSUMER")
    assert work.attributes == {"slot.id": 7}
    assert work.resource["service.name"] == "vortex-worker"
    assert outcome.events[0].name == "committed"
    assert outcome.links[0].span_id == work.span_id
    tracing.shutdown()


def test_standard_variables_set_headers_and_compression(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=harbour")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    tracing = configure_tracing(OtlpSettings(), set_global=False)
    end_spans(tracing, 1)
    tracing.shutdown()
    assert len(receiver.spans()) == 1
    assert receiver.request_headers[0]["x-tenant"] == "harbour"
    assert receiver.request_headers[0]["content-encoding"] == "gzip"


def test_shutdown_delivers_what_is_queued(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    tracing = configure_tracing(OtlpSettings(), set_global=False)
    end_spans(tracing, SPAN_COUNT)
    tracing.shutdown()
    assert len(receiver.spans()) == SPAN_COUNT


@pytest.mark.parametrize("collector", ["dead_collector", "hanging_collector"])
def test_collector_that_fails_slows_neither_spans_nor_shutdown(
    collector: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    request.getfixturevalue(collector)
    tracing = configure_tracing(OtlpSettings(), set_global=False)
    assert end_spans(tracing, SPAN_COUNT) < EXPORT_TIMEOUT_S / 2
    assert shutdown_duration_s(tracing, 2.0) < 2.5
    assert shutdown_duration_s(tracing, 2.0) < 1.0
    (record,) = telemetry_records(caplog)
    assert record.message == "Unsent spans dropped at shutdown"


@pytest.mark.usefixtures("hanging_collector")
def test_full_queue_drops_spans_without_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32")
    tracing = configure_tracing(OtlpSettings(), set_global=False)
    assert end_spans(tracing, SPAN_COUNT) < EXPORT_TIMEOUT_S / 2
    assert shutdown_duration_s(tracing, 0.2) < 0.7
    assert len(telemetry_records(caplog)) <= 4


def test_outage_is_logged_once_when_it_begins_and_once_when_it_ends(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tracing = configure_tracing(OtlpSettings(), set_global=False)
    receiver.status = 400
    for _ in range(3):
        end_spans(tracing, 1)
        tracing.provider.force_flush()
    receiver.status = 200
    end_spans(tracing, 1)
    tracing.shutdown()
    failing, recovered = telemetry_records(caplog)
    assert (failing.levelname, failing.message) == (
        "WARNING",
        "Trace export failing, spans are dropped",
    )
    assert "Bad Request" in vars(failing)["reason"]
    assert failing.exc_info is None
    assert (recovered.levelname, recovered.message) == ("INFO", "Trace export recovered")
    assert vars(recovered)["lost_spans"] == 3


@pytest.mark.usefixtures("dead_collector")
def test_outage_names_its_cause_not_the_end_of_the_retries(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1.5")
    tracing = configure_tracing(OtlpSettings(), set_global=False)
    end_spans(tracing, 1)
    tracing.shutdown()
    (record,) = telemetry_records(caplog)
    assert "refused" in vars(record)["reason"]


def test_receiver_says_what_came_when_the_wait_is_over(receiver: OtlpReceiver) -> None:
    with pytest.raises(TimeoutError, match=r"spans received: \[\]"):
        receiver.wait_for(bool, timeout_s=0.05)
