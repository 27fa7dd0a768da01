"""A slot is spoken while the one before is rendered, by the real models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.config import WorkerConfig
from consumer.dispatcher import Dispatcher
from consumer.engine.base import EngineResult, SlotMade, SlotRequest
from consumer.engine.inline import InlineEngine
from consumer.job import Job
from consumer.telemetry import semconv
from schemas import AudioTrack, Recipe, SlotParams, VisualTrack
from tests.support.jobs import job

pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

LIMIT_S = 200.0
SCRIPTS = ("Good evening.", "Here is the news.", "It rains in the north.")
DURATIONS_S = (1.0, 4.0, 1.0)  # of the second one, the video leaves time for the third one's speech


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for module in ("vortex.orchestration.scheduler", "consumer.engine.slot_maker"):
        monkeypatch.setattr(f"{module}.tracer", provider.get_tracer(module))
    yield exporter
    provider.shutdown()


def patient(config: WorkerConfig) -> WorkerConfig:
    """Return the configuration with stages that may take as long as a busy machine needs."""
    limits_s = dict.fromkeys(type(config.orchestration.timeouts).model_fields, LIMIT_S)
    timeouts = config.orchestration.timeouts.model_copy(update=limits_s)
    orchestration = config.orchestration.model_copy(update={"timeouts": timeouts})
    return config.model_copy(update={"orchestration": orchestration})


def slot(slot_id: int) -> Job:
    recipe = Recipe(
        slot_params=SlotParams(duration_sec=DURATIONS_S[slot_id], fps=12, resolution="128x128"),
        audio_track=AudioTrack(script=SCRIPTS[slot_id]),
        visual_track=VisualTrack(prompt=f"A man with a number {slot_id}"),
        seed=7,
    )
    span = TracerProvider().get_tracer("test").start_span("process slot.ticks")
    return job(slot_id, deadline_in_s=3 * LIMIT_S + slot_id, recipe=recipe, span=span)


async def made_in_turn(engine: InlineEngine) -> list[SlotMade]:
    """Make the slots as a worker does that has all of them waiting."""
    await engine.start()
    results: list[EngineResult] = []
    done = asyncio.Event()

    def decide(_job: Job, result: EngineResult, _began_s: float | None) -> None:
        results.append(result)
        if len(results) == len(SCRIPTS):
            done.set()

    dispatcher = Dispatcher(engine, decide)
    for slot_id in range(len(SCRIPTS)):
        dispatcher.submit(slot(slot_id))
    serving = asyncio.create_task(dispatcher.run())
    waiting = asyncio.create_task(done.wait())
    try:
        await asyncio.wait({serving, waiting}, timeout=LIMIT_S, return_when="FIRST_COMPLETED")
    finally:
        serving.cancel()
        waiting.cancel()
        await asyncio.gather(serving, waiting, return_exceptions=True)
    made = [result for result in results if isinstance(result, SlotMade)]
    assert len(made) == len(SCRIPTS), results
    return made


async def made_alone(engine: InlineEngine, one: Job) -> SlotMade:
    await engine.start()
    try:
        request = SlotRequest(
            one.source, one.tick.slot_id, "main", one.recipe, one.seed, time.monotonic() + LIMIT_S
        )
        result = await engine.run(request)
    finally:
        await engine.stop()
    assert isinstance(result, SlotMade), result
    return result


def of_slot(spans: tuple[ReadableSpan, ...], slot_id: int, name: str) -> list[ReadableSpan]:
    return [
        span
        for span in spans
        if span.name == name and (span.attributes or {}).get(semconv.SLOT_ID) == slot_id
    ]


async def test_slot_is_spoken_during_the_video_of_the_one_before_and_is_the_same_video(
    mini_config: WorkerConfig, exporter: InMemorySpanExporter
) -> None:
    engine = InlineEngine(patient(mini_config))
    third = (await made_in_turn(engine))[2]
    spans = exporter.get_finished_spans()
    (video,) = of_slot(spans, 1, "slot.video")
    (speech,) = of_slot(spans, 2, "slot.audio")
    (making,) = of_slot(spans, 2, "slot.make")
    assert (speech.attributes or {})[semconv.SLOT_AHEAD] is True
    moments = (video.start_time, speech.start_time, speech.end_time, video.end_time)
    assert moments == tuple(sorted(moments, key=lambda moment: moment or 0))
    assert (making.start_time or 0) > (speech.end_time or 0)
    assert speech.context.trace_id == making.context.trace_id != video.context.trace_id
    took_ms = ((speech.end_time or 0) - (speech.start_time or 0)) / 1e6
    assert third.times_ms["audio_ms"] == pytest.approx(took_ms, rel=0.1, abs=20.0)
    (first,) = of_slot(spans, 0, "slot.audio")
    assert semconv.SLOT_AHEAD not in (first.attributes or {})

    exporter.clear()
    alone = await made_alone(engine, slot(2))
    (speech,) = of_slot(exporter.get_finished_spans(), 2, "slot.audio")
    assert semconv.SLOT_AHEAD not in (speech.attributes or {})
    assert third.provenance is not None
    assert alone.provenance is not None
    assert third.provenance.media_sha256 == alone.provenance.media_sha256
    assert third.speech == alone.speech
