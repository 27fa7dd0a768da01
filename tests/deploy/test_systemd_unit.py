"""The systemd unit: one worker a GPU, watched and locked in."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from consumer.config import WorkerConfig
from consumer.dispatcher import MAX_STARTS
from consumer.health import MAX_SILENCE_S

UNIT = Path(__file__).parents[2] / "deploy" / "vortex@.service"
STOPPING_S = 40


def directives() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(encoding="utf-8"), re.M):
        found.setdefault(name, []).append(value)
    return found


def test_times_outlast_those_of_the_worker() -> None:
    config, unit = WorkerConfig.load(), directives()
    longest_start_s = config.kafka.start_timeout_s + MAX_STARTS * config.engine.start_timeout_s
    assert float(unit["TimeoutStartSec"][0]) > longest_start_s
    assert float(unit["TimeoutStopSec"][0]) > config.kafka.shutdown_grace_s + STOPPING_S
    assert float(unit["WatchdogSec"][0]) > MAX_SILENCE_S


def test_worker_is_watched_and_has_the_gpu_of_its_instance() -> None:
    unit = directives()
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert "CUDA_VISIBLE_DEVICES=%i" in unit["Environment"]
    names = [value.split("=")[0] for value in unit["Environment"] if value.startswith("VORTEX__")]
    assert names == [
        "VORTEX__KAFKA__GROUP_INSTANCE_ID",
        "VORTEX__HEALTH__ADDRESS",
        "VORTEX__CONTROL__SOCKET",
    ]


def test_socket_lies_in_the_directory_that_systemd_makes_for_this_worker_alone() -> None:
    unit = directives()
    (directory,) = unit["RuntimeDirectory"]
    assert "%i" in directory
    assert f"VORTEX__CONTROL__SOCKET=/run/{directory}/control.sock" in unit["Environment"]


def test_worker_is_locked_in() -> None:
    unit = directives()
    expected = {
        "NoNewPrivileges": "true",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "ProtectHome": "true",
        "PrivateTmp": "true",
        "ProtectKernelModules": "true",
        "RestrictNamespaces": "true",
        "SystemCallFilter": "@system-service",
        "DevicePolicy": "closed",
    }
    assert {name: unit[name] for name in expected} == {
        name: [value] for name, value in expected.items()
    }


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text(encoding="utf-8").replace("/opt/vortex/bin/vortex", "/bin/true")
    (tmp_path / "vortex@.service").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(tmp_path / "vortex@.service")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "vortex@" not in done.stderr, done.stderr
