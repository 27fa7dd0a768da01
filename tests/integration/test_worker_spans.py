"""Each tick's `process` span is ended exactly once, however the worker stops."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from consumer.kafka.publisher import TransactionalPublisher
from tests.integration.conftest import MakeLane
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import tick
from tests.support.waiting import until

pytestmark = pytest.mark.kafka


class Counts(SpanProcessor):
    """Counts, by span id, how often each `process` span was started and ended."""

    def __init__(self) -> None:
        self.started: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if span.name.startswith("process "):
            self.started[span.get_span_context().span_id] += 1

    def on_end(self, span: ReadableSpan) -> None:
        if span.name.startswith("process "):
            assert span.context
            self.ended[span.context.span_id] += 1


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Give the counts of the spans that workers in this process open."""
    counts, provider = Counts(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(counts)
    for module in ("consumer.worker", "consumer.dispatcher", "consumer.kafka.partition"):
        monkeypatch.setattr(f"{module}.tracer", provider.get_tracer("vortex.consumer"))
    return counts


@pytest.mark.parametrize("brokers", ["answer", "hang"])
async def test_stopped_worker_ends_each_process_span_once(
    brokers: str,
    make_lane: MakeLane,
    spans: Counts,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    if brokers == "hang":
        monkeypatch.setattr(TransactionalPublisher, "publish", hang)
        monkeypatch.setattr("consumer.worker.DRAIN_TIMEOUT_S", 0.2)
    lane = await make_lane(partitions=2)
    engine = ScriptedEngine({0: Script(hold=asyncio.Event())})
    async with lane.worker(engine, "a", shutdown_grace_s=0.0) as worker:
        await lane.emit([tick(0)])
        await until(lambda: engine.started == [0])
        await lane.emit([tick(slot_id) for slot_id in range(1, 41)])
        await lane.emit([tick(slot_id, deadline_s=-1) for slot_id in range(41, 46)])
        await until(lambda: len(spans.started) == 46 and worker._dispatcher.waiting == 40)
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("opentelemetry") and record.levelno >= logging.WARNING
    ]
    assert warnings == []
    assert spans.ended == spans.started
