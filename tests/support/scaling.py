"""How the cost of a piece of work grows with its size, whatever the speed of the machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

ROUNDS = 3


def cpu_s(*works: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Return the least CPU seconds of this process that each work took, of some rounds.

    In each round they take turns: a machine that slows down slows all of them.
    """
    collecting = gc.isenabled()
    gc.disable()  # a collection counts every object of the whole test run
    try:
        all_s = [[_once(work) for work in works] for _ in range(rounds)]
    finally:
        if collecting:
            gc.enable()
    return [min(each_s) for each_s in zip(*all_s, strict=True)]


def growth(work: Callable[[int], object], size: int) -> float:
    """Return how many times the CPU time of `size` the work takes for ten times `size`.

    About 10 is linear, about 100 is quadratic.
    """
    small_s, large_s = cpu_s(lambda: work(size), lambda: work(10 * size))
    return large_s / small_s


def _once(work: Callable[[], object]) -> float:
    started_s = time.process_time()
    work()
    return time.process_time() - started_s
