"""Policies on the same traces, against what is possible at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean, median

from consumer.planning import Rung
from consumer.simulation.audit import wrongly_given_up
from consumer.simulation.bounds import most_possible, with_predicted_times, with_real_times
from consumer.simulation.machine import Machine, Policy
from consumer.simulation.policies import BLIND, EachAlone, Fetched, FirstInFirstOut, Planned
from consumer.simulation.traces import Traffic
from tests.benchmarks.processes import pool
from vortex.rung import FULL

LADDER = (FULL, Rung("three quarters", 0.75, 0.75), Rung("half", 0.5, 0.5))


def planned() -> Policy:
    return Planned()


def planned_blind() -> Policy:
    return Planned(prior=BLIND)


def planned_with_ladder() -> Policy:
    return Planned(LADDER)


def planned_from_one() -> Policy:
    return Fetched(partitions=1)


def planned_from_eight() -> Policy:
    return Fetched(partitions=8)


def each_alone() -> Policy:
    return EachAlone()


def each_alone_by_partition() -> Policy:
    return EachAlone(partitions=8, queue_limit=64)


def first_in_first_out() -> Policy:
    return FirstInFirstOut()


@dataclass(frozen=True)
class Case:
    """One policy on one trace."""

    policy: Callable[[], Policy]
    traffic: Traffic
    seed: int
    lowest_share: float = 1.0


@dataclass(frozen=True)
class Measured:
    """What came of a case."""

    slots: int
    on_time: int
    possible_predicted: float
    possible: float
    wasted_share: float
    wrong: int
    quality: float
    lead_s: float | None
    late_errors: tuple[float, ...]
    """Absolute relative errors of predictions: started 11th and later after a change of speed."""


@dataclass(frozen=True)
class Share:
    """Cases with one policy and one load, together."""

    cases: tuple[Measured, ...]

    def _sum(self, name: str) -> float:
        return sum(getattr(case, name) for case in self.cases)

    @property
    def of_slots(self) -> float:
        return self._sum("on_time") / self._sum("slots")

    @property
    def of_predicted(self) -> float:
        return self._sum("on_time") / self._sum("possible_predicted")

    @property
    def of_clairvoyant(self) -> float:
        return self._sum("on_time") / self._sum("possible")

    @property
    def wasted(self) -> float:
        return fmean(case.wasted_share for case in self.cases)

    @property
    def wrong(self) -> float:
        return self._sum("wrong") / self._sum("slots")

    @property
    def quality(self) -> float:
        return fmean(case.quality for case in self.cases)

    @property
    def lead_s(self) -> float:
        leads = [case.lead_s for case in self.cases if case.lead_s is not None]
        return median(leads) if leads else float("nan")

    @property
    def error(self) -> float:
        """Median relative error of predictions after a change of speed was learned."""
        errors = [error for case in self.cases for error in case.late_errors]
        return median(errors) if errors else float("nan")


def measure(case: Case) -> Measured:
    """Run one case."""
    trace = case.traffic.trace(case.seed)
    run = Machine(trace, case.policy()).run()
    change = len(trace) // 2
    after = [abs(error) for number, error in run.errors if number >= change]
    qualities = run.on_time.values()
    return Measured(
        slots=len(trace),
        on_time=len(run.on_time),
        possible_predicted=most_possible(with_predicted_times(trace)),
        possible=most_possible(with_real_times(trace, case.lowest_share)),
        wasted_share=run.wasted_share,
        wrong=len(wrongly_given_up(trace, run, case.lowest_share)),
        quality=fmean(qualities) if qualities else float("nan"),
        lead_s=median(run.lead_s) if run.lead_s else None,
        late_errors=tuple(after[10:]),
    )


def shares(cases: Iterable[Case], processes: int) -> dict[tuple[str, Traffic], Share]:
    """Run all cases, and group them by policy and traffic."""
    todo = list(cases)
    with pool(processes) as executor:
        done = executor.map(measure, todo, chunksize=4)
    groups: dict[tuple[str, Traffic], list[Measured]] = {}
    for case, measured in zip(todo, done, strict=True):
        groups.setdefault((case.policy.__name__, case.traffic), []).append(measured)
    return {key: Share(tuple(group)) for key, group in groups.items()}
