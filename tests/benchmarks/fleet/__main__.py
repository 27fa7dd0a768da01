"""How many slots a fleet has on time: bound to its partitions, and handing slots over.

`make bench-fleet`, with production code on a virtual clock. Writes the tables of docs/handover.md,
and fails if a figure is out of its bound. It takes about half an hour on two cores; with
`--keep FILE` it goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

from tests.benchmarks.fleet.cost import measure_cost
from tests.benchmarks.fleet.measure import measured
from tests.benchmarks.fleet.report import missed_bounds, report
from tests.benchmarks.fleet.scenarios import cases

PAGE = Path(__file__).parents[3] / "docs" / "handover.md"
BEGIN, END = "<!-- make bench-fleet -->\n", "<!-- end -->\n"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--keep", type=Path, help="file of cases that are measured")
    arguments.add_argument("--minutes", type=float, default=60.0, help="begin no case after these")
    settings = arguments.parse_args()
    end_s = time.monotonic() + 60 * settings.minutes
    todo = cases()
    found = measured(todo, settings.keep, processes=os.cpu_count() or 1, end_s=end_s)
    if len(found) < len(todo):
        print(f"{len(found)} of {len(todo)} cases are measured")
        return 1
    text = report(found, measure_cost())
    print(text)
    page = PAGE.read_text(encoding="utf-8")
    within = re.compile(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", re.S)
    PAGE.write_text(within.sub(lambda _: text, page), encoding="utf-8")
    missed = missed_bounds(found)
    for line in missed:
        print("out of its bound:", line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
