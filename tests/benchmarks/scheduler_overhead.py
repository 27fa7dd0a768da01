"""The scheduler's time over its critical path max(audio, image) + video + clip."""

from __future__ import annotations

import asyncio
import time

from tests.benchmarks.side_by_side import Comparison
from tests.support.pipelines import CONFIG, RECIPE, PlainPipeline, PlainStage
from vortex.orchestration import SlotScheduler

STAGE_S = 0.1
ROUNDS = 20


async def measure_scheduler() -> Comparison:
    """Compare milliseconds of `execute` with those of the same stages awaited by hand."""
    pipeline = PlainPipeline(
        **{stage: PlainStage(delay_s=STAGE_S) for stage in ("audio", "image", "video", "clip")}
    )
    scheduler = SlotScheduler(pipeline, CONFIG)
    await scheduler.execute(RECIPE, slot_id=0)  # imports and caches
    pairs = [
        (await _scheduled(scheduler, slot_id), await _by_hand(pipeline))
        for slot_id in range(ROUNDS)
    ]
    return Comparison(tuple(pairs))


async def _scheduled(scheduler: SlotScheduler, slot_id: int) -> float:
    started = time.perf_counter()
    await scheduler.execute(RECIPE, slot_id=slot_id)
    return (time.perf_counter() - started) * 1000


async def _by_hand(pipeline: PlainPipeline) -> float:
    started = time.perf_counter()
    audio, image = await asyncio.gather(
        pipeline._generate_audio(RECIPE), pipeline._generate_actor(RECIPE)
    )
    video = await pipeline._generate_video(image, audio)
    await pipeline._verify_semantic(video, RECIPE)
    return (time.perf_counter() - started) * 1000
