"""SIGTERM and Ctrl-C from the first line of `vortex run` on, long before there is a worker."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class HeldStop:
    """Keeps the wish to stop until someone takes it over."""

    def __init__(self) -> None:
        """Start with no stop requested."""
        self.requested = False

    def hold(self) -> None:
        """Record stop signals from now on, instead of ending the process."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def hand_over(self, request_stop: Callable[[], None]) -> None:
        """Have the running loop call `request_stop`, also for a signal that has come already."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, request_stop)
        if self.requested:
            request_stop()

    def _note(self, _: int, __: FrameType | None) -> None:
        self.requested = True


held_stop = HeldStop()
"""The one of this process."""
