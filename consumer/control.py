"""Orders to one worker, from its own machine: a Unix socket that its own user alone may use.

One line with an order, one line of JSON back. `vortex worker` speaks it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from consumer.config import ControlConfig
from vortex.config import ConfigError

READ_TIMEOUT_S = 5.0
MAX_ORDER_BYTES = 1024

logger = logging.getLogger(__name__)

Status = Mapping[str, Any]  # Any: whatever JSON holds
Order = Literal["status", "pause", "resume", "drain"]


class Worker(Protocol):
    """What an operator may ask of the worker."""

    def status(self) -> Status:
        """Return what it is doing."""

    def pause(self) -> None:
        """Begin no slot until `resume`."""

    def resume(self) -> None:
        """Go on."""

    def request_stop(self) -> None:
        """Finish what can be finished, and end."""


class ControlError(Exception):
    """The worker cannot be reached; one line that says what to do."""


@asynccontextmanager
async def serving_control(config: ControlConfig, worker: Worker) -> AsyncIterator[None]:
    """Take orders until the end of the context, if a socket is configured.

    Raises:
        ConfigError: the socket cannot be made, or another worker has it.
    """
    path = config.socket
    if path is None:
        yield
        return
    listener = _listen(path)
    orders: Mapping[str, Callable[[], None]] = {
        "status": lambda: None,
        "pause": worker.pause,
        "resume": worker.resume,
        "drain": worker.request_stop,
    }

    lines: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.add(writer)
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                order = (await reader.readline()).decode(errors="replace").strip()
                if order in orders:
                    orders[order]()
                    said = worker.status()
                else:
                    said = {"error": f"unknown order; known: {', '.join(orders)}"}
                writer.write(json.dumps(said).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError) as error:
            logger.debug("Order not answered", extra={"reason": repr(error)})
        finally:
            writer.close()
            lines.discard(writer)

    server = await asyncio.start_unix_server(answer, sock=listener, limit=MAX_ORDER_BYTES)
    logger.info("Orders are taken", extra={"socket": str(path)})
    try:
        yield
    finally:
        server.close()
        for writer in list(lines):
            writer.close()
        while lines:  # each ends as its line does, at the latest after READ_TIMEOUT_S
            await asyncio.sleep(0.01)
        with suppress(FileNotFoundError):
            path.unlink()


def _listen(path: Path) -> socket.socket:
    """Return a socket at the path; one that a dead worker has left is replaced.

    Nobody can connect before the worker listens, and by then others may not.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and not _is_served(path):
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        taken = "; another worker has it, and each needs one of its own" if path.is_socket() else ""
        raise ConfigError(
            f"control.socket: {path} cannot be made: {error.strerror or error}{taken}"
        ) from error
    return listener


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


def order(path: Path, what: Order) -> dict[str, Any]:  # Any: whatever JSON holds
    """Give the worker at a socket an order, and return its status; blocks for seconds at most.

    Raises:
        ControlError: no worker answers.
    """
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(2 * READ_TIMEOUT_S)
        try:
            line.connect(str(path))
            line.sendall(what.encode() + b"\n")
            with line.makefile() as said:
                answer: dict[str, Any] = json.loads(said.readline())
        except (OSError, ValueError) as error:
            raise ControlError(
                f"no worker answers at {path}: {getattr(error, 'strerror', None) or error}; is it"
                " running, with this control.socket, and are you its user?"
            ) from error
    return answer
