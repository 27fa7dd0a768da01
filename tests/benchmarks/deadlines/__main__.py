"""How many slots are on time under load, against other rules and the optimum.

`make bench-deadlines`. All policies get the same traces in one run. Writes the table and the plot
that the README shows, and fails if a figure is out of its bound.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.benchmarks.deadlines.cost import measure_cost
from tests.benchmarks.deadlines.measure import shares
from tests.benchmarks.deadlines.plot import plot
from tests.benchmarks.deadlines.report import missed_bounds, report
from tests.benchmarks.deadlines.scenarios import cases

OUTPUT = Path(__file__).parents[3] / "docs"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=24)
    arguments.add_argument("--output", type=Path, default=OUTPUT)
    settings = arguments.parse_args()
    measured = shares(cases(settings.seeds), processes=os.cpu_count() or 1)
    cost = measure_cost()
    text = report(measured, cost, settings.seeds)
    print(text)
    settings.output.mkdir(parents=True, exist_ok=True)
    (settings.output / "deadlines.md").write_text(text, encoding="utf-8")
    plot(measured, cost, settings.output / "deadlines.svg")
    missed = missed_bounds(measured, cost)
    for line in missed:
        print("out of its bound:", line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
