"""How long a slot of the profile `mini` takes, and which stage the time goes to: `make bench-slot`.

Six seconds at 12 frames a second and 128x128, from the tick's recipe to the stored MP4, without a
GPU. Prints medians, and fails if they come to more than the bound.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from statistics import median

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from consumer.config import WorkerConfig
from consumer.demo.recipes import our_ticks
from consumer.demo.voices import installed_voices
from consumer.engine.base import SlotMade, SlotRequest
from consumer.engine.inline import InlineEngine
from consumer.job import TickKey
from vortex.models.mini import build_mini

SLOTS = 8
LONGEST_S = 20.0
_STAGES = ("audio", "image", "video", "clip", "encode", "store")
_BESIDE = "image"  # runs beside audio, which takes longer


def main() -> int:
    with tempfile.TemporaryDirectory() as artifacts:
        os.environ["VORTEX__ARTIFACTS__URL"] = artifacts
        os.environ["VORTEX__DEVICE__NAME"] = "cpu"
        times_ms, totals_s = asyncio.run(_measure(WorkerConfig.load()))
    total_s = median(totals_s)
    console = Console(width=76)
    console.print(
        f"A slot of 6 s on {os.cpu_count()} cores ({platform.machine()}, no GPU), median of"
        f" {SLOTS}: {total_s:.1f} s, bound {LONGEST_S:.0f} s",
        highlight=False,
    )
    console.print(_picture(times_ms))
    return 0 if total_s <= LONGEST_S else 1


async def _measure(config: WorkerConfig) -> tuple[Mapping[str, float], list[float]]:
    """Return the median milliseconds of each stage, and the seconds of all slots."""
    directory = config.models.profile_directory
    build_mini(directory)
    engine = InlineEngine(config)
    await engine.start()
    recipes = [tick.recipe for tick in our_ticks(installed_voices(directory)) if tick.recipe]
    made, totals_s = [], []
    try:
        for number in range(SLOTS):
            recipe = recipes[number % 4]
            started = time.monotonic()
            result = await engine.run(
                SlotRequest(
                    key=TickKey("bench", 0, number),
                    slot_id=number,
                    channel="bench",
                    recipe=recipe,
                    seed=number,
                    deadline_s=started + 120.0,
                )
            )
            totals_s.append(time.monotonic() - started)
            if not isinstance(result, SlotMade):
                sys.exit(f"slot {number} was not made: {result.reason}: {result.detail}")
            made.append(result.times_ms)
    finally:
        await engine.stop()
    return {s: median(times[f"{s}_ms"] for times in made) for s in _STAGES}, totals_s


def _picture(times_ms: Mapping[str, float]) -> Table:
    longest = max(times_ms.values())
    table = Table(box=None, show_header=False)
    for stage, milliseconds in times_ms.items():
        name = f"{stage} (in parallel with audio)" if stage == _BESIDE else stage
        bar = ProgressBar(total=longest, completed=milliseconds, width=40)
        table.add_row(name, f"{milliseconds:.0f} ms", bar)
    return table


if __name__ == "__main__":
    sys.exit(main())
