"""What we add to the work itself, as ratios: `make bench`.

Each figure is taken beside what it is compared with, in turns, in one run, since machines differ
and are shared. Prints medians, and fails if a ratio is out of its bound.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys

from rich.console import Console
from rich.table import Table

from tests.benchmarks.outcomes_per_second import measure_throughput
from tests.benchmarks.scheduler_overhead import measure_scheduler
from tests.benchmarks.side_by_side import Comparison

HIGHEST_SCHEDULER_RATIO = 1.01
LOWEST_THROUGHPUT_RATIO = 0.8


def main() -> int:
    scheduler = asyncio.run(measure_scheduler())
    throughput, unbounded = measure_throughput()
    table = Table("what", "ours", "bare", "ratio", "from", "to", "bound", box=None)
    add_row(table, "ms a slot", scheduler, f"<= {HIGHEST_SCHEDULER_RATIO}")
    add_row(table, "outcomes/s", throughput, f">= {LOWEST_THROUGHPUT_RATIO}")
    add_row(table, "  all in one", unbounded, "")
    console = Console()
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )

    console.print(table)
    kept = (
        scheduler.ratio <= HIGHEST_SCHEDULER_RATIO and throughput.ratio >= LOWEST_THROUGHPUT_RATIO
    )
    return 0 if kept else 1


def add_row(table: Table, what: str, compared: Comparison, bound: str) -> None:
    table.add_row(
        what,
        f"{compared.ours:.1f}",
        f"{compared.bare:.1f}",
        f"{compared.ratio:.4f}",
        f"{min(compared.ratios):.4f}",
        f"{max(compared.ratios):.4f}",
        bound,
    )


if __name__ == "__main__":
    sys.exit(main())
