"""Memory after many slots: none of them may leave anything behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import Any

import psutil
import pytest
import torch

from consumer.config import WorkerConfig
from vortex.pipeline import VortexPipeline

pytestmark = pytest.mark.models

# As cheap as a slot can be: a word, two frames.
RECIPE: dict[str, Any] = {
    "slot_params": {"duration_sec": 1.0, "fps": 2, "resolution": "64x64"},
    "audio_track": {"script": "Good evening."},
    "visual_track": {"prompt": "a clown"},
}
WARM_UP_SLOTS = 12  # an allocator needs some until it has all that it keeps


@pytest.fixture
def pipeline(mini_config: WorkerConfig) -> Iterator[VortexPipeline]:
    pipeline = VortexPipeline(config=mini_config)
    yield pipeline
    pipeline.close()


def live_tensors() -> int:
    gc.collect()
    # By type, since asking some lazy modules for more imports them.
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def memory_after_each(pipeline: VortexPipeline, slots: int) -> tuple[list[int], list[int]]:
    """Make slots; return tensors alive and bytes resident after each, the first few left out."""
    tensors, resident = [], []

    async def make() -> None:
        for slot_id in range(WARM_UP_SLOTS + slots):
            await pipeline.generate_slot(RECIPE, slot_id)
            if slot_id >= WARM_UP_SLOTS:
                tensors.append(live_tensors())
                resident.append(psutil.Process().memory_info().rss)

    asyncio.run(make())
    return tensors, resident


# A slot's samples alone take 96 kB, its activations megabytes. Allocators take more for themselves
# now and then, in one step: over few slots, what counts is what is there after every one.
@pytest.mark.timeout(600)
def test_no_slot_leaves_tensors_or_memory_behind(pipeline: VortexPipeline) -> None:
    tensors, resident = memory_after_each(pipeline, slots=6)
    assert len(set(tensors)) == 1, f"tensors alive after each slot: {tensors}"
    growth = median(after - before for before, after in pairwise(resident))
    assert growth < 500_000, f"resident bytes after each slot: {resident}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_slots_leave_nothing_behind_now_and_then_either(
    pipeline: VortexPipeline,
) -> None:
    tensors, resident = memory_after_each(pipeline, slots=100)
    assert len(set(tensors)) == 1, f"tensors alive after each slot: {tensors}"
    growth = median(resident[-20:]) - median(resident[:20])
    assert growth < 80 * 96_000, f"resident bytes after each slot: {resident}"
