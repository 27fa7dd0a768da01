from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise

from consumer.handover.announcing import LEAST_GAP_S, MOST_GAP_S, Announcer, Standing
from consumer.simulation.virtual_time import run_in_virtual_time
from vortex.utils.clock import now_s

IDLE = Standing(free_in_s=0.0, usual_s=12.0, load=0.5, partitions=(1,))


class Worker:
    """Stands as a test says, and records what it announces and when."""

    def __init__(self) -> None:
        self.standing: Callable[[], Standing] = lambda: IDLE
        self.announcer = Announcer(lambda: self.standing())
        self.said: list[tuple[float, Standing]] = []

    async def announce(self) -> None:
        async with aclosing(self.announcer.standings()) as standings:
            async for standing in standings:
                self.said.append((now_s(), standing))

    def moments(self) -> list[float]:
        return [round(at_s, 2) for at_s, _ in self.said]


def watched(script: Callable[[Worker], object], seconds: float = 10.0) -> Worker:
    """Return a worker that has announced for so long, while `script` set timers for it."""

    async def run() -> Worker:
        worker = Worker()
        announcing = asyncio.create_task(worker.announce())
        script(worker)
        await asyncio.sleep(seconds)
        announcing.cancel()
        await asyncio.wait({announcing})
        return worker

    return run_in_virtual_time(run())


def set_at(worker: Worker, at_s: float, standing: Callable[[], Standing]) -> None:
    def change() -> None:
        worker.standing = standing
        worker.announcer.note_change()

    asyncio.get_running_loop().call_later(at_s, change)


def test_worker_without_news_says_now_and_then_that_it_lives() -> None:
    worker = watched(lambda _: None)
    assert worker.moments() == [0.0, MOST_GAP_S, 2 * MOST_GAP_S, 3 * MOST_GAP_S, 4 * MOST_GAP_S]


def test_news_are_said_at_once() -> None:
    def busy() -> Standing:
        return replace(IDLE, free_in_s=10.0 - now_s())

    worker = watched(lambda it: set_at(it, 1.0, busy), 1.9)
    assert worker.moments() == [0.0, 1.0]
    assert worker.said[-1][1].free_in_s == 9.0


def test_lost_partition_is_news() -> None:
    worker = watched(lambda it: set_at(it, 1.0, lambda: replace(IDLE, partitions=())), 1.5)
    assert worker.moments() == [0.0, 1.0]


def test_work_that_goes_as_announced_is_no_news() -> None:
    def work(worker: Worker) -> None:
        worker.standing = lambda: replace(IDLE, free_in_s=max(0.0, 9.0 - now_s()))
        for tenth in range(100):
            asyncio.get_running_loop().call_later(tenth / 10, worker.announcer.note_change)

    assert watched(work).moments() == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_many_changes_are_said_a_few_times_a_second_at_most() -> None:
    def work(worker: Worker) -> None:
        for number in range(1000):
            busy = replace(IDLE, free_in_s=10.0 + number)
            set_at(worker, number / 100, lambda busy=busy: busy)  # type: ignore[misc]

    moments = watched(work).moments()
    assert len(moments) > 20
    assert all(later - at >= LEAST_GAP_S - 0.01 for at, later in pairwise(moments))
