"""Measures the production models' memory and speed, with random weights: `make bench-gpu`.

Needs a GPU with room for 11.5 GB, and Kokoro's packages; `--small` runs the same code at a size for
which any CPU will do. Writes `results/<card>.json` and `.md` beside this package.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import platform
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown

from tests.benchmarks.full_size import measure, report
from tests.benchmarks.full_size.scale import FULL, SMALL, Scale
from tests.benchmarks.full_size.stack import build, compute_type
from tests.benchmarks.full_size.work import Work, work_of
from vortex.config import VortexConfig
from vortex.pipeline import BYTES_PER_GB, VortexPipeline
from vortex.utils.vram import MemoryPressureWarning

RESULTS = Path(__file__).parents[1] / "results"
STEPS = 4  # of the packaged configuration


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    scale = SMALL if options.small else FULL
    device = torch.device("cpu" if options.small else "cuda:0")
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; --small measures on the CPU", file=sys.stderr)
        return 3
    warnings.simplefilter("always", MemoryPressureWarning)
    figures = run(
        scale, device, slots=options.slots, batch=options.batch, compiled=options.compiled
    )
    path = report.write(options.results, figures)
    console = Console()
    console.print(Markdown(path.read_text()))
    console.print(f"written to {path}", highlight=False, soft_wrap=True)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.full_size")
    parser.add_argument("--small", action="store_true", help="at a small size, on the CPU")
    parser.add_argument("--slots", type=int, default=20, help="slots to time")
    parser.add_argument("--batch", type=int, help="frames rendered together; default: config.yaml")
    parser.add_argument(
        "--compiled", action="store_true", help="also try torch.compile and CUDA graphs (minutes)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write")
    return parser.parse_args(arguments)


def run(
    scale: Scale, device: torch.device, *, slots: int, batch: int | None, compiled: bool
) -> dict[str, Any]:
    """Build the stack, make slots with it, then try LivePortrait's variants."""
    config = configuration(scale, batch)
    rate = measure.matmul_flop_per_s(scale.matmul_width, device)
    started_s = time.monotonic()
    models = build(scale, device)
    pipeline = VortexPipeline(config=config, device=str(device), models=models)
    load_s = time.monotonic() - started_s
    held = models.held_bytes()
    peaks = {"after loading": allocated(device)}
    asyncio.run(measure.make_slots(pipeline, scale, 1))  # warms up
    peaks |= asyncio.run(measure.stage_peaks(pipeline, scale))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    made = asyncio.run(measure.make_slots(pipeline, scale, slots))
    peaks["whole slots"] = allocated(device, peak=True)
    pipeline.close()
    del pipeline, models
    gc.collect()
    frames = config.buffers.video_batch_frames
    batches = tuple(sorted({*scale.variant_batches, frames}))
    dtype = compute_type(device)
    work = work_of(scale, torch.bfloat16 if dtype == torch.float32 else dtype, batches)
    return {
        "scale": scale.name,
        "date": datetime.now(UTC).date().isoformat(),
        "slots": slots,
        "slot": f"{scale.duration_s:g} s at {scale.fps} fps, {scale.size}x{scale.size},"
        f" {STEPS} steps, {frames} frames a batch",
        "machine": machine(device) | {"matmul_tflop_per_s": rate / 1e12},
        "load_s": load_s,
        "memory": {
            "held_bytes": held,
            "peak_bytes": peaks,
            "limit_bytes": int(config.vram.hard_limit_gb * BYTES_PER_GB),
        },
        "stage_ms": {name: measure.summary(times) for name, times in made.stage_ms.items()},
        "loop_late_ms": measure.summary(made.late_ms),
        "overlap": measure.summary(made.overlap),
        "work": {name: vars(each) for name, each in work.items()},
        "share": shares(scale, work, made, rate),
        "variants": compare_variants(scale, device, compiled=compiled),
    }


def configuration(scale: Scale, batch: int | None) -> VortexConfig:
    """Return what a worker of profile production runs with; at another scale, but for sizes."""
    config = VortexConfig.load(profile="production")
    pipeline = config.pipeline
    if scale is not FULL:
        pipeline = pipeline.model_copy(update={"image_size": scale.size})
    buffers = config.buffers
    if batch is not None:
        buffers = buffers.model_copy(update={"video_batch_frames": batch})
    return config.model_copy(update={"pipeline": pipeline, "buffers": buffers})


def machine(device: torch.device) -> dict[str, Any]:
    """Return the card, its driver and torch's version."""
    if device.type != "cuda":
        return {"card": f"cpu {platform.machine()}", "driver": "none", "torch": torch.__version__}
    return {
        "card": torch.cuda.get_device_name(device),
        "driver": driver_version(),
        "torch": torch.__version__,
        "total_bytes": torch.cuda.get_device_properties(device).total_memory,
    }


def driver_version() -> str:
    """Return the version that the kernel's module tells."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return "unknown"
    return next((word for word in words if word.count(".") and word[0].isdigit()), "unknown")


def allocated(device: torch.device, *, peak: bool = False) -> int:
    """Return the bytes of tensors on the GPU, now or at most; 0 without one."""
    if device.type != "cuda":
        return 0
    read = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
    return int(read(device))


def shares(
    scale: Scale, work: dict[str, Work], made: measure.Slots, rate: float
) -> dict[str, float]:
    """Return the share of the matrix rate that portrait and video reach over a median stage."""
    image_s, video_s = (
        measure.summary(made.stage_ms[stage])["median"] / 1000 for stage in ("image_ms", "video_ms")
    )
    per_frame = work["liveportrait, 1 frames"].flop
    frames = round(scale.duration_s * scale.fps)
    return {
        "transformer": STEPS * work["transformer"].flop / image_s / rate,
        "liveportrait, 1 frames": frames * per_frame / video_s / rate,
    }


def compare_variants(scale: Scale, device: torch.device, *, compiled: bool) -> dict[str, str]:
    """Return each variant's frames a second, or why it failed."""
    found = {}
    for variant in measure.variants(scale, device, compiled=compiled):
        try:
            found[variant.name] = f"{measure.frames_per_s(variant, scale, device):.2f}"
        except Exception as error:  # the others are still worth measuring
            found[variant.name] = (
                f"failed: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
            )
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


if __name__ == "__main__":
    sys.exit(main())
