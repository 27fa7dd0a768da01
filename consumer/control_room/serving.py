"""Runs the control room's server in an event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette

from consumer.config import WorkerConfig
from consumer.control_room.feed import reading
from consumer.control_room.replay import Replays
from consumer.control_room.server import make_app

STOP_TIMEOUT_S = 2


class QuietServer(uvicorn.Server):
    """Leaves signals to whoever runs the loop; uvicorn's own would swallow Ctrl-C."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Change nothing about them."""
        yield


def server_config(app: Starlette) -> uvicorn.Config:
    """Return how the application is served."""
    return uvicorn.Config(
        app,
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,  # pages keep their stream open
    )


class Served:
    """A server that runs."""

    def __init__(self, address: str, task: asyncio.Task[None]) -> None:
        self.address = address
        """URL of the page."""
        self._task = task

    async def ended(self) -> None:
        """Return when the server has ended by itself."""
        await asyncio.wait({self._task})


@asynccontextmanager
async def serving(
    settings: WorkerConfig, host: str, port: int, since_s: float | None
) -> AsyncIterator[Served]:
    """Serve the page until the end of the context.

    Args:
        settings: brokers, topics, and where the videos are.
        host: address to listen on.
        port: 0 takes a free one.
        since_s: how much of the past is shown; None: all of it.

    Raises:
        KafkaUnreachableError: no broker answers, or a topic may not be read.
        OSError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        bound = listener.getsockname()[1]
        async with reading(settings.kafka, since_s) as feed:
            server = QuietServer(
                server_config(make_app(feed, settings.artifacts, Replays(settings.kafka)))
            )
            task = asyncio.create_task(server.serve(sockets=[listener]), name="control room")
            shown = f"[{host}]" if ":" in host else host
            try:
                yield Served(f"http://{shown}:{bound}/", task)
            finally:
                server.should_exit = True
                await asyncio.wait({task}, timeout=2 * STOP_TIMEOUT_S)
