"""A run as a row of a Markdown table."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.checker import KINDS
from tests.chaos.run import Report

_COLUMNS = (
    *("seed", "ticks", "slot-complete", "deadline-missed", "dead-letter", "handed over"),
    *("faults", "odd ticks"),
    *KINDS,
    *("troubles", "longest until serving"),
)
HEADER = f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}"


def row(report: Report) -> str:
    """Return the run's row."""
    outcomes, longest = report.outcomes, report.longest
    until_serving = (
        f"{longest.seconds:.1f} s, {longest.worker} after {longest.fault.name}" if longest else "-"
    )
    cells = (
        *(report.seed, len(report.seen.ticks)),
        *(outcomes[kind] for kind in ("slot-complete", "deadline-missed", "dead-letter")),
        *(_share(report), _counts(report.faults), _counts(report.odd_ticks)),
        *(len(report.verdict.of(kind)) for kind in KINDS),
        *(len(report.troubles), until_serving),
    )
    return f"| {' | '.join(map(str, cells))} |"


def total(reports: Sequence[Report]) -> str:
    """Return the row that sums up all runs."""
    outcomes = sum((report.outcomes for report in reports), Counter())
    longest = max(
        (report.longest.seconds or 0.0 for report in reports if report.longest), default=0.0
    )
    cells = (
        *("all", sum(len(report.seen.ticks) for report in reports)),
        *(outcomes[kind] for kind in ("slot-complete", "deadline-missed", "dead-letter")),
        _share(*reports),
        _counts(sum((report.faults for report in reports), Counter())),
        _counts(sum((report.odd_ticks for report in reports), Counter())),
        *(sum(len(report.verdict.of(kind)) for report in reports) for kind in KINDS),
        *(sum(len(report.troubles) for report in reports), f"{longest:.1f} s"),
    )
    return f"| {' | '.join(map(str, cells))} |"


def _share(*reports: Report) -> str:
    """Return how many ticks were handed over, and what became of those."""
    hops = sum(len(report.seen.hops) for report in reports)
    ticks = sum(len(report.seen.ticks) for report in reports)
    made = sum(report.made_after_handover for report in reports)
    struck = sum(report.struck_on_their_way for report in reports)
    share = f"{hops} ({hops / max(1, ticks):.1%})"
    return f"{share}, {made} made, {struck} struck on their way" if hops else share


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))


def machine() -> str:
    """Return the machine in words."""
    cpuinfo = Path("/proc/cpuinfo")
    virtual = cpuinfo.exists() and " hypervisor" in cpuinfo.read_text(encoding="utf-8")
    machine = platform.machine().replace("_", "-")
    return f"{os.cpu_count()} {'virtual ' if virtual else ''}{machine} cores"
