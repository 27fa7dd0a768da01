"""What was measured, as JSON for programs and as a table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(directory: Path, figures: Mapping[str, Any]) -> Path:
    """Write `<card>.json` and `<card>.md`; return the table's path."""
    directory.mkdir(parents=True, exist_ok=True)
    words = "".join(c if c.isalnum() else "-" for c in figures["machine"]["card"].lower())
    stem = "-".join(word for word in words.split("-") if word)
    (directory / f"{stem}.json").write_text(json.dumps(figures, indent=2) + "\n")
    path = directory / f"{stem}.md"
    path.write_text(table(figures))
    return path


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures in Markdown."""
    machine, memory = figures["machine"], figures["memory"]
    lines = [
        f"# {machine['card']}, models of {figures['scale']} size",
        "",
        f"Driver {machine['driver']}, torch {machine['torch']}, {figures['date']}. Weights are"
        f" random; {figures['slots']} slots of {figures['slot']}. bfloat16 matrix products reach"
        f" {machine['matmul_tflop_per_s']:.1f} TFLOP/s. Built in {figures['load_s']:.0f} s.",
        "",
        "## Memory",
        "",
        "| part | GB |",
        "| --- | ---: |",
        *(f"| {part} | {gb(held)} |" for part, held in memory["held_bytes"].items()),
        f"| all parts | {gb(sum(memory['held_bytes'].values()))} |",
        *(f"| peak, {name} | {gb(peak)} |" for name, peak in memory["peak_bytes"].items()),
        f"| limit | {gb(memory['limit_bytes'])} |",
        "",
        "## Time of a slot, ms",
        "",
        "| stage | median | p99 | worst |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {name.removesuffix('_ms')} | {time['median']:.1f} | {time['p99']:.1f} |"
            f" {time['worst']:.1f} |"
            for name, time in figures["stage_ms"].items()
        ),
        f"| event loop late | {figures['loop_late_ms']['median']:.1f} |"
        f" {figures['loop_late_ms']['p99']:.1f} | {figures['loop_late_ms']['worst']:.1f} |",
        "",
        f"Of the shorter of speech and portrait, {figures['overlap']['median']:.0%} ran beside the"
        " longer (median).",
        "",
        "## Work",
        "",
        "Counted without computing. The share is of the matrix rate above, over a stage's median.",
        "",
        "| what | TFLOP | activations, GB | share |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {name} | {work['flop'] / 1e12:.4g} | {gb(work['peak_bytes'])} |"
            f" {share(figures['share'].get(name))} |"
            for name, work in figures["work"].items()
        ),
        "",
        "## LivePortrait, step by step",
        "",
        "| variant | frames/s |",
        "| --- | ---: |",
        *(f"| {name} | {rate} |" for name, rate in figures["variants"].items()),
        "",
    ]
    return "\n".join(lines)


def gb(count: float) -> str:
    return f"{count / 1e9:.3f}"


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
