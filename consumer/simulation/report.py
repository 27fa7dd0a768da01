"""What a simulated run came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

from consumer.planning import Rung
from consumer.simulation.audit import wrongly_given_up
from consumer.simulation.bounds import most_possible, with_predicted_times, with_real_times
from consumer.simulation.machine import Run
from consumer.simulation.served import serve
from consumer.simulation.traces import SimulatedSlot

_WINDOWS = 20


@dataclass(frozen=True)
class Simulated:
    """One trace, served by one or more GPUs; each has a share of the slots to itself."""

    traces: tuple[Sequence[SimulatedSlot], ...]
    runs: tuple[Run, ...]
    lowest_share: float

    @classmethod
    def of(cls, trace: Sequence[SimulatedSlot], ladder: Sequence[Rung], gpus: int = 1) -> Simulated:
        """Serve a trace; slot n goes to GPU n modulo their number, as with partitions."""
        traces = tuple(
            [replace(slot, number=number) for number, slot in enumerate(trace[gpu::gpus])]
            for gpu in range(gpus)
        )
        runs = tuple(serve(part, tuple(ladder)) for part in traces)
        return cls(traces, runs, ladder[-1].work_share)

    @property
    def slots(self) -> int:
        """How many slots arrived."""
        return sum(len(trace) for trace in self.traces)

    @property
    def on_time(self) -> int:
        """How many were on time."""
        return sum(len(run.on_time) for run in self.runs)

    @property
    def possible_predicted(self) -> float:
        """How many can be if all arrivals are known, at full quality."""
        return sum(most_possible(with_predicted_times(trace)) for trace in self.traces)

    @property
    def possible(self) -> float:
        """How many can be if all is known, on the lowest rung."""
        share = self.lowest_share
        return sum(most_possible(with_real_times(trace, share)) for trace in self.traces)

    @property
    def quality(self) -> float:
        """Mean quality of the slots on time."""
        qualities = [quality for run in self.runs for quality in run.on_time.values()]
        return fmean(qualities) if qualities else 0.0

    @property
    def wasted_s(self) -> float:
        """Seconds of GPU work on slots that then missed."""
        return sum(
            end - begin
            for run in self.runs
            for number, (begin, end) in run.worked_s.items()
            if number not in run.on_time
        )

    @property
    def lead_s(self) -> float:
        """Median seconds from giving a slot up to its deadline; 0 if none was."""
        leads = [lead for run in self.runs for lead in run.lead_s]
        return median(leads) if leads else 0.0

    @property
    def given_up(self) -> int:
        """How many slots were given up before any work."""
        return sum(len(run.given_up) for run in self.runs)

    @property
    def wrong(self) -> int:
        """How many of these would have been on time in the plan that was followed."""
        return sum(
            len(wrongly_given_up(trace, run, self.lowest_share))
            for trace, run in zip(self.traces, self.runs, strict=True)
        )

    def over_time(self) -> list[tuple[float, float]]:
        """Return the end of each of 20 windows, in seconds, and the share on time of its slots."""
        slots = [
            (slot.deadline_s, slot.number in run.on_time)
            for trace, run in zip(self.traces, self.runs, strict=True)
            for slot in trace
        ]
        slots.sort()
        size = max(1, -(-len(slots) // _WINDOWS))
        windows = [slots[start : start + size] for start in range(0, len(slots), size)]
        return [(window[-1][0], fmean(on_time for _, on_time in window)) for window in windows]


def plot(simulated: dict[str, Simulated], path: Path) -> None:
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
        ends, shares = zip(*run.over_time(), strict=True)
        axes.plot([end / 60 for end in ends], shares, "o-", markersize=3, label=label)
    axes.set(xlabel="minutes", ylabel="on time, of all slots", ylim=(0, 1.03))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
