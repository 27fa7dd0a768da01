"""Threads for calls to a store that may never return."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

from consumer.artifacts.errors import ArtifactStoreError

T = TypeVar("T")

MAX_HANGING = 4


class StoreThreads:
    """Runs each call in a daemon thread, and refuses more while too many hang.

    The event loop's own threads are few: a store that hangs would take one with every slot, until
    nothing else could run. Daemon threads do not keep the process from ending either.
    """

    def __init__(self, max_hanging: int = MAX_HANGING) -> None:
        self._free = threading.Semaphore(max_hanging)
        self._max_hanging = max_hanging

    async def run(self, call: Callable[[], T]) -> T:
        """Return the call's result; cancelling waits for nothing.

        Raises:
            ArtifactStoreError: as many earlier calls as may hang have not returned yet.
        """
        if not self._free.acquire(blocking=False):
            raise ArtifactStoreError(
                f"the artifact store does not answer: {self._max_hanging} earlier uploads hang"
            )
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                result = context.run(call)
            except Exception as error:  # noqa: BLE001 - raised where the call is awaited
                answer(lambda error=error: done.set_exception(error))  # type: ignore[misc]
            else:
                answer(lambda: done.set_result(result))

        def answer(settle: Callable[[], None]) -> None:
            self._free.release()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(lambda: None if done.done() else settle())

        try:
            threading.Thread(target=work, name="vortex-store", daemon=True).start()
        except RuntimeError:
            self._free.release()
            raise
        return await done
