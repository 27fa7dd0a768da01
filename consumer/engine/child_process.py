"""A child process with a line to it, and an end that is certain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Sequence

from consumer.engine.messages import Line
from consumer.process_memory import memory_bytes

KILL_TIMEOUT_S = 5.0


class ChildProcess:
    """A process that is started, not forked, in a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process, line: Line) -> None:
        self._process = process
        self.line = line
        self.pid = process.pid

    @classmethod
    async def spawn(cls, command: Sequence[str]) -> ChildProcess:
        """Start `command DESCRIPTOR PARENT_PID` with one end of a socket pair."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return cls(process, await Line.over(ours))

    @property
    def alive(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.returncode is None

    def memory_bytes(self) -> int:
        """Return the main memory that the process holds; 0 where there is no `/proc`."""
        return memory_bytes(self.pid)

    def send_kill(self) -> None:
        """Kill the process and all that it started, without waiting for their end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def ask_to_end(self, timeout_s: float) -> None:
        """Cut the line, at which the process ends by itself, and wait for that so long."""
        self.line.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._process.wait()

    async def kill(self) -> None:
        """Kill the process and all that it started.

        Raises:
            TimeoutError: the kernel does not let go of it.
        """
        self.send_kill()
        async with asyncio.timeout(KILL_TIMEOUT_S):
            await self._process.wait()
        self.line.close()

    async def end(self) -> str:
        """Wait for the end of a process that has cut its line; say how it ended."""
        try:
            async with asyncio.timeout(KILL_TIMEOUT_S):
                code = await self._process.wait()
        except TimeoutError:
            self.send_kill()
            return "it closed its line and went on"
        if code >= 0:
            return f"exit code {code}"
        return signal.Signals(-code).name
