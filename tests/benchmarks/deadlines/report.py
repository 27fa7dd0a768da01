"""The tables, and which figures are out of their bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from consumer.simulation.traces import Traffic
from tests.benchmarks.deadlines.measure import Share
from tests.benchmarks.deadlines.scenarios import BACKLOGS, LOADS, SCENARIOS

Shares = Mapping[tuple[str, Traffic], Share]

OF_PREDICTED = dict(zip(LOADS, (0.997, 0.992, 0.989, 0.985, 0.985, 0.986, 0.989), strict=True))
OF_CLAIRVOYANT = dict(zip(LOADS, (0.997, 0.992, 0.987, 0.981, 0.977, 0.974, 0.970), strict=True))
WITH_LADDER = {0.5: 0.995, 0.8: 0.995, 1.0: 0.995, 1.2: 0.995, 1.5: 0.985}
LADDER_OF_CLAIRVOYANT = 0.97
MOST_WASTED = 0.01
MOST_WRONG = 0.01
DRIFT, BURSTS, BACKLOG = 0.96, 0.99, 0.99
MOST_COST_US = {1000: 100.0, 10_000: 1000.0}

_POLICIES = {
    "ours": "planned",
    "ours, knowing nothing at the start": "planned_blind",
    "each slot alone": "each_alone",
    "first in, first out": "first_in_first_out",
}


def report(shares: Shares, cost_us: Mapping[int, float], seeds: int) -> str:
    """Return the tables in Markdown."""
    return "\n".join(_report(shares, cost_us, seeds)) + "\n"


def _report(shares: Shares, cost_us: Mapping[int, float], seeds: int) -> Iterator[str]:
    yield "# Deadlines under load"
    yield ""
    yield (
        "`make bench-deadlines`, on simulated slots: Poisson arrivals, 12 s a slot, log-normal with"
        " a spread of 0.25 that the recipe predicts and 0.1 that nothing does, a parallel phase of"
        f" 25 percent, a deadline 45 s after arrival, 600 slots, {seeds} seeds. All rules get the"
        " same traces and learn their estimates on the way. The optimum on predicted times knows"
        " all arrivals, and of each slot its expected time; the clairvoyant one knows all."
    )
    for name, scenario in SCENARIOS.items():
        yield from _heading(f"{name[0].upper()}{name[1:]}", "load", (f"{load:g}" for load in LOADS))
        yield from _scenario(name, scenario, shares)
    yield from _heading("With a ladder down to half the work", "load", (f"{x:g}" for x in LOADS))
    ladder = [shares["planned_with_ladder", replace(SCENARIOS["reference"], load=x)] for x in LOADS]
    yield _row("on time, of all slots", (f"{one.of_slots:.3f}" for one in ladder))
    yield _row(
        "of the clairvoyant optimum at half", (f"{one.of_clairvoyant:.3f}" for one in ladder)
    )
    yield _row("mean quality", (f"{one.quality:.2f}" for one in ladder))
    yield _row("work wasted", (f"{one.wasted:.2%}" for one in ladder))
    yield from _heading("Backlogs at load 0.9", "slots", (str(count) for count in BACKLOGS))
    for label, policy in (
        ("ours", "planned"),
        ("ours, 64 fetched from 1 partition", "planned_from_one"),
        ("ours, 64 fetched from 8 partitions", "planned_from_eight"),
        ("each slot alone, 64 fetched from one of 8 partitions", "each_alone_by_partition"),
    ):
        row = (shares[policy, traffic].of_predicted for traffic in BACKLOGS.values())
        yield _row(f"{label}, of the optimum", (f"{share:.3f}" for share in row))
    yield from _heading("Cost of a decision", "slots waiting", (f"{count:,}" for count in cost_us))
    yield _row(
        "CPU microseconds, mean, least of 5 runs", (f"{one:.0f}" for one in cost_us.values())
    )


def _scenario(name: str, scenario: Traffic, shares: Shares) -> Iterator[str]:
    bound = "a bound on the optimum" if name.startswith("deadlines") else "the optimum"
    for label, policy in _POLICIES.items():
        row = [shares.get((policy, replace(scenario, load=load))) for load in LOADS]
        found = [one for one in row if one is not None]
        if not found:
            continue
        of = f"{label}, of {bound} on predicted times"
        yield _row(of, (f"{one.of_predicted:.3f}" for one in found))
        if policy == "planned":
            yield from _details(label, bound, found, drifts=scenario.slower_from_half > 1)


def _details(label: str, bound: str, found: list[Share], *, drifts: bool) -> Iterator[str]:
    clairvoyant = bound.replace("optimum", "clairvoyant optimum")
    yield _row(f"{label}, of {clairvoyant}", (f"{one.of_clairvoyant:.3f}" for one in found))
    yield _row(f"{label}, on time of all slots", (f"{one.of_slots:.3f}" for one in found))
    yield _row(f"{label}, work wasted", (f"{one.wasted:.2%}" for one in found))
    yield _row(f"{label}, wrongly given up", (f"{one.wrong:.2%}" for one in found))
    yield _row(
        f"{label}, median lead of what is given up, s", (f"{one.lead_s:.0f}" for one in found)
    )
    if drifts:
        text = f"{label}, median error of predictions after 10 slots"
        yield _row(text, (f"{one.error:.1%}" for one in found))


def missed_bounds(shares: Shares, cost_us: Mapping[int, float]) -> list[str]:
    """Return in words each figure that is out of its bound."""
    return [
        f"{what}: {value:.4f}, bound {'>=' if at_least else '<='} {bound:g}"
        for what, value, bound, at_least in _figures(shares, cost_us)
        if not (value >= bound if at_least else value <= bound)
    ]


def _figures(
    shares: Shares, cost_us: Mapping[int, float]
) -> Iterator[tuple[str, float, float, bool]]:
    def ours(name: str, load: float, policy: str = "planned") -> Share:
        return shares[policy, replace(SCENARIOS[name], load=load)]

    for load in LOADS:
        share = ours("reference", load)
        yield f"load {load:g}, of predicted", share.of_predicted, OF_PREDICTED[load], True
        yield f"load {load:g}, of clairvoyant", share.of_clairvoyant, OF_CLAIRVOYANT[load], True
        yield f"load {load:g}, wasted", share.wasted, MOST_WASTED, False
        yield f"load {load:g}, wrongly given up", share.wrong, MOST_WRONG, False
        bursts = ours("bursts of 10", load).of_predicted
        yield f"load {load:g}, bursts, of predicted", bursts, BURSTS, True
        drift = ours("times double half way", load)
        yield f"load {load:g}, drift, of predicted", drift.of_predicted, DRIFT, True
        yield f"load {load:g}, drift, error of predictions", drift.error, 0.1, False
        ladder = ours("reference", load, "planned_with_ladder")
        if load in WITH_LADDER:
            yield f"load {load:g}, with ladder", ladder.of_slots, WITH_LADDER[load], True
        else:
            what = f"load {load:g}, with ladder, of clairvoyant"
            yield what, ladder.of_clairvoyant, LADDER_OF_CLAIRVOYANT, True
    for count, traffic in BACKLOGS.items():
        for policy in ("planned", "planned_from_one", "planned_from_eight"):
            share = shares[policy, traffic].of_predicted
            yield f"backlog of {count}, {policy}, of predicted", share, BACKLOG, True
    for count, most_us in MOST_COST_US.items():
        yield f"microseconds a decision, {count} waiting", cost_us[count], most_us, False


def _heading(title: str, first: str, columns: Iterable[str]) -> Iterator[str]:
    names = list(columns)
    yield ""
    yield f"## {title}"
    yield ""
    yield _row(first, names)
    yield "|---|" + "---:|" * len(names)


def _row(first: str, cells: Iterable[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"
