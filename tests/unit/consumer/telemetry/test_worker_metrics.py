"""What a worker counts, as an exporter gets it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import TopicPartition
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_span_in_context

from consumer.engine.base import EngineLostError, EngineResult, SlotMade, SlotNotMade, SlotRequest
from consumer.engine.measured import MeasuredEngine
from consumer.job import DeadLetterReason, Decision, Job
from consumer.outcome import OutcomeWriter
from consumer.telemetry.propagation import inject_carrier
from consumer.telemetry.worker_metrics import MAX_CHANNELS, WorkerMetrics, WorkerState
from schemas import MissReason, Stage, WorkerInfo
from tests.support.engines import Script, ScriptedEngine, slot_made
from tests.support.jobs import job

WRITER = OutcomeWriter("slot.results", "group", WorkerInfo(id="w", version="0"))
STATE = WorkerState(
    waiting=3,
    lag={TopicPartition("slot.ticks", 0): 5, TopicPartition("slot.ticks", 4): 1},
    lag_s=12.5,
    assigned=2,
    standing=1,
    engine_ready=True,
    engine_memory_bytes=7,
)


class Exported:
    """Metrics, and what an exporter would get of them."""

    def __init__(self, **settings: Any) -> None:
        self._reader = InMemoryMetricReader()
        provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.metrics = WorkerMetrics(
            provider.get_meter("test"), topic="slot.ticks", group="vortex", **settings
        )

    def points(self) -> dict[str, list[Any]]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def values(self, name: str) -> dict[tuple[Any, ...], float]:
        """Return the values of a counter or gauge by the values of its labels, in their order."""
        return {tuple(point.attributes.values()): point.value for point in self.points()[name]}


def request_of(of: Job, trace: Mapping[str, str] | None = None) -> SlotRequest:
    tick = of.tick
    return SlotRequest(
        *(of.key, tick.slot_id, tick.channel, of.recipe, of.seed, of.deadline_s), trace=trace or {}
    )


def decided(of: Job, result: EngineResult | None = None) -> Decision:
    return WRITER.write(of, result or slot_made(request_of(of)), of.arrival.monotonic_s)


def on_channel(channel: str) -> Job:
    one = job(1)
    return replace(one, tick=one.tick.model_copy(update={"channel": channel}))


def test_outcomes_are_counted_by_type_reason_and_channel() -> None:
    exported = Exported()
    exported.metrics.published(decided(job(1)))
    for _ in range(2):
        missed = SlotNotMade(MissReason.TIMEOUT, Stage.VIDEO, "too slow", {"audio_ms": 1500.0})
        exported.metrics.published(decided(job(2), missed))
    assert exported.values("vortex.slot.outcomes") == {
        ("slot-complete", "", "main"): 1,
        ("deadline-missed", "timeout", "main"): 2,
    }
    points = exported.points()
    (audio,) = [
        point
        for point in points["vortex.slot.stage.duration"]
        if point.attributes == {"slot.stage": "audio"}
    ]
    assert (audio.count, audio.sum) == (3, pytest.approx(3.04))
    assert {dict(p.attributes).get("error.type") for p in points["messaging.process.duration"]} == {
        None,
        "timeout",
    }
    (size,) = points["vortex.artifact.size"]
    assert (size.count, size.sum) == (1, 1001)


def test_late_slot_has_an_overrun_in_place_of_slack() -> None:
    exported = Exported()
    exported.metrics.published(decided(job(1, deadline_in_s=45.0)))
    exported.metrics.published(decided(job(2, deadline_in_s=-3.0)))
    (slack,), (overrun,) = (
        exported.points()[f"vortex.slot.deadline.{name}"] for name in ("slack", "overrun")
    )
    assert slack.attributes == {"slot.outcome": "slot-complete"}
    assert (slack.count, overrun.count) == (1, 1)
    assert 30 < slack.sum <= 45
    assert 3 <= overrun.sum < 10


def test_dead_letters_are_counted_by_reason_from_zero() -> None:
    exported = Exported()
    assert exported.values("vortex.dead_letters") == {("unreadable",): 0, ("duplicate",): 0}
    one = decided(job(1))
    exported.metrics.published(
        Decision(
            *(one.key, "letters", None, b"", (), one.span, one.context),
            outcome=DeadLetterReason.DUPLICATE,
        )
    )
    assert exported.values("vortex.dead_letters") == {("unreadable",): 0, ("duplicate",): 1}
    assert "vortex.slot.outcomes" not in exported.points()


def test_channels_beyond_the_limit_share_one_label() -> None:
    exported = Exported()
    for number in (*range(MAX_CHANNELS + 20), 0):
        exported.metrics.published(decided(on_channel(f"c{number}")))
    values = exported.values("vortex.slot.outcomes")
    assert len(values) == MAX_CHANNELS + 1
    assert values["slot-complete", "", "other"] == 20
    assert values["slot-complete", "", "c0"] == 2


def test_state_is_exported_as_it_was_told_last() -> None:
    exported = Exported(engine_memory_limit_gb=1.5)
    assert "vortex.queue.depth" not in exported.points()
    exported.metrics.tell(STATE)
    assert exported.values("vortex.partition.lag") == {
        ("slot.ticks", "0"): 5,
        ("slot.ticks", "4"): 1,
    }
    single = {
        "vortex.queue.depth": 3,
        "vortex.lag.predicted": 12.5,
        "vortex.partitions.assigned": 2,
        "vortex.partitions.standing": 1,
        "vortex.engine.ready": 1,
        "vortex.engine.memory.usage": 7,
        "vortex.engine.memory.limit": 1_500_000_000,
    }
    assert {name: exported.values(name)[()] for name in single} == single
    assert exported.values("process.memory.usage")[()] > 1e6


async def test_engine_starts_and_losses_are_counted() -> None:
    exported = Exported()
    inner = ScriptedEngine({2: Script(error=EngineLostError("gone"))})
    engine = MeasuredEngine(inner, exported.metrics)
    assert exported.values("vortex.engine.losses") == {(): 0}
    await engine.start()
    await engine.run(request_of(job(1)))
    with pytest.raises(EngineLostError):
        await engine.run(request_of(job(2)))
    await engine.start()
    inner.settle_error = EngineLostError("hangs")
    with pytest.raises(EngineLostError):
        await engine.settle()
    assert exported.values("vortex.engine.starts") == {(): 2}
    assert exported.values("vortex.engine.losses") == {(): 2}


async def test_engine_that_is_lost_to_two_slots_is_one_loss() -> None:
    exported = Exported()
    gone = EngineLostError("gone")
    hold, ahead = asyncio.Event(), asyncio.Event()
    scripts = {1: Script(hold=hold, error=gone), 2: Script(ahead=ahead, ahead_error=gone)}
    engine = MeasuredEngine(ScriptedEngine(scripts), exported.metrics)
    await engine.start()
    works = [engine.run(request_of(job(1))), engine.speak_ahead(request_of(job(2)))]
    both = asyncio.gather(*works, return_exceptions=True)
    ahead.set()
    hold.set()
    assert await both == [gone, gone]
    assert exported.values("vortex.engine.losses") == {(): 1}


async def test_prediction_is_measured_against_a_slot_that_was_made() -> None:
    exported = Exported()
    refused = SlotNotMade(MissReason.REJECTED, None, "it shows something else", {})
    inner = ScriptedEngine({2: Script(result=refused)}, default=Script(work_s=0.05))
    engine = MeasuredEngine(inner, exported.metrics)
    await engine.start()
    await engine.run(request_of(job(1)))  # nothing predicted yet
    inner.predicted_s = 0.5
    assert isinstance(await engine.run(request_of(job(1))), SlotMade)
    await engine.run(request_of(job(2)))
    points = exported.points()
    ((predicted,), (actual,), (ratio,)) = (
        points[f"vortex.slot.{name}"]
        for name in ("predicted.duration", "actual.duration", "prediction.ratio")
    )
    assert (predicted.count, predicted.sum) == (1, 0.5)
    assert actual.count == ratio.count == 1
    assert actual.sum >= 0.05
    assert ratio.sum == pytest.approx(actual.sum / 0.5)


async def test_exemplars_lead_to_the_trace_of_the_slot() -> None:
    exported = Exported()
    span = TracerProvider().get_tracer("test").start_span("process")
    trace_id = span.get_span_context().trace_id
    one = replace(job(1, span=span), context=set_span_in_context(span))
    exported.metrics.published(decided(one))
    engine = MeasuredEngine(ScriptedEngine(predicted_s=0.5), exported.metrics)
    await engine.start()
    await engine.run(request_of(one, inject_carrier(one.context)))
    points = exported.points()
    for name in (
        "vortex.slot.deadline.slack",
        "vortex.slot.stage.duration",
        "messaging.process.duration",
        "vortex.artifact.size",
        "vortex.slot.prediction.ratio",
    ):
        assert [each.trace_id for each in points[name][0].exemplars] == [trace_id], name
