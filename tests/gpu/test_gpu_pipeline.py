"""Whole slots on the GPU: stages on streams of their own, and memory that does not grow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import torch

from consumer.config import WorkerConfig
from vortex.pipeline import WARM_UP_RECIPE, VortexPipeline
from vortex.utils.cancellation import CancellationToken

pytestmark = [pytest.mark.gpu, pytest.mark.models]

SLOTS = 30
_SLEEP_CYCLES = 200_000_000  # about a tenth of a second


@pytest.fixture
def pipeline(mini_config: WorkerConfig, cuda: torch.device) -> Iterator[VortexPipeline]:
    pipeline = VortexPipeline(config=mini_config, device=str(cuda))
    asyncio.run(pipeline.warm_up())
    yield pipeline
    pipeline.close()


async def test_two_stages_compute_on_the_gpu_at_the_same_time(pipeline: VortexPipeline) -> None:
    """Each waits on the device; side by side they take little longer than one alone."""
    meeting = threading.Barrier(2)
    times: dict[str, tuple[torch.cuda.Event, torch.cuda.Event]] = {}

    def work(name: str) -> None:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        meeting.wait()
        begin.record()
        torch.cuda._sleep(_SLEEP_CYCLES)
        end.record()
        times[name] = begin, end

    await asyncio.gather(
        pipeline._stage("audio", lambda _: work("audio")),
        pipeline._stage("image", lambda _: work("image")),
    )
    (begin_a, end_a), (begin_b, end_b) = times.values()
    both_ms = max(begin.elapsed_time(end) for begin in (begin_a, begin_b) for end in (end_a, end_b))
    alone_ms = begin_a.elapsed_time(end_a)
    assert both_ms < 1.5 * alone_ms


async def test_memory_in_use_does_not_grow_from_slot_to_slot(
    pipeline: VortexPipeline, cuda: torch.device
) -> None:
    in_use = []
    for slot_id in range(SLOTS):
        await pipeline.generate_slot(WARM_UP_RECIPE, slot_id)
        in_use.append(torch.cuda.memory_allocated(cuda))
    assert len(set(in_use[2:])) == 1, in_use


async def test_stage_has_ended_on_the_gpu_when_it_returns(pipeline: VortexPipeline) -> None:
    event = torch.cuda.Event()

    def work(_: CancellationToken) -> None:
        torch.cuda._sleep(_SLEEP_CYCLES)
        event.record()

    await pipeline._stage("image", work)
    assert event.query()
