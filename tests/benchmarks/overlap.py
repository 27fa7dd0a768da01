"""Slots per hour when each is stored while the next is made, over one after another.

Real slots of the profile `mini`, made by dispatcher and engine, with and without the overlap in
turn: `make bench-overlap`, or `--small` for a minute's run. Once with a directory as the store, and
once with one that takes a second for each upload, in place of a distant one. Prints the ratio of
throughput, how many slots were stored during the next one according to the spans, and the most that
a slot was finished later than the same one without overlap. Fails if a slot is not made.
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


class SwitchableEngine(InlineEngine):
    """The real engine, whose overlap can be switched while it is loaded."""

    overlap = True

    async def stop(self) -> None:
        """Stay loaded for the next dispatcher; `close` ends it."""

    async def close(self) -> None:
        """Let go of the models."""
        await super().stop()

    @property
    def overlap_room_s(self) -> float:
        """See `Engine`."""
        return super().overlap_room_s if self.overlap else math.inf


@dataclass(frozen=True)
class Run:
    """Slots made one after another, all of them waiting from the beginning."""

    ends_s: tuple[float, ...]
    """When each slot was decided, from the beginning of the run."""
    overlapped: int
    """Slots that were stored during the next one, according to the spans."""

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
            print(asyncio.run(_compare(name, WorkerConfig.load(), exporter, slots, rounds)))
    return 0


async def _compare(
    name: str, config: WorkerConfig, exporter: InMemorySpanExporter, slots: int, rounds: int
) -> str:
    build_mini(config.models.profile_directory)
    engine = SwitchableEngine(config)
    await engine.start()
    ratios, later_s, overlapped = [], [], 0
    for number in range(rounds):
        runs: dict[bool, Run] = {}
        for engine.overlap in (True, False) if number % 2 else (False, True):
            exporter.clear()
            ends_s = await _ends(engine, slots)
            spans = exporter.get_finished_spans()
            runs[engine.overlap] = Run(ends_s, _overlapped(spans))
        if runs[False].overlapped:
            sys.exit("slots overlapped though it was switched off")
        ratios.append(runs[True].slots_per_hour / runs[False].slots_per_hour)
        later_s += [
            with_s - without_s
            for with_s, without_s in zip(runs[True].ends_s, runs[False].ends_s, strict=True)
        ]
        overlapped += runs[True].overlapped
    await engine.close()
    return (
        f"{name}: {median(ratios):.2f} times the slots per hour ({min(ratios):.2f} to"
        f" {max(ratios):.2f}), {overlapped} of {rounds * (slots - 1)} overlapped, a slot at most"
        f" {max(later_s):+.2f} s later"
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
    began_s = time.monotonic()
    for slot_id in range(slots):
        dispatcher.submit(job(slot_id, deadline_in_s=DEADLINE_S + slot_id, recipe=RECIPE))
    serving = asyncio.create_task(dispatcher.run())
    finished = asyncio.create_task(done.wait())
    await asyncio.wait({serving, finished}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    if not finished.done():
        sys.exit(f"{len(ends_s)} of {slots} slots were made")
    return tuple(ends_s[slot_id] - began_s for slot_id in range(slots))


def _overlapped(spans: tuple[ReadableSpan, ...]) -> int:
    """Return how many slots' last step ended after a slot that began later had begun to speak."""
    stored = {_trace(span): span.end_time or 0 for span in spans if span.name == "slot.store"}
    spoken = {_trace(s): s.start_time or 0 for s in spans if s.name == "slot.audio attempt"}
    begun = sorted(spoken, key=spoken.__getitem__)
    return sum(
        spoken[after] < stored[before] for before, after in pairwise(begun) if before in stored
    )


def _trace(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id


if __name__ == "__main__":
    sys.exit(main())
