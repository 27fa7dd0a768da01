from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, format_trace_id

from consumer.telemetry.propagation import extract, extract_carrier, inject, inject_carrier

TRACEPARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACER = TracerProvider().get_tracer("test")


def span_context(context: Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


def test_context_survives_the_way_through_headers() -> None:
    headers: list[tuple[str, bytes]] = [("ce_id", b"a-1-2")]
    with TRACER.start_as_current_span("send slot.ticks") as sent:
        inject(headers)
    received = span_context(extract(headers))
    assert headers[0] == ("ce_id", b"a-1-2")
    assert received.trace_id == sent.get_span_context().trace_id
    assert received.span_id == sent.get_span_context().span_id
    assert received.is_remote


def test_trace_state_travels_along() -> None:
    inbound = extract([("traceparent", TRACEPARENT), ("tracestate", b"vendor=a,other=b")])
    outbound: list[tuple[str, bytes]] = []
    inject(outbound, inbound)
    assert dict(outbound) == {"traceparent": TRACEPARENT, "tracestate": b"vendor=a,other=b"}


def test_last_of_several_values_wins() -> None:
    context = extract([("traceparent", OTHER_TRACEPARENT), ("traceparent", TRACEPARENT)])
    assert format_trace_id(span_context(context).trace_id) == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_injecting_replaces_every_trace_context_that_was_there() -> None:
    headers = [
        ("traceparent", OTHER_TRACEPARENT),
        ("tracestate", b"vendor=old"),
        ("key", b"kept"),
        ("traceparent", OTHER_TRACEPARENT),
    ]
    inject(headers, extract([("traceparent", TRACEPARENT)]))
    assert headers == [("key", b"kept"), ("traceparent", TRACEPARENT)]


def test_injecting_without_a_span_leaves_no_stale_context_behind() -> None:
    headers = [("traceparent", OTHER_TRACEPARENT)]
    inject(headers, Context())
    assert headers == []


def test_baggage_of_a_producer_goes_no_further() -> None:
    context = extract([("traceparent", TRACEPARENT), ("baggage", b"user=someone")])
    outbound: list[tuple[str, bytes]] = []
    inject(outbound, context)
    assert [name for name, _ in outbound] == ["traceparent"]


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff\xfe\x00", b"garbage", TRACEPARENT[:-1], b"00" + TRACEPARENT, b"0" * 9000, None],
)
def test_poisoned_header_reads_as_no_context(value: bytes | None) -> None:
    assert not span_context(extract([("traceparent", value)])).is_valid


def test_poisoned_trace_state_does_not_cost_the_trace() -> None:
    context = span_context(extract([("traceparent", TRACEPARENT), ("tracestate", b"\xff=\x80")]))
    assert context.is_valid
    assert not context.trace_state


@given(st.lists(st.tuples(st.sampled_from(["traceparent", "tracestate"]), st.binary())))
def test_no_header_bytes_raise(headers: list[tuple[str, bytes]]) -> None:
    extract([("traceparent", TRACEPARENT), *headers])


def test_current_span_does_not_leak_into_a_message_without_context() -> None:
    with TRACER.start_as_current_span("receive slot.ticks"):
        assert not span_context(extract([])).is_valid


def test_context_survives_the_way_into_a_child_process() -> None:
    with TRACER.start_as_current_span("process slot.ticks") as span:
        carrier = pickle.loads(pickle.dumps(inject_carrier()))
    assert span_context(extract_carrier(carrier)).span_id == span.get_span_context().span_id


def test_empty_carrier_reads_as_no_context() -> None:
    assert not span_context(extract_carrier({})).is_valid
