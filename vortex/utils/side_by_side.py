"""Two coroutines at once, and never one of them left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from vortex.errors import StageHungError

A = TypeVar("A")
B = TypeVar("B")


async def side_by_side(
    first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]
) -> tuple[A, B]:
    """Await both; when one fails, the other is cancelled and awaited before the error goes on.

    Raises:
        Exception: what the first failing one raised, unchanged; before all else that a stage hung.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
            # Waiting here and not in the group's exit: in Python 3.11, a failure met there leaves
            # this task marked as being cancelled, and timeouts around later slots go wrong.
            await asyncio.wait(tasks)
    except BaseExceptionGroup as group_error:
        errors = group_error.exceptions
    else:
        return tasks[0].result(), tasks[1].result()
    # Raised out here, as `raise … from None` would take the error's own cause away.
    raise next((error for error in errors if isinstance(error, StageHungError)), errors[0])
