from __future__ import annotations

import dataclasses
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from consumer.job import Job
from consumer.slot_queue import SlotQueue
from tests.support.jobs import job


def queue_of(*jobs: Job) -> SlotQueue:
    queue = SlotQueue()
    for one in jobs:
        queue.push(one)
    return queue


def drain(queue: SlotQueue) -> list[Job]:
    taken = []
    while (one := queue.pop()) is not None:
        taken.append(one)
    return taken


def with_deadline(offset: int, deadline_s: float, *, partition: int = 0) -> Job:
    return dataclasses.replace(job(offset, partition=partition), deadline_s=deadline_s)


def test_earliest_deadline_comes_first() -> None:
    jobs = [with_deadline(offset, deadline_s) for offset, deadline_s in enumerate([30, 10, 20])]
    assert drain(queue_of(*jobs)) == [jobs[1], jobs[2], jobs[0]]


def test_equal_deadlines_come_by_partition_and_offset() -> None:
    jobs = [with_deadline(offset, 10, partition=p) for p, offset in [(1, 4), (0, 9), (1, 2)]]
    assert drain(queue_of(*jobs)) == [jobs[1], jobs[2], jobs[0]]


def test_removed_job_is_not_handed_out() -> None:
    jobs = [with_deadline(offset, offset) for offset in range(3)]
    queue = queue_of(*jobs)
    assert queue.remove(jobs[0].key) is jobs[0]
    assert queue.remove(jobs[0].key) is None
    assert len(queue) == 2
    assert drain(queue) == jobs[1:]


def test_empty_queue_hands_out_nothing() -> None:
    queue = SlotQueue()
    assert queue.pop() is None
    assert not queue


def test_removed_jobs_leave_nothing_behind() -> None:
    one = job(0)
    keys = [one.key._replace(offset=offset) for offset in range(20_000)]
    queue = SlotQueue()
    tracemalloc.start()
    try:
        for key in keys:
            queue.push(dataclasses.replace(one, key=key))
            queue.remove(key)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 100_000  # a twentieth of what one small entry for each would take


def test_jobs_may_be_removed_while_they_are_looked_at() -> None:
    queue = queue_of(*(with_deadline(offset, offset) for offset in range(4)))
    for one in queue:
        if one.key.offset % 2:
            queue.remove(one.key)
    assert [one.key.offset for one in drain(queue)] == [0, 2]


@given(st.lists(st.tuples(st.floats(min_value=0, max_value=100), st.booleans()), max_size=20))
def test_what_stays_comes_out_in_order_of_deadlines(slots: list[tuple[float, bool]]) -> None:
    jobs = [with_deadline(offset, deadline_s) for offset, (deadline_s, _) in enumerate(slots)]
    queue = queue_of(*jobs)
    for one, (_, removed) in zip(jobs, slots, strict=True):
        if removed:
            queue.remove(one.key)
    staying = [one for one, (_, removed) in zip(jobs, slots, strict=True) if not removed]
    assert len(queue) == len(staying)
    assert drain(queue) == sorted(staying, key=lambda one: (one.deadline_s, one.key))
