"""The plot beside the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

from tests.benchmarks.deadlines.report import Shares
from tests.benchmarks.deadlines.scenarios import LOADS, SCENARIOS

_LINES = {
    "with a ladder": ("planned_with_ladder", "#1b7837"),
    "plan of the whole queue": ("planned", "#2166ac"),
    "each slot alone": ("each_alone", "#b2611d"),
    "first in, first out": ("first_in_first_out", "#888888"),
}


def plot(shares: Shares, cost_us: Mapping[int, float], path: Path) -> None:
    """Draw the share on time over load, and the cost of a decision."""
    mpl.rcParams |= {"svg.hashsalt": "deadlines", "svg.fonttype": "none", "font.size": 9}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(3, 2))
    reference = [replace(SCENARIOS["reference"], load=load) for load in LOADS]
    for label, (policy, color) in _LINES.items():
        values = [shares[policy, traffic].of_slots for traffic in reference]
        left.plot(LOADS, values, "o-", label=label, color=color, markersize=3)
    possible = [
        shares["planned", traffic].of_slots / shares["planned", traffic].of_predicted
        for traffic in reference
    ]
    left.plot(LOADS, possible, ":", label="optimum on predicted times", color="black")
    left.set(xscale="log", xticks=LOADS, xlabel="load", ylabel="on time, of all slots", ylim=(0, 1))
    left.set_xticks(LOADS, [f"{load:g}" for load in LOADS])
    left.minorticks_off()
    left.legend(frameon=False, loc="lower left")
    right.loglog(list(cost_us), list(cost_us.values()), "o-", color="#2166ac", markersize=3)
    right.set(xlabel="slots waiting", ylabel="microseconds a decision", ylim=(10, 1000))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
