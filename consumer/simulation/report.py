"""What a simulated run came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Protocol

from consumer.planning import Rung
from consumer.simulation.audit import wrongly_given_up
from consumer.simulation.bounds import most_possible, with_predicted_times, with_real_times
from consumer.simulation.machine import Run
from consumer.simulation.served import serve
from consumer.simulation.traces import SimulatedSlot

_WINDOWS = 20


class SharesOverTime(Protocol):
    """A run of which each slot's deadline is known, and whether it was on time."""

    def is_on_time(self) -> list[tuple[float, bool]]:
        """Return both for each slot."""


@dataclass(frozen=True)
class Simulated:
    """One trace, served by one worker."""

    trace: Sequence[SimulatedSlot]
    run: Run
    lowest_share: float

    @classmethod
    def of(cls, trace: Sequence[SimulatedSlot], ladder: Sequence[Rung]) -> Simulated:
        """Serve a trace."""
        return cls(trace, serve(trace, tuple(ladder)), ladder[-1].work_share)

    @property
    def slots(self) -> int:
        """How many slots arrived."""
        return len(self.trace)

    @property
    def on_time(self) -> int:
        """How many were on time."""
        return len(self.run.on_time)

    @property
    def possible_predicted(self) -> float:
        """How many can be if all arrivals are known, at full quality."""
        return most_possible(with_predicted_times(self.trace))

    @property
    def possible(self) -> float:
        """How many can be if all is known, on the lowest rung."""
        return most_possible(with_real_times(self.trace, self.lowest_share))

    @property
    def quality(self) -> float:
        """Mean quality of the slots on time."""
        return fmean(self.run.on_time.values()) if self.run.on_time else 0.0

    @property
    def wasted_s(self) -> float:
        """Seconds of GPU work on slots that then missed."""
        return sum(
            end - begin
            for number, (begin, end) in self.run.worked_s.items()
            if number not in self.run.on_time
        )

    @property
    def lead_s(self) -> float:
        """Median seconds from giving a slot up to its deadline; 0 if none was."""
        return median(self.run.lead_s) if self.run.lead_s else 0.0

    @property
    def given_up(self) -> int:
        """How many slots were given up before any work."""
        return len(self.run.given_up)

    @property
    def wrong(self) -> int:
        """How many of these would have been on time in the plan that was followed."""
        return len(wrongly_given_up(self.trace, self.run, self.lowest_share))

    def is_on_time(self) -> list[tuple[float, bool]]:
        """Return each slot's deadline, and whether it was on time."""
        return [(slot.deadline_s, slot.number in self.run.on_time) for slot in self.trace]


def over_time(run: SharesOverTime) -> list[tuple[float, float]]:
    """Return the end of each of 20 windows, in seconds, and the share on time of its slots."""
    slots = sorted(run.is_on_time())
    size = max(1, -(-len(slots) // _WINDOWS))
    windows = [slots[start : start + size] for start in range(0, len(slots), size)]
    return [(window[-1][0], fmean(on_time for _, on_time in window)) for window in windows]


def plot(simulated: Mapping[str, SharesOverTime], path: Path) -> None:
    """Draw the share on time over the course of each run; needs matplotlib.

    Args:
        simulated: by label.
        path: its ending decides the format, such as .svg or .png.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3))
    for label, run in simulated.items():
        ends, shares = zip(*over_time(run), strict=True)
        axes.plot([end / 60 for end in ends], shares, "o-", markersize=3, label=label)
    axes.set(xlabel="minutes", ylabel="on time, of all slots", ylim=(0, 1.03))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
