"""Serves the traces of all cases, in several processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

from consumer.dispatcher import Dispatcher
from consumer.simulation.fleet import Fleet, serve_fleet, serve_from_one_queue
from consumer.simulation.traces import Traffic
from tests.benchmarks.fleet.scenarios import Case, Scenario
from tests.benchmarks.processes import pool


@dataclass(frozen=True)
class Measured:
    """What came of a case."""

    slots: int
    on_time_bound: int
    on_time: int
    on_time_one_queue: int
    handed_over: int
    handed_over_on_time: int
    announced: int
    decisions: int
    decisions_s: float
    """CPU seconds of planning and offering, in all workers."""


def measure(case: Case) -> Measured:
    """Run one case."""
    scenario, workers = case.scenario, case.scenario.workers
    trace = Traffic(scenario.load * workers, slots=case.slots).trace(case.seed)
    fleet = Fleet(workers, workers, busier=scenario.busier)
    bound = serve_fleet(
        trace, Fleet(workers, workers, handover=False, busier=scenario.busier), case.seed
    )
    with timed_decisions() as spent_s:
        run = serve_fleet(trace, fleet, case.seed)
    return Measured(
        slots=run.slots,
        on_time_bound=bound.on_time,
        on_time=run.on_time,
        on_time_one_queue=serve_from_one_queue(trace, workers).on_time,
        handed_over=run.handed_over,
        handed_over_on_time=run.handed_over_on_time,
        announced=run.announced,
        decisions=len(spent_s),
        decisions_s=sum(spent_s),
    )


@contextmanager
def timed_decisions() -> Iterator[list[float]]:
    """Give the CPU seconds of each decision of a dispatcher, once it is made."""
    decide: Callable[[Dispatcher], float] = Dispatcher._follow_plan
    spent_s: list[float] = []

    def timed(dispatcher: Dispatcher) -> float:
        began_s = time.thread_time()
        look_s = decide(dispatcher)
        spent_s.append(time.thread_time() - began_s)
        return look_s

    with patch.object(Dispatcher, "_follow_plan", timed):
        yield spent_s


def measured(
    todo: Sequence[Case], keep: Path | None, *, processes: int, end_s: float
) -> dict[Case, Measured]:
    """Return what came of the cases, as far as they were begun before a monotonic second.

    Args:
        todo: the cases.
        keep: holds those that were measured before, and gets the others; None keeps nothing.
        processes: that work at a time.
        end_s: after which no case begins.
    """
    found = dict(_kept(keep)) if keep is not None and keep.exists() else {}
    left = [case for case in todo if case not in found]
    with pool(processes) as executor:
        while left and time.monotonic() < end_s:
            batch, left = left[: 2 * processes], left[2 * processes :]
            for case, result in zip(batch, executor.map(measure, batch), strict=True):
                found[case] = result
                if keep is not None:
                    with keep.open("a", encoding="utf-8") as file:
                        file.write(json.dumps([asdict(case), asdict(result)]) + "\n")
    return {case: found[case] for case in todo if case in found}


def _kept(path: Path) -> Iterator[tuple[Case, Measured]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        case, result = json.loads(line)
        case["scenario"] = Scenario(**case["scenario"])
        yield Case(**case), Measured(**result)
