"""What is told of the worker from time to time: its state to the metrics, its life to systemd."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from consumer.telemetry.worker_metrics import WorkerMetrics, WorkerState

INTERVAL_S = 1.0
LOOK_TIMEOUT_S = 2.0

logger = logging.getLogger(__name__)


class Worker(Protocol):
    """What is asked of the worker."""

    def readiness(self) -> Mapping[str, str | None]:
        """Return what keeps it from serving."""

    async def look(self, timeout_s: float) -> WorkerState:
        """Return its state."""


@asynccontextmanager
async def observing(worker: Worker, metrics: WorkerMetrics) -> AsyncIterator[None]:
    """Tell the metrics the worker's state, and systemd that it lives, until the context ends.

    systemd hears of it where it asks to, by NOTIFY_SOCKET: READY once the worker could serve a
    tick, WATCHDOG as long as the event loop runs, STOPPING at the end.
    """

    async def tell() -> None:
        metrics.tell(await worker.look(LOOK_TIMEOUT_S))

    notifier = SystemdNotifier(os.environ.get("NOTIFY_SOCKET"))
    tasks = [asyncio.create_task(_repeat(tell), name="metrics")]
    if notifier.wanted:
        tasks.append(asyncio.create_task(_repeat(lambda: notifier.beat(worker)), name="watchdog"))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        notifier.send("STOPPING=1")


async def _repeat(step: Callable[[], Awaitable[None]]) -> None:
    failing = False
    while True:
        try:
            await step()
            failing = False
        except Exception:  # slots are made whether or not anybody is told
            if not failing:
                logger.exception("The worker's state cannot be told")
            failing = True
        await asyncio.sleep(INTERVAL_S)


class SystemdNotifier:
    """Speaks systemd's notification protocol (sd_notify(3)): datagrams to a Unix socket."""

    def __init__(self, address: str | None) -> None:
        # "@" stands for the zero byte of an abstract socket.
        self._address = address and address.replace("@", "\0", 1)
        self._ready = False

    @property
    def wanted(self) -> bool:
        """Whether systemd wants to hear."""
        return bool(self._address)

    async def beat(self, worker: Worker) -> None:
        """Say that the loop runs, and, once, that the worker is ready."""
        if not self._ready and not any(worker.readiness().values()):
            self._ready = True
            self.send("READY=1")
        self.send("WATCHDOG=1")

    def send(self, state: str) -> None:
        """Send one notification, if wanted; a system that does not listen is left alone."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
            line.setblocking(False)
            try:
                line.sendto(state.encode(), self._address)
            except OSError as error:
                logger.debug("systemd does not listen", extra={"reason": str(error)})
