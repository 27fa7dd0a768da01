from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.fleet.cost import Cost
from tests.benchmarks.fleet.measure import Measured, measured
from tests.benchmarks.fleet.report import missed_bounds, report
from tests.benchmarks.fleet.scenarios import Case, Scenario, cases

SMALL = Case(Scenario(2, 0.9), slots=30, seed=0)
RESULT = Measured(100, 90, 99, 100, 20, 19, 800, 1000, 0.1)


def soon() -> float:
    return time.monotonic() + 60.0


def test_case_that_is_kept_is_not_measured_again(tmp_path: Path) -> None:
    keep = tmp_path / "kept.jsonl"
    first = measured([SMALL], keep, processes=1, end_s=soon())
    assert first[SMALL].slots == 30
    assert first[SMALL].decisions > 0
    again = measured([SMALL], keep, processes=1, end_s=time.monotonic())
    assert again == first


def test_no_case_begins_after_the_end() -> None:
    assert measured([SMALL], None, processes=1, end_s=time.monotonic() - 1) == {}


def test_report_has_the_shares_of_all_slots_of_a_scenario() -> None:
    scenario = Scenario(8, 0.9)
    found = {
        Case(scenario, 100, 0): RESULT,
        Case(scenario, 100, 1): replace(RESULT, on_time=91, handed_over=0, handed_over_on_time=0),
    }
    text = report(found, {8: Cost(10.0, 12.0)})
    row = "| 8 | 0.9 | 2 | 0.900 | **0.950** | 1.000 | 10.0% | 95.0% | 8.0 | 100 |"
    assert row in text.splitlines()


def test_share_below_its_bound_is_told() -> None:
    found = dict.fromkeys(cases(), RESULT)
    assert [line for line in missed_bounds(found) if "load=0.7" in line]
    assert not missed_bounds({case: replace(RESULT, on_time=100) for case in found})
