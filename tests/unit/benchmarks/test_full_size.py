"""The measurement of the production models, at a size that a CPU runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.benchmarks.full_size.__main__ import configuration, main
from tests.benchmarks.full_size.scale import FULL, SMALL
from tests.benchmarks.full_size.stack import build
from tests.benchmarks.full_size.work import count, frames_work
from vortex.config import VortexConfig
from vortex.models.footprint import held_bytes
from vortex.models.nf4 import Nf4Linear


def test_small_measurement_fills_every_figure(tmp_path: Path) -> None:
    assert main(["--small", "--slots", "1", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("cpu-*.json")
    figures = json.loads(path.read_text())
    held = figures["memory"]["held_bytes"]
    assert {"flux.transformer", "flux.t5", "clip.l", "animator.generator"} <= held.keys()
    assert min(held.values()) > 0
    assert figures["stage_ms"].keys() == {
        "audio_ms", "image_ms", "video_ms", "clip_ms", "total_ms",
    }  # fmt: skip
    assert all(0 < time["median"] <= time["p99"] for time in figures["stage_ms"].values())
    assert 0 <= figures["overlap"]["median"] <= 1
    assert all(work["flop"] > 0 and work["peak_bytes"] > 0 for work in figures["work"].values())
    assert all(share > 0 for share in figures["share"].values())
    assert all(float(rate) > 0 for rate in figures["variants"].values())
    table = path.with_suffix(".md").read_text()
    assert "| flux.transformer |" in table
    assert "None" not in table


def test_random_stack_is_quantised_as_production_is_and_shares_what_is_shared() -> None:
    parts = build(SMALL, torch.device("cpu")).flux.parts
    linears = [m for m in parts["transformer"].modules() if isinstance(m, torch.nn.Linear)]
    assert all(type(linear) is Nf4Linear for linear in linears)
    assert any(isinstance(m, Nf4Linear) for m in parts["t5"].modules())
    table_bytes = 4 * SMALL.t5["vocab_size"] * SMALL.t5["d_model"]
    assert table_bytes < held_bytes(parts["t5"]) < 1.1 * table_bytes
    assert not any(tensor.is_meta for part in parts.values() for tensor in part.parameters())


def test_work_is_counted_without_memory() -> None:
    with torch.device("meta"):
        first, second = torch.empty(1000, 3000), torch.empty(3000, 2000)
    work = count(lambda: (first @ second).relu())
    assert work.flop == 2 * 1000 * 3000 * 2000
    assert work.peak_bytes == 2 * 4 * 1000 * 2000
    assert work.traffic_bytes == 4 * (1000 * 3000 + 3000 * 2000 + 3 * 1000 * 2000)


def test_frames_of_the_published_size_cost_no_more_than_is_on_record() -> None:
    """As published, a frame is 1.234 TFLOP and 3.92 GB to move.

    Channels of zeros, for a GPU's matrix units, are 0.017 and 0.06 of what it is now.
    """
    (work,) = frames_work(FULL, torch.bfloat16, (4,)).values()
    assert work.flop / 4 <= 1.15e12
    assert work.traffic_bytes / 4 <= 3.23e9
    assert work.peak_bytes <= 0.82e9


def test_full_size_measures_what_a_worker_of_production_runs_with() -> None:
    worker = VortexConfig.load(profile="production")
    assert configuration(FULL, batch=None) == worker
    assert worker.pipeline.image_size == FULL.size == 512
