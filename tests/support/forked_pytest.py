"""Runs pytest in several processes, all of them forks of one that has imported the tests.

Run as `python -m tests.support.forked_pytest COUNT ARGUMENT...`, with pytest's arguments. Processes
that pytest-xdist starts by itself import torch, diffusers and the tests each for themselves: eleven
seconds of processor time each (November 2026). Instead, this process collects the tests once and
then serves forks, in which pytest-xdist finds all modules imported and collects within a second.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import select
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.1


def main() -> None:
    """Exit as pytest does."""
    import pytest

    count, *arguments = sys.argv[1:]
    if sys.platform != "linux":  # elsewhere, libraries do not survive a fork
        sys.exit(pytest.main([*arguments, f"--numprocesses={count}"]))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pytest.main([*arguments, "--collect-only"])  # if it fails, the forks say why
    directory = tempfile.mkdtemp(prefix="vortex-tests-")  # a TemporaryDirectory ends in a fork, too
    path = str(Path(directory, "forks"))
    worker = shlex.join((sys.executable, "-m", __spec__.name, "--fork", path))
    with socket.socket(socket.AF_UNIX) as forks:
        forks.bind(path)
        forks.listen()
        controller = _fork(
            lambda: pytest.main([*arguments, f"--tx={count}*popen//python={worker}"])
        )
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # pytest decides what it ends
        exit_code = _serve(forks, controller)
    shutil.rmtree(directory)
    sys.exit(exit_code)


def _serve(forks: socket.socket, controller: int) -> int:
    """Fork for whoever asks until pytest has ended; return its exit code."""
    while True:
        if select.select([forks], [], [], POLL_S)[0]:
            asking, _ = forks.accept()
            with asking:
                _fork(functools.partial(_work, asking))
        with contextlib.suppress(ChildProcessError):
            ended, status = os.waitpid(-1, os.WNOHANG)
            exit_code = os.waitstatus_to_exitcode(status)
            if ended == controller:
                return exit_code
            if exit_code:  # of which pytest-xdist tells that it ended, but not how
                how = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
                print(f"\nprocess {ended} of the tests ended: {how}", file=sys.stderr, flush=True)


def _fork(work: Callable[[], int]) -> int:
    """Have a child of this process do `work` and exit with what it returns; return its id.

    It does not outlive this process. It ends without the destructors of libraries, which wait for
    threads that a fork does not have.
    """
    from consumer.engine.child import _die_with  # not above, where it costs each asking process

    origin = os.getpid()
    if pid := os.fork():
        return pid
    exit_code = 1
    try:
        _die_with(origin)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exit_code = work()
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _work(asking: socket.socket) -> int:
    """Be the Python that pytest-xdist has started, with its standard streams."""
    _, streams, _, _ = socket.recv_fds(asking, 1, 3)
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
        os.close(stream)
    exec(eval(sys.stdin.readline()), {"__name__": "__main__"})  # as execnet has each Python do
    return 0


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
