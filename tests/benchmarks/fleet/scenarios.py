"""What is measured: fleets of three sizes, at loads up to more than they can serve."""

from __future__ import annotations

from dataclasses import dataclass

SKEW = 1.9


@dataclass(frozen=True, order=True)
class Scenario:
    """A fleet, with one partition for each worker, and its traffic."""

    workers: int
    load: float
    """Of each worker."""
    busier: float = 1.0


@dataclass(frozen=True, order=True)
class Case:
    """One trace."""

    scenario: Scenario
    slots: int
    seed: int


_MIXES = ((0.7, 1.0), (0.9, 1.0), (0.9, SKEW), (1.0, 1.0), (1.2, 1.0))
_SLOTS_A_WORKER = {8: 75, 32: 60, 1000: 20}
SEEDS = {8: 24, 32: 24, 1000: 1}
SCENARIOS = [
    *(Scenario(workers, load, busier) for workers in (8, 32) for load, busier in _MIXES),
    Scenario(1000, 0.9),
]
LEAST_ON_TIME = {
    Scenario(8, 0.7): 0.996,
    Scenario(8, 0.9): 0.984,
    Scenario(8, 0.9, SKEW): 0.986,
    Scenario(32, 0.9): 0.992,
    Scenario(32, 1.0): 0.983,
    Scenario(32, 1.2): 0.879,
    Scenario(1000, 0.9): 0.992,
}


def cases() -> list[Case]:
    """Return all cases, the longest first."""
    return [
        Case(scenario, scenario.workers * _SLOTS_A_WORKER[scenario.workers], seed)
        for scenario in sorted(SCENARIOS, reverse=True)
        for seed in range(SEEDS[scenario.workers])
    ]
