from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable

import pytest

from consumer.artifacts.store import ArtifactStore
from consumer.artifacts.store_probe import probing


class Silent(ArtifactStore):
    """Answers a check as long as a test wants it to."""

    error: Exception | None = None
    delay_s = 0.0

    def try_writing(self) -> None:
        time.sleep(self.delay_s)
        if self.error is not None:
            self._attempt(self._fail)
        super().try_writing()

    def _fail(self) -> None:
        assert self.error is not None
        raise self.error


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def store() -> Silent:
    return Silent(f"memory://{uuid.uuid4().hex}")


async def test_store_that_cannot_be_written_and_heals_is_told_as_such(store: Silent) -> None:
    async with probing(store, interval_s=0.02) as problem:
        assert problem() is None
        store.error = OSError(30, "Read-only file system")
        await until(lambda: problem() is not None)
        assert str(problem()).endswith("cannot be written: Read-only file system")
        store.error = None
        await until(lambda: problem() is None)


async def test_store_that_does_not_answer_is_told_as_such(store: Silent) -> None:
    store.delay_s = 0.5
    async with probing(store, interval_s=0.02, timeout_s=0.1) as problem:
        await until(lambda: problem() == "no answer within 0.1 s")


@pytest.mark.parametrize("turns", range(6))
async def test_answer_that_comes_as_the_worker_ends_does_not_keep_it(
    turns: int, store: Silent
) -> None:
    async with asyncio.timeout(5), probing(store):
        for _ in range(2):  # the check begins, in a thread
            await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251 - the thread has answered before the loop looks
        for _ in range(turns):
            await asyncio.sleep(0)
