"""What is measured: the reference trace at seven loads, and its harder relatives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from consumer.simulation.traces import Traffic
from tests.benchmarks.deadlines.measure import (
    Case,
    each_alone,
    each_alone_by_partition,
    first_in_first_out,
    planned,
    planned_blind,
    planned_from_eight,
    planned_from_one,
    planned_with_ladder,
)

LOADS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 4.0)
SCENARIOS = {
    "reference": Traffic(1.0),
    "bursts of 10": Traffic(1.0, burst=10),
    "times double half way": Traffic(1.0, slower_from_half=2.0),
    "deadlines of 20 to 90 s": Traffic(1.0, slack_s=(20.0, 90.0)),
}
BACKLOGS = {count: Traffic(0.9, slots=count, backlog=True) for count in (1500, 5000)}
LOWEST_SHARE = 0.5
# The bound for deadlines that are not agreeable takes a second a trace.
MOST_SEEDS_OF_MIXED = 8


def cases(seeds: int) -> Iterator[Case]:
    """Yield all cases."""
    for name, scenario in SCENARIOS.items():
        count = min(seeds, MOST_SEEDS_OF_MIXED) if name.startswith("deadlines") else seeds
        for load in LOADS:
            traffic = replace(scenario, load=load)
            for seed in range(count):
                yield Case(planned, traffic, seed)
                yield Case(each_alone, traffic, seed)
                if name == "reference":
                    yield Case(first_in_first_out, traffic, seed)
                    yield Case(planned_with_ladder, traffic, seed, LOWEST_SHARE)
                    yield Case(planned_blind, traffic, seed)
    for traffic in BACKLOGS.values():
        for seed in range(min(seeds, 3)):
            yield Case(planned, traffic, seed)
            yield Case(planned_from_one, traffic, seed)
            yield Case(planned_from_eight, traffic, seed)
            yield Case(each_alone_by_partition, traffic, seed)
