"""The warm-up of an engine in traces and logs: it is no slot."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.config import WorkerConfig
from consumer.engine.slot_maker import SlotMaker
from vortex.orchestration import StageEstimates


async def test_warm_up_is_one_trace_and_no_slot(
    mini_config: WorkerConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for module in ("consumer.engine.slot_maker", "vortex.orchestration.scheduler"):
        monkeypatch.setattr(f"{module}.tracer", provider.get_tracer(module))
    caplog.set_level(logging.DEBUG)
    estimates = StageEstimates(mini_config.orchestration.timeouts.by_stage())
    maker = SlotMaker.load(mini_config, estimates)
    try:
        await maker.warm_up()
    finally:
        maker.close()
    spans = exporter.get_finished_spans()
    roots = [span for span in spans if span.parent is None]
    assert [span.name for span in roots] == ["engine.warm_up"]
    assert roots[0].context is not None
    assert {span.context.trace_id for span in spans if span.context} == {roots[0].context.trace_id}
    assert {"slot.audio", "slot.image", "slot.video", "slot.clip"} <= {span.name for span in spans}
    assert all("slot.id" not in (span.attributes or {}) for span in spans)
    logged = [record.__dict__["slot_id"] for record in caplog.records if "slot_id" in vars(record)]
    assert logged
    assert set(logged) == {None}
