from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from consumer.config import ControlConfig
from consumer.control import ControlError, order, serving_control
from vortex.config import ConfigError


class Worker:
    def __init__(self) -> None:
        self.state = "serving"

    def status(self) -> Mapping[str, Any]:
        return {"state": self.state}

    def pause(self) -> None:
        self.state = "paused"

    def resume(self) -> None:
        self.state = "serving"

    def request_stop(self) -> None:
        self.state = "stopping"


async def test_orders_reach_the_worker_and_its_state_comes_back(tmp_path: Path) -> None:
    path, worker = tmp_path / "w.sock", Worker()
    async with serving_control(ControlConfig(socket=path), worker):
        for what, state in (
            ("status", "serving"),
            ("pause", "paused"),
            ("resume", "serving"),
            ("drain", "stopping"),
        ):
            said = await asyncio.to_thread(order, path, what)  # type: ignore[arg-type]
            assert said == {"state": state}
            assert worker.state == state
        assert "unknown" in (await asyncio.to_thread(order, path, "explode"))["error"]  # type: ignore[arg-type]
    assert not path.exists()


async def test_socket_is_for_the_workers_own_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    async with serving_control(ControlConfig(socket=path), Worker()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_nothing_is_served_without_a_socket() -> None:
    async with serving_control(ControlConfig(socket=None), Worker()):
        pass


async def test_socket_of_a_dead_worker_is_replaced_and_one_of_a_live_worker_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "w.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving_control(ControlConfig(socket=path), first := Worker()):
        with pytest.raises(ConfigError, match="another worker has it"):
            async with serving_control(ControlConfig(socket=path), Worker()):
                pass
        assert (await asyncio.to_thread(order, path, "pause"))["state"] == first.state == "paused"


async def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="cannot be made"):
        async with serving_control(ControlConfig(socket=path), Worker()):
            pass
    assert path.read_text() == "mine"


async def test_line_that_is_too_long_or_never_ends_does_not_hold_the_next_order(
    tmp_path: Path,
) -> None:
    path = tmp_path / "w.sock"
    async with serving_control(ControlConfig(socket=path), Worker()):
        silent_reader, silent = await asyncio.open_unix_connection(str(path))
        reader, endless = await asyncio.open_unix_connection(str(path))
        endless.write(b"x" * 100_000)
        assert await reader.read() == b""
        assert await asyncio.to_thread(order, path, "status") == {"state": "serving"}
        endless.close()
        await asyncio.sleep(0)
    assert await silent_reader.read() == b""
    silent.close()


def test_no_worker_at_the_socket_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=r"no worker answers at .*w\.sock"):
        order(tmp_path / "w.sock", "pause")
