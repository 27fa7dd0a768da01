"""Health over HTTP: what is answered, also while the event loop hangs."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from typing import Any

import pytest

from consumer.config import HealthConfig
from consumer.health import Answer, Health, serving_health
from vortex.config import ConfigError

LOCAL = HealthConfig(address="127.0.0.1:0")


class Worker:
    def __init__(self) -> None:
        self.checks: dict[str, str | None] = {"engine": None}
        self.asked = 0

    def readiness(self) -> dict[str, str | None]:
        self.asked += 1
        return self.checks


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


async def asked(port: int | None, path: str) -> tuple[int, Any]:
    assert port is not None
    status, body = await asyncio.to_thread(get, port, path)
    return status, json.loads(body)


async def beats(worker: Worker, count: int = 2) -> None:
    end = worker.asked + count
    async with asyncio.timeout(30):
        while worker.asked < end:
            await asyncio.sleep(0.01)


async def test_ready_says_what_is_wrong_and_live_does_not_care() -> None:
    worker = Worker()
    worker.checks = {"engine": "has not started", "group": None}
    async with serving_health(LOCAL, worker) as port:
        await beats(worker)
        status, body = await asked(port, "/ready")
        assert (status, body["problems"]) == (503, {"engine": "has not started"})
        assert body["checks"]["group"] == "ok"
        assert (await asked(port, "/live"))[0] == 200
        worker.checks = {"engine": None}
        await beats(worker)
        assert (await asked(port, "/ready"))[0] == 200


async def test_hanging_loop_is_neither_live_nor_ready_and_is_told_while_it_hangs() -> None:
    answers: list[tuple[int, str]] = []
    worker = Worker()
    async with serving_health(LOCAL, worker, max_silence_s=0.8) as port:
        await beats(worker)
        assert port is not None
        assert (await asked(port, "/live"))[0] == 200

        def ask() -> None:
            end_s = time.monotonic() + 20
            while get(port, "/live")[0] == 200 and time.monotonic() < end_s:
                time.sleep(0.05)
            answers.extend((get(port, "/live"), get(port, "/ready")))

        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(30)  # the event loop hangs here
        await beats(worker)
        assert (await asked(port, "/live"))[0] == 200
    assert [status for status, _ in answers] == [503, 503]
    assert "has not run for" in answers[0][1]


async def test_worker_that_fails_to_say_how_it_is_does_not_stay_live() -> None:
    class Broken(Worker):
        def readiness(self) -> dict[str, str | None]:
            raise RuntimeError

    async with serving_health(LOCAL, Broken(), max_silence_s=0.1) as port:
        async with asyncio.timeout(10):
            while (await asked(port, "/live"))[0] == 200:
                await asyncio.sleep(0.02)


async def test_further_paths_are_served_and_unknown_ones_are_told() -> None:
    routes = {"/more": lambda: Answer(200, b"more", "text/plain")}
    async with serving_health(LOCAL, Worker(), routes=routes) as port:
        assert port is not None
        assert await asyncio.to_thread(get, port, "/more?x=1") == (200, "more")
        status, said = await asyncio.to_thread(get, port, "/")
        assert (status, said) == (404, "known: /live, /ready, /more\n")


async def test_idle_connection_does_not_hold_up_the_end() -> None:
    async with serving_health(LOCAL, Worker()) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 3
    writer.close()


async def test_address_in_use_is_one_line_that_names_the_key() -> None:
    async with serving_health(LOCAL, Worker()) as port:
        with pytest.raises(ConfigError, match=rf"health.address: 127.0.0.1:{port} cannot be bound"):
            async with serving_health(HealthConfig(address=f"127.0.0.1:{port}"), Worker()):
                pass


async def test_null_serves_nothing() -> None:
    worker = Worker()
    async with serving_health(HealthConfig(address=None), worker) as port:
        assert port is None
    assert worker.asked == 0


def test_worker_that_was_never_heard_of_is_not_ready() -> None:
    assert Health().ready().status == 503
