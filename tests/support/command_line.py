"""Runs the command `vortex` in a process of its own, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys

from consumer.config import KafkaConfig

VORTEX = (sys.executable, "-c", "from consumer.cli import main; main()")
TIMEOUT_S = 90.0


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without what configures Vortex or OpenTelemetry."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("VORTEX__", "OTEL_"))
    }
    return kept | {"COLUMNS": "200", **variables}


def vortex(
    *arguments: str, timeout_s: float = TIMEOUT_S, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*VORTEX, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(**variables),
        check=False,
    )


def kafka_variables(config: KafkaConfig) -> dict[str, str]:
    return {"VORTEX__KAFKA": config.model_dump_json(exclude={"security"})}


def complaint(done: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Return the one line on standard error with which a command must have failed."""
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("vortex: ")
