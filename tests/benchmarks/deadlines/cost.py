"""What a decision costs by the number of slots that wait."""

from __future__ import annotations

import gc
import random
import time
from statistics import fmean

from consumer.planning import Planner, Waiting

WAITING = (30, 100, 300, 1000, 3000, 10_000)
DECISIONS = 4000
RUNS = 5
MEAN_S = 12.0


def measure_cost() -> dict[int, float]:
    """Return the mean CPU microseconds of a decision, at an arrival or an end, by slots waiting.

    The least of a few runs: what else a shared machine does can only add to it.
    """
    return {count: min(_cost_us(count) for _ in range(RUNS)) for count in WAITING}


def _cost_us(count: int) -> float:
    draws = random.Random(1)
    planner: Planner[int, float] = Planner(lambda work, rung: work * rung.work_share, lambda: 0.1)
    gap_s = MEAN_S / 0.9

    def arrive(number: int, due_s: float, now_s: float) -> None:
        seconds = draws.lognormvariate(2.45, 0.25)
        planner.arrive(Waiting(number, seconds, now_s, due_s), now_s)

    for number in range(count):
        arrive(number, 45.0 + number * gap_s, (number - count) * gap_s)
    planner.plan(0.0)
    gc.collect()
    now_s, spent_s, number = 0.0, [], count
    for _ in range(DECISIONS // 2):
        began_s = time.thread_time()
        arrive(number, now_s + 45.0 + draws.random() * count * gap_s, now_s)
        planner.plan(now_s, now_s + 6.0)
        spent_s.append(time.thread_time() - began_s)
        number += 1
        now_s += gap_s
        began_s = time.thread_time()
        planner.plan(now_s)
        spent_s.append(time.thread_time() - began_s)
    return 1e6 * fmean(spent_s)
