"""`python -m tests.chaos --seed 7 --minutes 2`, or `--seeds 1-20` for a table of many runs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.report import HEADER, machine, row, total
from tests.chaos.run import NODES, Report, run_chaos

RESULTS = Path(__file__).with_name("results")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, default=1, help="decides ticks and faults")
    which.add_argument("--seeds", type=_range, help="FIRST-LAST; writes a table to results/")
    parser.add_argument("--table", help="name of that table; by default after the seeds")
    parser.add_argument("--minutes", type=float, default=2.0, help="for which faults go on")
    parser.add_argument("--workers", type=int, default=3, help="worker processes")
    parser.add_argument(
        "--handover",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether workers hand ticks over, of which some come in bursts then",
    )
    parser.add_argument("--quiet", action="store_true", help="no faults: what workers do in peace")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the harness's own clients are struck

    seeds: range = options.seeds or range(options.seed, options.seed + 1)
    reports: list[Report] = []
    for seed in seeds:
        report = asyncio.run(
            run_chaos(
                seed,
                options.minutes,
                options.workers,
                _tell,
                handover=options.handover,
                quiet=options.quiet,
            )
        )
        reports.append(report)
        if not report.passed:
            print(report.story(), file=sys.stderr, flush=True)
        print(HEADER, row(report), sep="\n", flush=True)
        if options.seeds:
            path = RESULTS / f"{options.table or f'seeds-{seeds[0]}-{seeds[-1]}'}.md"
            path.write_text(_page(reports, options.minutes, options.workers), encoding="utf-8")
    return 0 if all(report.passed for report in reports) else 1


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _page(reports: list[Report], minutes: float, workers: int) -> str:
    intro = (
        f"{minutes:g} minutes of faults for each seed, {workers} workers, {NODES} brokers,"
        f" on {machine()}, {datetime.now(UTC):%Y-%m-%d}."
    )
    rows = [row(report) for report in reports]
    return "\n".join(["# Chaos", "", intro, "", HEADER, *rows, total(reports), ""])


if __name__ == "__main__":
    sys.exit(main())
