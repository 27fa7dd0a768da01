"""The tables, and which figures are out of their bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from consumer.simulation.traces import MEAN_S
from tests.benchmarks.fleet.cost import Cost
from tests.benchmarks.fleet.measure import Measured
from tests.benchmarks.fleet.scenarios import LEAST_ON_TIME, SCENARIOS, Case, Scenario


def report(found: Mapping[Case, Measured], cost: Mapping[int, Cost]) -> str:
    """Return the tables in Markdown, of the scenarios that were measured."""
    return "\n".join(_report(found, cost)) + "\n"


def _report(found: Mapping[Case, Measured], cost: Mapping[int, Cost]) -> Iterator[str]:
    yield (
        "| workers | load | seeds | on time, bound | on time, handed over | one shared queue, EDF"
        " | moved | of these on time | announcements a slot | a decision, µs |"
    )
    yield "|---:|---|" + "---:|" * 8
    for scenario in SCENARIOS:
        some = _of(found, scenario)
        if not some:
            continue
        slots, moved = _sum(some, "slots"), _sum(some, "handed_over")
        load = f"{scenario.load:g}"
        if scenario.busier != 1:
            load += f", half the partitions {scenario.busier:g} times as busy"
        cells = (
            str(scenario.workers),
            load,
            str(len(some)),
            f"{_sum(some, 'on_time_bound') / slots:.3f}",
            f"**{_sum(some, 'on_time') / slots:.3f}**",
            f"{_sum(some, 'on_time_one_queue') / slots:.3f}",
            f"{moved / slots:.1%}",
            f"{_sum(some, 'handed_over_on_time') / moved:.1%}" if moved else "",
            f"{_sum(some, 'announced') / slots:.1f}",
            f"{1e6 * _sum(some, 'decisions_s') / _sum(some, 'decisions'):.0f}",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "| workers | choose a receiver, µs | take in an announcement, µs | of a core, to hear all |"
    )
    yield "|---:|---:|---:|---:|"
    for size, each in cost.items():
        some = _of(found, Scenario(size, 0.9))
        heard = ""
        if some:
            a_slot = _sum(some, "announced") / _sum(some, "slots")
            heard = f"{size * 0.9 / MEAN_S * a_slot * each.hear_us / 1e6:.2%}"
        yield f"| {size:,} | {each.choose_us:.0f} | {each.hear_us:.0f} | {heard} |"


def missed_bounds(found: Mapping[Case, Measured]) -> list[str]:
    """Return the shares that are below what issue 15 asks for."""
    missed = []
    for scenario, least in LEAST_ON_TIME.items():
        some = _of(found, scenario)
        if not some:
            continue
        share = _sum(some, "on_time") / _sum(some, "slots")
        if share < least:
            missed.append(f"{scenario}: {share:.4f} on time, least is {least}")
    return missed


def _of(found: Mapping[Case, Measured], scenario: Scenario) -> list[Measured]:
    return [each for case, each in found.items() if case.scenario == scenario]


def _sum(some: Iterable[Measured], name: str) -> float:
    return sum(getattr(each, name) for each in some)
