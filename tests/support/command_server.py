"""Runs `vortex` in forks of one process that has imported it, which takes most of a command's time.

Run as `python -m tests.support.command_server`. A line of standard input is a command, as JSON; two
lines answer it: the id of its process and, when it has ended, its exit code.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import suppress
from typing import TypedDict

from consumer.cli import main
from vortex.utils.heap import import_for_good


class Command(TypedDict):
    """What a process is given."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str
    """Where it works; `stdout` and `stderr` are the files that it writes to."""
    stdout: str
    stderr: str
    largest_file_bytes: int | None
    """Larger files it cannot write."""


def become(command: Command) -> None:
    """Turn this process into that of a command which has yet to begin."""
    os.environ.clear()
    os.environ.update(command["environment"])
    os.chdir(command["directory"])
    sys.argv = ["vortex", *command["arguments"]]
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, command["stdout"], os.O_WRONLY),
        (2, command["stderr"], os.O_WRONLY),
    ):
        os.dup2(os.open(path, flags), descriptor)
    if (limit := command["largest_file_bytes"]) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def serve() -> None:
    """Run command after command until standard input ends; in a fork, run the command."""
    import_for_good("consumer.cli.app")  # frozen, so that no fork looks through it when it ends
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(json.loads(line))
            main()
            return
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        serve()
