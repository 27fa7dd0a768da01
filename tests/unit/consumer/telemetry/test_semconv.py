from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import StatusCode

from consumer.telemetry import semconv


def fail(error: BaseException) -> None:
    raise error


def failed_span(error: BaseException) -> ReadableSpan:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("video") as span:
        try:
            fail(error)
        except BaseException as raised:
            semconv.record_failure(span, raised)
    (finished,) = exporter.get_finished_spans()
    return finished


def test_schema_is_the_newest_that_the_installed_conventions_know() -> None:
    assert list(Schemas)[-1].value == semconv.SCHEMA_URL


def test_process_span_describes_the_tick() -> None:
    assert semconv.process_attributes(
        topic="slot.ticks",
        partition=2,
        offset=41,
        group="vortex",
        client_id="worker-1",
        key=b"12345",
        body_size_bytes=512,
    ) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "slot.ticks",
        "messaging.destination.partition.id": "2",
        "messaging.kafka.offset": 41,
        "messaging.kafka.message.key": "12345",
        "messaging.consumer.group.name": "vortex",
        "messaging.client.id": "worker-1",
        "messaging.message.body.size": 512,
    }


@pytest.mark.parametrize("key", [None, b"\xff\xfe", b"k" * 257])
def test_key_that_is_no_text_or_endless_is_left_out(key: bytes | None) -> None:
    attributes = semconv.process_attributes(
        topic="t", partition=0, offset=0, group="g", client_id="c", key=key, body_size_bytes=0
    )
    assert "messaging.kafka.message.key" not in attributes
    assert attributes["messaging.kafka.offset"] == 0


def test_receive_span_counts_its_batch() -> None:
    attributes = semconv.receive_attributes(
        topic="slot.ticks", group="vortex", client_id="worker-1", message_count=3
    )
    assert attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.destination.name": "slot.ticks",
        "messaging.consumer.group.name": "vortex",
        "messaging.client.id": "worker-1",
        "messaging.batch.message_count": 3,
    }


def test_send_span_names_its_place_once_it_is_known() -> None:
    sent = semconv.send_attributes(
        topic="slot.results", client_id="worker-1", key=b"7", body_size_bytes=9
    )
    acknowledged = semconv.send_attributes(
        topic="slot.results",
        client_id="worker-1",
        key=b"7",
        body_size_bytes=9,
        partition=0,
        offset=5,
    )
    assert sent["messaging.operation.type"] == "send"
    assert acknowledged.items() - sent.items() == {
        ("messaging.destination.partition.id", "0"),
        ("messaging.kafka.offset", 5),
    }


def test_failure_sets_status_type_and_an_exception_event() -> None:
    span = failed_span(TimeoutError("video took 31 s"))
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "TimeoutError"
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "TimeoutError"
    assert event.attributes["exception.message"] == "video took 31 s"
    assert "in fail\n" in str(event.attributes["exception.stacktrace"])


def test_failure_quotes_no_more_than_300_characters_of_any_message() -> None:
    script = "a long script " * 100
    error = ValueError(script)
    error.__cause__ = RuntimeError(script)
    span = failed_span(error)
    assert script not in span.to_json()
    assert len(span.status.description or "") == 300
