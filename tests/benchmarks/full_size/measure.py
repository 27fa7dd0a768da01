"""Times and bytes of whole slots, and of LivePortrait's variants."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from schemas import AudioTrack, Recipe, SlotParams, VisualTrack
from tests.benchmarks.full_size.scale import Scale
from tests.benchmarks.full_size.stack import half_type, liveportrait
from vortex.models.liveportrait import LivePortrait
from vortex.orchestration.estimates import STAGES
from vortex.pipeline import VortexPipeline
from vortex.slot import SlotContext
from vortex.utils.cancellation import CancellationToken

_BEAT_S = 0.005
_MATMULS = 20


@dataclass
class Slots:
    """What was measured over some slots, in milliseconds a slot."""

    stage_ms: dict[str, list[float]] = field(default_factory=dict)
    overlap: list[float] = field(default_factory=list)
    """How much of the shorter of speech and portrait ran beside the longer, 0 to 1."""
    late_ms: list[float] = field(default_factory=list)
    """How late the event loop was, beat by beat, while stages ran."""

    def add(self, breakdown: dict[str, float]) -> None:
        for name, value in breakdown.items():
            self.stage_ms.setdefault(name, []).append(value)
        audio, image = breakdown["audio_ms"], breakdown["image_ms"]
        together = breakdown["total_ms"] - breakdown["video_ms"] - breakdown["clip_ms"]
        self.overlap.append(min(1.0, max(0.0, (audio + image - together) / min(audio, image))))


def summary(values: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and worst."""
    return {
        "median": round(float(np.median(values)), 3),
        "p99": round(float(np.quantile(values, 0.99)), 3),
        "worst": round(max(values), 3),
    }


def recipe(scale: Scale) -> Recipe:
    return Recipe(
        slot_params=SlotParams(
            duration_sec=scale.duration_s,
            fps=scale.fps,
            resolution=f"{scale.size}x{scale.size}",
        ),
        audio_track=AudioTrack(script=scale.script),
        visual_track=VisualTrack(prompt="A portrait of a news presenter, facing the camera."),
        seed=0,
    )


async def make_slots(pipeline: VortexPipeline, scale: Scale, count: int) -> Slots:
    """Make slots one after the other, and watch the event loop meanwhile."""
    slots = Slots()

    async def beat() -> None:
        while True:
            due_s = time.perf_counter() + _BEAT_S
            await asyncio.sleep(_BEAT_S)
            slots.late_ms.append((time.perf_counter() - due_s) * 1000)

    heart = asyncio.create_task(beat())
    try:
        for slot_id in range(count):
            made = await pipeline.generate_slot(recipe(scale), slot_id)
            slots.add(dataclasses.asdict(made.breakdown))
    finally:
        heart.cancel()
    return slots


async def stage_peaks(pipeline: VortexPipeline, scale: Scale) -> dict[str, int]:
    """Return the most bytes on the GPU in each stage by itself; nothing without a GPU."""
    if pipeline.device.type != "cuda":
        return {}
    wanted = recipe(scale)
    slot = SlotContext(recipe=wanted, slot_id=0, seed=0)
    peaks: dict[str, int] = {}

    async def peak(stage: str, work: Any) -> Any:
        torch.cuda.reset_peak_memory_stats(pipeline.device)
        made = await work
        peaks[stage] = torch.cuda.max_memory_allocated(pipeline.device)
        return made

    audio = await peak("audio", pipeline._generate_audio(wanted, slot))
    image = await peak("image", pipeline._generate_actor(wanted, slot))
    video = await peak("video", pipeline._generate_video(image, audio, slot))
    await peak("clip", pipeline._verify_semantic(video, wanted, slot))
    assert peaks.keys() == set(STAGES)
    return peaks


def matmul_flop_per_s(width: int, device: torch.device) -> float:
    """Return what the device reaches on a product of square bfloat16 matrices."""
    first, second = (torch.randn(width, width, device=device).bfloat16() for _ in range(2))
    first @ second
    with _clock(device) as seconds:
        for _ in range(_MATMULS):
            first @ second
    return _MATMULS * 2 * width**3 / seconds()


@dataclass(frozen=True)
class Variant:
    """A way to run LivePortrait."""

    name: str
    batch: int
    dtype: torch.dtype
    channels_last: bool = True
    compile_mode: str | None = None


def variants(scale: Scale, device: torch.device, *, compiled: bool) -> list[Variant]:
    """Return the variants, each of which adds one thing to those before."""
    largest = scale.variant_batches[-1]
    half = half_type(device)
    listed = [
        Variant("float32, one frame", 1, torch.float32, channels_last=False),
        Variant("the precision of production", 1, half, channels_last=False),
        *(Variant(f"channels last, {n} a batch", n, half) for n in scale.variant_batches),
    ]
    if compiled:
        listed += [
            Variant("torch.compile", largest, half, compile_mode="default"),
            Variant("torch.compile, CUDA graphs", largest, half, compile_mode="reduce-overhead"),
        ]
    return listed


def frames_per_s(variant: Variant, scale: Scale, device: torch.device) -> float:
    """Return how many frames a second a variant renders, once it is warm."""
    model = liveportrait(scale, device, variant.dtype)
    _set_layout(model, torch.channels_last if variant.channels_last else torch.contiguous_format)
    if variant.compile_mode is not None:
        _compile(model, variant.compile_mode)
    side = scale.liveportrait.image_size
    source = model.prepare(torch.rand(1, 3, side, side))
    driving = source.keypoints.expand(scale.variant_frames, -1, -1)

    def render(frames: int) -> None:
        token = CancellationToken()
        for _ in model.render_batches(
            source, driving[:frames], batch_frames=variant.batch, token=token
        ):
            pass

    with torch.inference_mode():
        for _ in range(3):  # what is compiled or captured needs more than one
            render(variant.batch)
        with _clock(device) as seconds:
            render(scale.variant_frames)
    return scale.variant_frames / seconds()


def _set_layout(model: LivePortrait, layout: torch.memory_format) -> None:
    for network in (model._networks.warping, model._networks.generator):
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.ndim == 4:
                tensor.data = tensor.data.contiguous(memory_format=layout)
            elif tensor.ndim == 5:
                wide = layout is torch.channels_last
                in_3d = torch.channels_last_3d if wide else torch.contiguous_format
                tensor.data = tensor.data.contiguous(memory_format=in_3d)


def _compile(model: LivePortrait, mode: str) -> None:
    def compiled(network: nn.Module) -> Any:
        return torch.compile(network, mode=mode, dynamic=False)

    model._networks = dataclasses.replace(
        model._networks,
        warping=compiled(model._networks.warping),
        generator=compiled(model._networks.generator),
    )


@contextmanager
def _clock(device: torch.device) -> Iterator[Callable[[], float]]:
    """Measure the seconds of what is inside, work that the GPU still does included."""

    def now_s() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    started_s = now_s()
    ended_s = started_s
    yield lambda: ended_s - started_s
    ended_s = now_s()
