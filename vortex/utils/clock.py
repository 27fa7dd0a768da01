"""The one place where time is read."""

from __future__ import annotations

import asyncio
import time


def now_s() -> float:
    """Return the seconds of the running event loop's clock, or outside one of the monotonic clock.

    An asyncio loop's clock is `time.monotonic`. A simulation runs the same code in a loop whose
    clock advances by itself.
    """
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
