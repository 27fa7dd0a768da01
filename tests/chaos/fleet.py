"""The worker processes of a run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from consumer.config import KafkaConfig

STOP_TIMEOUT_S = 45.0
END_TIMEOUT_S = 10.0


class WorkerStopError(Exception):
    """A worker did not stop as it was told to."""


class WorkerProcess:
    """One worker, over as many lives as it takes; all of them write to one log."""

    def __init__(
        self, worker_id: str, config: KafkaConfig | str, directory: Path, root: Path | None = None
    ) -> None:
        """Start nothing yet.

        Args:
            worker_id: names it in outcomes.
            config: the section `kafka`, or the same as JSON.
            directory: for log and artifacts.
            root: where its sources lie; None: these.
        """
        self.id = worker_id
        self.log_path = directory / f"{worker_id}.log"
        self._root = root
        text = config if isinstance(config, str) else config.model_dump_json()
        self._config = text.encode() + b"\n"
        self._artifacts = directory / "artifacts"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def exit_code(self) -> int | None:
        """How the process ended by itself; None while it runs, or after it was told to end."""
        return None if self._process is None else self._process.poll()

    @property
    def down(self) -> bool:
        """Whether it was told to end, and not to start again yet."""
        return self._process is None

    def start(self) -> None:
        """Begin a new life."""
        command = [sys.executable, "-m", "tests.chaos.worker", self.id, str(self._artifacts)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=log, cwd=self._root, env=self._environment()
            )
        assert self._process.stdin is not None
        self._process.stdin.write(self._config)
        self._process.stdin.flush()

    def kill(self) -> None:
        """End it with SIGKILL.

        Raises:
            WorkerStopError: its engine has outlived it.
        """
        children = self.children()
        process = self._let_go()
        if process is not None:
            process.kill()
            process.wait(END_TIMEOUT_S)
        _, orphans = psutil.wait_procs(children, END_TIMEOUT_S)
        for orphan in orphans:
            with suppress(psutil.NoSuchProcess):
                orphan.kill()
        if orphans:
            raise WorkerStopError(f"an engine outlived {self.id}: {orphans}")

    async def stop(self) -> None:
        """End it with SIGTERM.

        Raises:
            WorkerStopError: it does not end in time, or not with exit code 0.
        """
        process = self._let_go()
        assert process is not None
        process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            process.wait(END_TIMEOUT_S)
        # By the signal itself ends a process that has just begun, and minds no signals yet.
        if code not in (0, -signal.SIGTERM):
            how = f"with exit code {code}" if code else f"within {STOP_TIMEOUT_S:.0f} s"
            raise WorkerStopError(f"{self.id} did not stop well: {how}; log: {self.log_path}")

    def freeze(self) -> None:
        """Stop it with SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def process(self) -> psutil.Process:
        """The worker's own process, which runs."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    @property
    def engine(self) -> psutil.Process | None:
        """The process of the engine, if it has started."""
        return next(iter(self.children()), None)

    def children(self) -> list[psutil.Process]:
        """Return its child processes: the engine, if it has one of its own."""
        if self._process is None:
            return []
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _environment(self) -> dict[str, str] | None:
        return None if self._root is None else environment_of(self._root)

    def _let_go(self) -> subprocess.Popen[bytes] | None:
        """Return the process, if any, and expect its end."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
        return process


def environment_of(root: Path) -> dict[str, str]:
    """Return the environment in which Python takes our sources from a directory."""
    return {**os.environ, "PYTHONPATH": str(root)}


class Fleet:
    """All workers of a run; those that still run at the end of the context are killed."""

    def __init__(self, count: int, config: KafkaConfig, directory: Path) -> None:
        self.workers = [
            WorkerProcess(f"worker-{number}", config, directory) for number in range(count)
        ]

    def __iter__(self) -> Iterator[WorkerProcess]:
        return iter(self.workers)

    def __enter__(self) -> Self:
        try:
            for worker in self:
                worker.start()
        except BaseException:
            self._kill_all()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill_all()

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(worker.id for worker in self)

    async def stop(self) -> None:
        """End all of them with SIGTERM, at once; returns or raises once all have ended.

        Raises:
            WorkerStopError: some did not end as they were told to.
        """
        ends = await asyncio.gather(*(worker.stop() for worker in self), return_exceptions=True)
        errors = [end for end in ends if end is not None]
        for error in errors:
            if not isinstance(error, WorkerStopError):
                raise error
        if errors:
            raise WorkerStopError("; ".join(map(str, errors)))

    def _kill_all(self) -> None:
        for worker in self:
            worker.kill()
