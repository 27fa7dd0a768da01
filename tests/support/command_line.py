"""Runs the command `vortex` in a process of its own, as a user does."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from consumer.config import KafkaConfig
from tests.support.command_server import Command

ROOT = Path(__file__).parents[2]
VORTEX = (sys.executable, "-c", "from consumer.cli import main; main()")
TIMEOUT_S = 90.0


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without what configures Vortex and its libraries."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("VORTEX__", "OTEL_", "HF_"))
    }
    return kept | {"COLUMNS": "200", **variables}


def vortex(
    *arguments: str,
    timeout_s: float = TIMEOUT_S,
    largest_file_bytes: int | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run it, its modules imported already; `VORTEX` is how to start it from nothing."""
    with tempfile.TemporaryDirectory() as directory:
        stdout, stderr = Path(directory, "stdout"), Path(directory, "stderr")
        stdout.touch()
        stderr.touch()
        command = Command(
            arguments=list(arguments),
            environment=environment(**variables),
            directory=str(Path.cwd()),
            stdout=str(stdout),
            stderr=str(stderr),
            largest_file_bytes=largest_file_bytes,
        )
        exit_code = _server().run(command, timeout_s)
        told = stdout.read_text(encoding="utf-8"), stderr.read_text(encoding="utf-8")
        return subprocess.CompletedProcess(arguments, exit_code, *told)


class _CommandServer:
    """The process that forks for each command, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.command_server"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def run(self, command: Command, timeout_s: float) -> int:
        """Run a command, and return its exit code; see `subprocess.run`."""
        with self._lock:
            self._requests.write(json.dumps(command).encode() + b"\n")
            pid = int(self._answers.readline())
            in_time, _, _ = select.select([self._answers], [], [], timeout_s)
            if not in_time:
                os.kill(pid, signal.SIGKILL)
            exit_code = int(self._answers.readline())
        if not in_time:
            raise subprocess.TimeoutExpired(["vortex", *command["arguments"]], timeout_s)
        return exit_code

    def close(self) -> None:
        """End the process, which runs nothing now."""
        with self._process:
            self._requests.close()


@functools.cache
def _server() -> _CommandServer:
    server = _CommandServer()
    atexit.register(server.close)
    return server


def kafka_variables(config: KafkaConfig) -> dict[str, str]:
    return {"VORTEX__KAFKA": config.model_dump_json(exclude={"security"})}


def complaint(done: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Return the one line on standard error with which a command must have failed."""
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("vortex: ")
