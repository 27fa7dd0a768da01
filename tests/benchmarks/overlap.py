"""Slots per hour with what is done of two slots at the same time, over one after another.

Real slots of the profile `mini`, made by dispatcher and engine, with nothing at the same time, with
each stored while the next is made, and with the next spoken as well while one is rendered, in turn:
`make bench-overlap`, or `--small` for a minute's run. Once with a directory as the store, and once
with one that takes a second for each upload, in place of a distant one. Prints the ratio of
throughput to that of one after another, how many slots were stored during the next one and spoken
during the one before according to the spans, and the most that a slot was finished later than the
same one of one after another. Fails if a slot is not made.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.config import WorkerConfig
from consumer.dispatcher import Dispatcher
from consumer.engine.base import EngineResult, SlotMade
from consumer.engine.inline import InlineEngine
from consumer.job import Job
from schemas import AudioTrack, Recipe, SlotParams, VisualTrack
from tests.support.jobs import job
from vortex.models.mini import build_mini

UPLOAD_S = 1.0
DEADLINE_S = 300.0
RECIPE = Recipe(
    slot_params=SlotParams(duration_sec=2.0, fps=12, resolution="128x128"),
    audio_track=AudioTrack(script="Good evening."),
    visual_track=VisualTrack(prompt="A man with short black hair in a yellow jumper"),
    seed=7,
)


class DistantStore(MemoryFileSystem):  # type: ignore[misc] # fsspec ships no types
    """`distant://`: in memory, but every upload takes `UPLOAD_S`."""

    protocol = "distant"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        """Upload a file; blocks."""
        time.sleep(UPLOAD_S)
        super().put_file(lpath, rpath, **kwargs)


@dataclass(frozen=True)
class Overlap:
    """What may be done at the same time."""

    name: str
    store: bool
    speech: bool


NONE = Overlap("one after another", store=False, speech=False)
OVERLAPS = (
    Overlap("store", store=True, speech=False),
    Overlap("store and speech", store=True, speech=True),
)


class SwitchableEngine(InlineEngine):
    """The real engine, whose overlap can be switched while it is loaded."""

    overlap = NONE

    async def stop(self) -> None:
        """Stay loaded for the next dispatcher; `close` ends it."""

    async def close(self) -> None:
        """Let go of the models."""
        await super().stop()

    @property
    def overlap_room_s(self) -> float:
        """See `Engine`."""
        return super().overlap_room_s if self.overlap.store else math.inf

    def speech_room_s(self, recipe: Recipe) -> float:
        """See `Engine`."""
        return super().speech_room_s(recipe) if self.overlap.speech else math.inf


@dataclass(frozen=True)
class Run:
    """Slots made one after another, all of them waiting from the beginning."""

    ends_s: tuple[float, ...]
    """When each slot was decided, from the beginning of the run."""
    stored: int
    """Slots that were stored during the next one, according to the spans."""
    spoken: int
    """Slots whose speech began during the video of the one before, according to the spans."""

    @property
    def slots_per_hour(self) -> float:
        return 3600 * len(self.ends_s) / max(self.ends_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="few slots, in about a minute")
    slots, rounds = (3, 1) if parser.parse_args().small else (5, 3)
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    fsspec.register_implementation("distant", DistantStore, clobber=True)
    os.environ["VORTEX__DEVICE__NAME"] = "cpu"
    print(
        f"{rounds} rounds of {slots} slots of 2 s, profile mini, {os.cpu_count()} cores"
        f" ({platform.machine()}, no GPU)"
    )
    with tempfile.TemporaryDirectory() as directory:
        for name, url in (("directory", directory), ("distant store", "distant://slots")):
            os.environ["VORTEX__ARTIFACTS__URL"] = url
            for line in asyncio.run(_compare(WorkerConfig.load(), exporter, slots, rounds)):
                print(f"{name}, {line}", flush=True)
    return 0


async def _compare(
    config: WorkerConfig, exporter: InMemorySpanExporter, slots: int, rounds: int
) -> list[str]:
    build_mini(config.models.profile_directory)
    engine = SwitchableEngine(config)
    await engine.start()
    runs: dict[Overlap, list[Run]] = {overlap: [] for overlap in (NONE, *OVERLAPS)}
    for number in range(rounds):
        order = list(runs)
        for engine.overlap in reversed(order) if number % 2 else order:
            exporter.clear()
            ends_s = await _ends(engine, slots)
            spans = exporter.get_finished_spans()
            run = Run(ends_s, _stored(spans), _spoken(spans))
            allowed = engine.overlap
            if (run.stored and not allowed.store) or (run.spoken and not allowed.speech):
                sys.exit("slots overlapped though it was switched off")
            runs[engine.overlap].append(run)
    await engine.close()
    most = rounds * (slots - 1)
    return [_line(overlap, runs[NONE], runs[overlap], most) for overlap in OVERLAPS]


def _line(overlap: Overlap, without: list[Run], with_overlap: list[Run], most: int) -> str:
    pairs = list(zip(without, with_overlap, strict=True))
    ratios = [after.slots_per_hour / before.slots_per_hour for before, after in pairs]
    later_s = [
        after_s - before_s
        for before, after in pairs
        for before_s, after_s in zip(before.ends_s, after.ends_s, strict=True)
    ]
    stored, spoken = (sum(getattr(run, of) for run in with_overlap) for of in ("stored", "spoken"))
    return (
        f"{overlap.name}: {median(ratios):.2f} times the slots per hour ({min(ratios):.2f} to"
        f" {max(ratios):.2f}), {stored} of {most} stored during the next, {spoken} of {most} spoken"
        f" during the one before, a slot at most {max(later_s):+.2f} s later"
    )


async def _ends(engine: InlineEngine, slots: int) -> tuple[float, ...]:
    ends_s: dict[int, float] = {}
    done = asyncio.Event()

    def decide(one: Job, result: EngineResult, _started_s: float | None) -> None:
        if not isinstance(result, SlotMade):
            sys.exit(f"slot {one.tick.slot_id} was not made: {result.reason}: {result.detail}")
        ends_s[one.tick.slot_id] = time.monotonic()
        if len(ends_s) == slots:
            done.set()

    dispatcher = Dispatcher(engine, decide)
    tracer = trace.get_tracer(__name__)
    began_s = time.monotonic()
    for slot_id in range(slots):
        recipe = RECIPE.model_copy(
            update={
                "audio_track": AudioTrack(script=f"Good evening, this is number {slot_id}."),
                "visual_track": VisualTrack(prompt=f"{RECIPE.visual_track.prompt}, {slot_id}"),
            }
        )
        deadline_in_s, span = DEADLINE_S + slot_id, tracer.start_span("process")
        dispatcher.submit(job(slot_id, deadline_in_s=deadline_in_s, recipe=recipe, span=span))
    serving = asyncio.create_task(dispatcher.run())
    finished = asyncio.create_task(done.wait())
    await asyncio.wait({serving, finished}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    if not finished.done():
        sys.exit(f"{len(ends_s)} of {slots} slots were made")
    return tuple(ends_s[slot_id] - began_s for slot_id in range(slots))


def _stored(spans: tuple[ReadableSpan, ...]) -> int:
    """Return how many slots were stored after the next one had begun."""
    stored = {_trace(span): span.end_time or 0 for span in spans if span.name == "slot.store"}
    begun = {_trace(span): span.start_time or 0 for span in spans if span.name == "slot.make"}
    in_order = sorted(begun, key=begun.__getitem__)
    return sum(begun[after] < stored[before] for before, after in pairwise(in_order))


def _spoken(spans: tuple[ReadableSpan, ...]) -> int:
    """Return how many slots began to be spoken during the video of the one before."""
    spoken = {_trace(span): span.start_time or 0 for span in spans if span.name == "slot.audio"}
    videos = {_trace(span): span for span in spans if span.name == "slot.video"}
    in_order = sorted(videos, key=lambda one: videos[one].start_time or 0)
    return sum(
        (videos[before].start_time or 0) < spoken[after] < (videos[before].end_time or 0)
        for before, after in pairwise(in_order)
    )


def _trace(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id


if __name__ == "__main__":
    sys.exit(main())
