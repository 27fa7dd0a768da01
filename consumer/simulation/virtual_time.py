"""An event loop in which waiting takes no time: whatever is due next is due at once.

`asyncio.sleep`, timeouts and whatever reads `vortex.utils.clock.now_s` run unchanged, an hour in a
few milliseconds, and the same way each time. Threads and sockets have no part in it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class NothingLeftToHappenError(RuntimeError):
    """All tasks wait for something that no timer will bring."""


class _Selector(selectors.DefaultSelector):
    """Advances the loop's clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeftToHappenError(
                f"at {self.now_s:.3f} s all tasks wait, and no timer is set"
            )
        self.now_s += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop whose `time()` begins at 0 and jumps from one timer to the next."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._virtual.now_s


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, as `asyncio.run` does.

    Raises:
        NothingLeftToHappenError: it waits for something that no timer will bring.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
