"""Memory after many slots: none of them may leave anything behind."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable, Iterator
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
    # Nothing is left open, for each seed to choose: the embeddings of the latest prompts are kept.
    "visual_track": {
        "prompt": "a bald man with pale skin, in a red coat, against a blue background"
    },
}
WARM_UP_SLOTS = 3  # what is made once is made in the first of them
LET_GO_S = 0.1  # in which a thread lets go of what it has made, once that is there
SAMPLES_BYTES = 96_000  # of a slot of this recipe; its activations take megabytes


@pytest.fixture
def pipeline(mini_config: WorkerConfig) -> Iterator[VortexPipeline]:
    pipeline = VortexPipeline(config=mini_config)
    yield pipeline
    pipeline.close()


def live_tensors() -> int:
    gc.collect()
    # By type, since asking some lazy modules for more imports them.
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


class _MallInfo(ctypes.Structure):
    """The `struct mallinfo2` of glibc 2.33 or newer."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def allocated_bytes() -> int:
    """Return what was allocated and not freed, to the byte, in arenas and by mmap.

    Resident memory says less: it rises and falls by ten megabytes with how the free pieces lie.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("this C library does not say what is allocated; glibc 2.33 does")
    libc.mallinfo2.restype = _MallInfo
    info = libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def memory_after_each(
    pipeline: VortexPipeline, slots: int, measure: Callable[[], int]
) -> tuple[list[int], list[int]]:
    """Make slots; return tensors alive and bytes after each, the first few left out."""
    tensors, measured = [], []

    async def make() -> None:
        for slot_id in range(WARM_UP_SLOTS + slots):
            await pipeline.generate_slot(RECIPE, slot_id)
            if slot_id >= WARM_UP_SLOTS:
                counted = live_tensors()
                await asyncio.sleep(LET_GO_S)
                tensors.append(min(counted, live_tensors()))
                measured.append(measure())

    asyncio.run(make())
    return tensors, measured


@pytest.mark.timeout(600)
def test_no_slot_leaves_tensors_or_memory_behind(pipeline: VortexPipeline) -> None:
    tensors, allocated = memory_after_each(pipeline, 8, allocated_bytes)
    assert len(set(tensors)) == 1, f"tensors alive after each slot: {tensors}"
    # The median, since caches may grow now and then, and other threads live in this process.
    growth = median(after - before for before, after in pairwise(allocated))
    assert growth < SAMPLES_BYTES / 2, f"bytes allocated after each slot: {allocated}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_slots_leave_nothing_behind_now_and_then_either(
    pipeline: VortexPipeline,
) -> None:
    process = psutil.Process()
    tensors, resident = memory_after_each(pipeline, 100, lambda: int(process.memory_info().rss))
    assert len(set(tensors)) == 1, f"tensors alive after each slot: {tensors}"
    growth = median(resident[-20:]) - median(resident[:20])
    assert growth < 80 * SAMPLES_BYTES, f"resident bytes after each slot: {resident}"
