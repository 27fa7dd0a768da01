"""Tasks that must not end unnoticed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

OnFailure = Callable[[str, BaseException | None], None]

logger = logging.getLogger(__name__)


class WatchedTasks:
    """Tasks that run until they are told to end; any other end is a failure, even a silent one."""

    def __init__(self, on_failure: OnFailure) -> None:
        """Watch nothing yet.

        Args:
            on_failure: called with a task's name and what it raised, or None if it was cancelled
                or returned, whenever a task ends that was not told to.
        """
        self._on_failure = on_failure
        self._watched: dict[asyncio.Task[Any], asyncio.Event | None] = {}

    def start(
        self,
        name: str,
        coroutine: Coroutine[Any, Any, None],
        *,
        may_end: asyncio.Event | None = None,
    ) -> asyncio.Task[None]:
        """Run a coroutine as a watched task, which may end by itself once `may_end` is set."""
        task = asyncio.create_task(coroutine, name=name)
        self.watch(task, may_end=may_end)
        return task

    def watch(self, task: asyncio.Task[Any], *, may_end: asyncio.Event | None = None) -> None:
        """Watch a task that runs already; its name tells which one failed."""
        self._watched[task] = may_end
        task.add_done_callback(self._ended)

    def release(self, *tasks: asyncio.Task[Any]) -> None:
        """Let tasks end: they are about to be told to."""
        for task in tasks:
            self._watched.pop(task, None)

    def cancel(self, task: asyncio.Task[Any]) -> None:
        """Tell a task to end."""
        self.release(task)
        task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        untold = task in self._watched
        may_end = self._watched.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if untold and not (may_end is not None and may_end.is_set()):
            self._on_failure(task.get_name(), error)
        elif error is not None:
            logger.warning(
                "Task did not end cleanly", extra={"task": task.get_name()}, exc_info=error
            )
