"""Asks the store now and then whether it can be written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from consumer.artifacts.errors import ArtifactStoreError
from consumer.artifacts.store import ArtifactStore
from consumer.artifacts.store_threads import StoreThreads

INTERVAL_S = 15.0
TIMEOUT_S = 10.0


@asynccontextmanager
async def probing(
    store: ArtifactStore, interval_s: float = INTERVAL_S, timeout_s: float = TIMEOUT_S
) -> AsyncIterator[Callable[[], str | None]]:
    """Give what says why the store cannot be written, None if it can; it answers at once.

    Args:
        store: checked in the background, at the beginning and then after each interval.
        interval_s: seconds between two checks.
        timeout_s: seconds after which a check counts as not answered.
    """
    problem: str | None = None

    async def probe() -> None:
        nonlocal problem
        threads = StoreThreads()
        while True:
            try:
                # Not wait_for: Python 3.11's loses a cancellation that comes with the result.
                async with asyncio.timeout(timeout_s):
                    await threads.run(store.try_writing)
                problem = None
            except TimeoutError:
                problem = f"no answer within {timeout_s:g} s"
            except ArtifactStoreError as error:
                problem = str(error)
            await asyncio.sleep(interval_s)

    probing = asyncio.create_task(probe())
    try:
        yield lambda: problem
    finally:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
