"""Blocking work behind an async interface that can really be stopped."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vortex.errors import StageHungError
from vortex.utils.cancellation import CancellationToken

T = TypeVar("T")


class StageThreads:
    """A bounded pool of threads for stages, which block for seconds at a time.

    Cancelling `run` (a timeout does that) cancels the work's token and then *waits* until the
    thread has answered, so that a stopped stage uses neither processor nor GPU from the moment on
    at which its caller goes on.
    """

    def __init__(self, *, max_threads: int, cancel_grace_s: float) -> None:
        """Make the pool.

        Args:
            max_threads: stages that may run at once.
            cancel_grace_s: seconds that cancelled work may take to stop.
        """
        self._pool = ThreadPoolExecutor(max_threads, thread_name_prefix="vortex-stage")
        self._cancel_grace_s = cancel_grace_s

    async def run(
        self, work: Callable[[CancellationToken], T], on_poll: Callable[[], None] | None = None
    ) -> T:
        """Run `work(token)` in a thread of the pool, within the caller's context variables.

        Args:
            work: polls its token.
            on_poll: called in its thread whenever it does.

        Raises:
            StageHungError: the call was cancelled, and the work did not stop within the grace
                period; its thread may run forever.
        """
        token = CancellationToken(on_poll)
        context = contextvars.copy_context()
        submitted = self._pool.submit(context.run, work, token)
        thread = asyncio.wrap_future(submitted)
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            token.cancel()
            never_started = submitted.cancel()
            if not never_started and not await _ends_within(self._cancel_grace_s, thread):
                raise StageHungError(
                    f"a cancelled stage was still running after {self._cancel_grace_s} s"
                ) from None
            raise

    def close(self) -> None:
        """Accept no more work; does not wait for work that hangs."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def _ends_within(timeout_s: float, future: asyncio.Future[T]) -> bool:
    """Wait for a future's end and return whether it came; more cancellations do not cut it short.

    They are not lost: the caller is about to raise `CancelledError` anyway.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + timeout_s
    while not future.done() and (left_s := give_up_at - loop.time()) > 0:
        try:
            await asyncio.wait({future}, timeout=left_s)
        except asyncio.CancelledError:
            continue
    ended = future.done()
    # Nobody will look at what it brought or may still bring; asyncio would complain of that.
    if not future.cancel() and not future.cancelled():
        future.exception()
    return ended
