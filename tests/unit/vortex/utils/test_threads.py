from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from vortex.errors import StageHungError
from vortex.utils.cancellation import CancellationToken, StageCancelled
from vortex.utils.threads import StageThreads

LIMIT_S = 20.0  # for what takes milliseconds on an idle machine


class Patient:
    """Work that reports its start, and ends when it is released or, if it listens, cancelled."""

    def __init__(self, *, listens: bool = True) -> None:
        self.listens = listens
        self.started = threading.Event()
        self.released = threading.Event()
        self.ended = threading.Event()
        self.token: CancellationToken | None = None

    def __call__(self, token: CancellationToken) -> str:
        self.token = token
        self.started.set()
        try:
            give_up_at = time.monotonic() + LIMIT_S
            while not self.released.wait(0.002):
                assert time.monotonic() < give_up_at, "the test never released its work"
                if self.listens:
                    token.raise_if_cancelled()
            return "done"
        finally:
            self.ended.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture
async def threads() -> AsyncIterator[StageThreads]:
    pool = StageThreads(max_threads=2, cancel_grace_s=LIMIT_S)
    yield pool
    pool.close()


def test_token_raises_only_after_it_was_cancelled() -> None:
    token = CancellationToken()
    token.raise_if_cancelled()
    assert not token.cancelled
    token.cancel()
    token.cancel()
    assert token.cancelled
    with pytest.raises(StageCancelled):
        token.raise_if_cancelled()


def test_cancel_calls_what_is_to_be_stopped_once_and_only_while_it_runs() -> None:
    calls: list[str] = []
    token = CancellationToken()
    with token.calling(lambda: calls.append("ended before")):
        pass
    with token.calling(lambda: calls.append("running")):
        token.cancel()
        token.cancel()
    with token.calling(lambda: calls.append("too late")):
        pass
    assert calls == ["running", "too late"]


async def test_result_comes_from_a_thread_of_the_pool(threads: StageThreads) -> None:
    name = await threads.run(lambda token: threading.current_thread().name)
    assert name.startswith("vortex-stage")


async def test_error_of_the_work_passes_unchanged(threads: StageThreads) -> None:
    error = ValueError("no such voice")

    def work(token: CancellationToken) -> None:
        raise error

    with pytest.raises(ValueError, match="no such voice") as caught:
        await threads.run(work)
    assert caught.value is error


async def test_event_loop_goes_on_while_work_blocks(threads: StageThreads) -> None:
    work = Patient()
    task = asyncio.create_task(threads.run(work))
    await until(work.started.is_set)
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not task.done()
    work.released.set()
    assert await asyncio.wait_for(task, LIMIT_S) == "done"


async def test_two_works_run_side_by_side(threads: StageThreads) -> None:
    meeting = threading.Barrier(2)

    def work(token: CancellationToken) -> int:
        return meeting.wait(timeout=LIMIT_S)

    assert sorted(await asyncio.gather(threads.run(work), threads.run(work))) == [0, 1]


async def test_context_variables_and_current_span_reach_the_thread(threads: StageThreads) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("of the caller")
    tracer = TracerProvider().get_tracer(__name__)
    with tracer.start_as_current_span("slot.audio") as span:
        seen = await threads.run(lambda token: (variable.get(), trace.get_current_span()))
    assert seen == ("of the caller", span)


async def test_context_variable_set_by_the_work_stays_in_the_thread(threads: StageThreads) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="before")
    await threads.run(lambda token: variable.set("in the thread"))
    assert variable.get() == "before"
    assert await threads.run(lambda token: variable.get()) == "before"


async def test_timeout_returns_only_after_the_work_has_ended(threads: StageThreads) -> None:
    work = Patient()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await threads.run(work)
    assert work.ended.is_set()


async def test_cancelling_twice_does_not_cut_the_wait_short(threads: StageThreads) -> None:
    work = Patient(listens=False)
    task = asyncio.create_task(threads.run(work))
    await until(work.started.is_set)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
    assert work.token is not None
    assert work.token.cancelled
    work.released.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, LIMIT_S)
    assert work.ended.is_set()


async def test_timeout_around_a_timeout_wins_when_both_expire_in_the_grace_period(
    threads: StageThreads,
) -> None:
    work = Patient(listens=False)
    asyncio.get_running_loop().call_later(0.2, work.released.set)
    outer, inner = asyncio.timeout(0.1), asyncio.timeout(0.05)

    async def nested() -> None:
        async with outer, inner:
            await threads.run(work)

    with pytest.raises(TimeoutError):
        await nested()
    assert inner.expired()
    assert outer.expired()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_work_that_ignores_cancellation_is_reported_as_hung() -> None:
    threads = StageThreads(max_threads=1, cancel_grace_s=0.05)
    work = Patient(listens=False)
    try:
        with pytest.raises(StageHungError, match=r"still running after 0\.05 s"):
            async with asyncio.timeout(0.05):
                await threads.run(work)
        assert not work.ended.is_set()
    finally:
        work.released.set()
        threads.close()
    await until(work.ended.is_set)


async def test_hung_work_that_fails_in_the_end_leaves_no_noise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    threads = StageThreads(max_threads=1, cancel_grace_s=0.02)
    released, ended = threading.Event(), threading.Event()

    def work(token: CancellationToken) -> None:
        try:
            assert released.wait(LIMIT_S)
            token.raise_if_cancelled()
        finally:
            ended.set()

    try:
        with pytest.raises(StageHungError):
            await asyncio.wait_for(threads.run(work), 0.02)
    finally:
        released.set()
        threads.close()
    await until(ended.is_set)
    await asyncio.sleep(0.02)  # the thread's answer reaches the loop
    gc.collect()  # which is when asyncio complains of an error that nobody saw
    assert caplog.records == []


async def test_cancelled_work_that_still_waits_for_a_thread_never_starts() -> None:
    threads = StageThreads(max_threads=1, cancel_grace_s=0.05)
    first, second = Patient(), Patient()
    running = asyncio.create_task(threads.run(first))
    await until(first.started.is_set)
    with pytest.raises(TimeoutError):  # and not StageHungError
        async with asyncio.timeout(0.02):
            await threads.run(second)
    first.released.set()
    assert await asyncio.wait_for(running, LIMIT_S) == "done"
    assert await threads.run(lambda token: "next") == "next"  # the second one's turn is over
    assert not second.started.is_set()
    threads.close()


async def test_closed_pool_takes_no_more_work(threads: StageThreads) -> None:
    threads.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await threads.run(lambda token: None)
