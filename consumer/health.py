"""Health over HTTP: `/live` and `/ready`, each with a JSON body that says what is wrong.

The server has threads of its own, so it answers while the worker's event loop hangs, and can say
so. What it tells comes from the loop's last heartbeat; no handler touches the worker.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from consumer.config import HealthConfig
from vortex.config import ConfigError

BEAT_S = 0.5
MAX_SILENCE_S = 30.0
"""How long the loop may be silent before the worker counts as hung: far above any pause of its."""
REQUEST_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)

Checks = Mapping[str, str | None]
"""The name of each check to what is wrong, None if nothing is."""


class Worker(Protocol):
    """What is asked of the worker, at every beat."""

    def readiness(self) -> Checks:
        """Return what keeps the worker from serving a tick now."""


@dataclass(frozen=True)
class Answer:
    """What a path answers."""

    status: int
    body: bytes
    content_type: str = "application/json"


Route = Callable[[], Answer]


class Health:
    """What the loop last said of itself; written by the loop, read by the server's threads."""

    def __init__(
        self,
        max_silence_s: float = MAX_SILENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_silence_s = max_silence_s
        self._clock = clock
        self._last: tuple[float, Checks] = clock(), {"worker": "has not started yet"}

    def beat(self, checks: Checks) -> None:
        """Record that the loop runs, and what the worker says."""
        self._last = self._clock(), dict(checks)

    def live(self) -> Answer:
        """Answer whether the event loop runs; Kafka, GPU and store have no say in this."""
        return _answer({"loop": self._silence()})

    def ready(self) -> Answer:
        """Answer whether the worker can serve a tick now."""
        return _answer({"loop": self._silence(), **self._last[1]})

    def _silence(self) -> str | None:
        silence_s = self._clock() - self._last[0]
        if silence_s <= self._max_silence_s:
            return None
        return f"has not run for {silence_s:.1f} s, more than {self._max_silence_s:g} s"


def _answer(checks: Checks) -> Answer:
    problems = {name: problem for name, problem in checks.items() if problem is not None}
    body = {
        "status": "not ok" if problems else "ok",
        "problems": problems,
        "checks": {name: problem or "ok" for name, problem in checks.items()},
    }
    return Answer(503 if problems else 200, json.dumps(body).encode() + b"\n")


class HttpServer:
    """Answers GET for a few paths, from threads of its own."""

    def __init__(self, host: str, port: int, routes: Mapping[str, Route]) -> None:
        """Bind the address.

        Raises:
            OSError: it cannot be bound.
        """
        self._server = _server_class(host)((host.strip("[]"), port), _handler(routes))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="health", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is bound; of use where port 0 was asked for."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Serve until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving; takes half a second at most."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _server_class(host: str) -> type[ThreadingHTTPServer]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False  # an idle connection must not hold up the worker's end
        address_family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET

    return Server


def _handler(routes: Mapping[str, Route]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S

        def do_GET(self) -> None:  # http.server's name
            route = routes.get(self.path.partition("?")[0])
            known = ", ".join(routes)
            answer = route() if route else Answer(404, f"known: {known}\n".encode(), "text/plain")
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            logger.debug("Health request", extra={"request": format % args})

    return Handler


@asynccontextmanager
async def serving_health(
    config: HealthConfig,
    worker: Worker,
    *,
    routes: Mapping[str, Route] | None = None,
    max_silence_s: float = MAX_SILENCE_S,
) -> AsyncIterator[int | None]:
    """Serve the worker's health until the end of the context; yields the port, None if off.

    Args:
        config: the address.
        worker: asked at every beat.
        routes: further paths.
        max_silence_s: how long the loop may be silent.

    Raises:
        ConfigError: the address cannot be bound.
    """
    if config.address is None:
        yield None
        return
    health = Health(max_silence_s)
    host, _, port = config.address.rpartition(":")
    try:
        server = HttpServer(
            host, int(port), {"/live": health.live, "/ready": health.ready, **(routes or {})}
        )
    except OSError as error:
        raise ConfigError(
            f"health.address: {config.address} cannot be bound: {error.strerror or error};"
            " choose another one, or null for none"
        ) from error
    beating = asyncio.create_task(_beat(health, worker), name="heartbeat")
    server.start()
    logger.info("Health is served", extra={"host": host, "port": server.port})
    try:
        yield server.port
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        server.stop()


async def _beat(health: Health, worker: Worker) -> None:
    while True:
        health.beat(worker.readiness())
        await asyncio.sleep(BEAT_S)
