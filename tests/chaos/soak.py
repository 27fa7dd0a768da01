"""`python -m tests.chaos.soak`: hours without faults, in which nothing may grow.

Four workers with their engine processes answer eight ticks a second, good and bad. Every ten
seconds the memory and the descriptors of each process are read; after a warm-up of a fifth of the
time, a line is fitted through them. Outcomes are judged as after chaos.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import linear_regression, median

from consumer.embedded_kafka.cluster import EmbeddedKafka
from tests.chaos import checker
from tests.chaos.checker import Verdict, judge, observe
from tests.chaos.fleet import Fleet
from tests.chaos.producer import TickProducer
from tests.chaos.report import machine
from tests.chaos.run import DEAD_LETTER, LIMITS, RESULTS, SETTLE_TIMEOUT_S, TICKS, make_topics
from tests.support.lane import Lane

SAMPLE_S = 10.0
WARM_UP = 0.2
"""Share of the time after which caches are full and processes have their size."""
MAX_GROWTH_BYTES_PER_TICK = 256
"""A slot kept by mistake, its recipe and its outcome, is a few kilobytes."""
MAX_DESCRIPTORS = 2.0
"""So many more at the end than after the warm-up, by the fitted line; a leak has thousands."""
RESULT = Path(__file__).with_name("results") / "soak.md"


@dataclass(frozen=True)
class Sample:
    """One process at one moment."""

    at_s: float
    resident: int
    """Bytes."""
    descriptors: int


@dataclass(frozen=True)
class Growth:
    """What the line through a process's samples says."""

    process: str
    resident: int
    """Median, in bytes."""
    bytes_per_tick: float
    descriptors: float
    """More at the end than after the warm-up."""

    @property
    def flat(self) -> bool:
        return (
            self.bytes_per_tick <= MAX_GROWTH_BYTES_PER_TICK and self.descriptors <= MAX_DESCRIPTORS
        )

    def row(self) -> str:
        """Return a row of the table."""
        return (
            f"| {self.process} | {self.resident / 1e6:.1f} MB | {self.bytes_per_tick:.0f} |"
            f" {self.descriptors:+.2f} |"
        )


def growth(process: str, samples: Sequence[Sample], ticks: int) -> Growth:
    """Fit a line through the samples after the warm-up.

    Args:
        process: whose they are.
        samples: in order of time, at least ten.
        ticks: that this process's worker answered in all the time, on average.
    """
    settled = samples[int(WARM_UP * len(samples)) :]
    times = [sample.at_s for sample in settled]
    seconds, whole_s = times[-1] - times[0], samples[-1].at_s - samples[0].at_s
    memory = linear_regression(times, [sample.resident for sample in settled])
    descriptors = linear_regression(times, [sample.descriptors for sample in settled])
    return Growth(
        process,
        int(median(sample.resident for sample in settled)),
        memory.slope * whole_s / ticks,
        descriptors.slope * seconds,
    )


async def soak(minutes: float, workers: int) -> tuple[list[Growth], Verdict, int]:
    """Run, and return how each process grew, what became of the ticks, and how many there were."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="vortex-soak-") as directory, EmbeddedKafka() as kafka:
        await make_topics(kafka.bootstrap_servers, 2 * workers, replicas=1)
        lane = Lane.of(kafka.bootstrap_servers, TICKS, RESULTS, DEAD_LETTER)
        config = lane.config.model_copy(update=LIMITS)
        watched = checker.Lane(
            kafka.bootstrap_servers, TICKS, RESULTS, DEAD_LETTER, config.group_id
        )
        # Without slots whose engine is lost: a new process would not have the old one's memory.
        producer = TickProducer(config, 2 * workers, Random(0), leave_out=("losing",))
        with Fleet(workers, config, Path(directory)) as fleet:
            producing = asyncio.create_task(producer.run())
            end_s = time.monotonic() + 60 * minutes
            while time.monotonic() < end_s:
                await asyncio.sleep(SAMPLE_S)
                _sample(fleet, samples)
            producer.stop()
            await producing
            end_s = time.monotonic() + SETTLE_TIMEOUT_S
            while not (verdict := judge(await asyncio.to_thread(observe, watched))).settled:
                if time.monotonic() > end_s:
                    break
                await asyncio.sleep(1.0)
            await fleet.stop()
    ticks = len(producer.sent)
    return [growth(name, each, ticks // workers) for name, each in samples.items()], verdict, ticks


def _sample(fleet: Fleet, samples: dict[str, list[Sample]]) -> None:
    for worker in fleet:
        if worker.exit_code is not None:
            raise ChildProcessError(f"{worker.id} ended with exit code {worker.exit_code}")
        processes = {f"{worker.id}": worker.process, f"engine of {worker.id}": worker.engine}
        for name, process in processes.items():
            if process is not None:
                size, descriptors = process.memory_info().rss, process.num_fds()
                samples[name].append(Sample(time.monotonic(), size, descriptors))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    grown, verdict, ticks = asyncio.run(soak(options.minutes, options.workers))
    page = "\n".join(
        [
            "# Soak",
            "",
            f"{options.minutes:g} minutes, {options.workers} workers, {ticks} ticks,"
            f" on {machine()}. Findings of the checker: {len(verdict.findings)}.",
            "",
            f"Bounds: {MAX_GROWTH_BYTES_PER_TICK} bytes a tick, {MAX_DESCRIPTORS:g} descriptors.",
            "",
            "| process | resident | growth, bytes a tick | growth, descriptors |",
            "| --- | --- | --- | --- |",
            *(each.row() for each in grown),
            "",
        ]
    )
    RESULT.write_text(page, encoding="utf-8")
    print(page)
    return 0 if all(each.flat for each in grown) and not verdict.findings else 1


if __name__ == "__main__":
    sys.exit(main())
