"""Runs pytest in several processes, all of them forks of one that has imported the tests.

Run as `python -m tests.support.forked_pytest COUNT ARGUMENT...`, with pytest's arguments. Processes
that pytest-xdist starts by itself import torch, diffusers and the tests each for themselves: eleven
seconds of processor time each (November 2026). Instead, this process collects the tests once and
then serves forks, in which pytest-xdist finds all modules imported and collects within a second.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

POLL_S = 0.1


def main() -> None:
    """Exit as pytest does."""
    import pytest

    count, *arguments = sys.argv[1:]
    if sys.platform != "linux":  # elsewhere, libraries do not survive a fork
        sys.exit(pytest.main([*arguments, f"--numprocesses={count}"]))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pytest.main([*arguments, "--collect-only"])  # if it fails, the forks say why
    gc.collect()
    gc.freeze()
    origin = os.getpid()
    directory = Path(tempfile.mkdtemp(prefix="vortex-tests-"))
    try:
        with socket.socket(socket.AF_UNIX) as forks:
            forks.bind(str(directory / "forks"))
            forks.listen()
            controller = _fork(origin)
            if controller == 0:
                forks.close()
                worker = f"{sys.executable} -m {__spec__.name} --fork {directory / 'forks'}"
                _leave(pytest.main([*arguments, f"--tx={count}*popen//python={worker}"]))
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # pytest decides what it ends
            sys.exit(_serve(forks, controller))
    finally:
        if os.getpid() == origin:
            shutil.rmtree(directory)


def _serve(forks: socket.socket, controller: int) -> int:
    """Fork for whoever asks until pytest has ended; return its exit code."""
    origin = os.getpid()
    while True:
        if select.select([forks], [], [], POLL_S)[0]:
            asking, _ = forks.accept()
            if _fork(origin) == 0:
                forks.close()
                _work(asking)
                _leave(0)
            asking.close()
        with contextlib.suppress(ChildProcessError):
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == controller:
                return os.waitstatus_to_exitcode(status)


def _fork(origin: int) -> int:
    """Fork, with a child that does not outlive this process."""
    from consumer.engine.child import _die_with

    pid = os.fork()
    if pid == 0:
        _die_with(origin)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return pid


def _work(asking: socket.socket) -> None:
    """Be the Python that pytest-xdist has started, with its standard streams."""
    _, streams, _, _ = socket.recv_fds(asking, 1, 3)
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (
        open(each, mode, closefd=False)  # noqa: PTH123 # a descriptor, not a path
        for each, mode in enumerate("rww")
    )
    exec(eval(sys.stdin.readline()), {"__name__": "__main__"})  # as execnet has each Python do


def _leave(exit_code: int) -> NoReturn:
    """End a fork without the destructors of libraries, which wait for threads it does not have."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def ask_for_fork(path: str) -> None:
    """Have the standard streams served by a fork, and wait for its end."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(path)
        socket.send_fds(asking, [b"f"], [0, 1, 2])
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1):  # whose other ends must see when the fork closes them
            os.dup2(nowhere, standard)
        asking.recv(1)


if __name__ == "__main__":
    if sys.argv[1] == "--fork":
        ask_for_fork(sys.argv[2])
    else:
        main()
