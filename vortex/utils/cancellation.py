"""Cooperative cancellation of work that runs in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator


class StageCancelled(Exception):  # noqa: N818 - it is an outcome, not a failure
    """The stage was told to stop and did so between two steps."""


class CancellationToken:
    """A flag that a stage's thread polls between denoising steps, sentences or frame batches.

    A thread cannot be killed from outside, so work that must be stoppable asks `raise_if_cancelled`
    often enough that a timeout ends it within one step. Safe to share between threads.
    """

    def __init__(self, on_poll: Callable[[], None] | None = None) -> None:
        """Begin uncancelled.

        Args:
            on_poll: called whenever the work asks, in its thread: a sign of life.
        """
        self._on_poll = on_poll
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._on_cancel: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """Whether the work should stop."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Ask the work to stop at its next step; asking twice does no harm."""
        with self._lock:
            self._event.set()
            calls, self._on_cancel = self._on_cancel, []
        for call in calls:
            call()

    @contextlib.contextmanager
    def calling(self, call: Callable[[], None]) -> Iterator[None]:
        """Within this, `cancel` calls something that stops work which cannot poll.

        It is called once, in the thread that cancels, or here if that has happened already; it
        must not block or raise, and may still be running when this is left.
        """
        with self._lock:
            cancelled = self._event.is_set()
            if not cancelled:
                self._on_cancel.append(call)
        if cancelled:
            call()
        try:
            yield
        finally:
            with self._lock, contextlib.suppress(ValueError):  # gone, once it was called
                self._on_cancel.remove(call)

    def raise_if_cancelled(self) -> None:
        """Return at once while the work may go on.

        Raises:
            StageCancelled: `cancel` was called.
        """
        if self._on_poll is not None:
            self._on_poll()
        if self._event.is_set():
            raise StageCancelled


def being_cancelled() -> bool:
    """Return whether the current task is to stop, and not only something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
