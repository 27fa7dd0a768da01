"""The command that runs all the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")

# Each file is a process's: one passes, in a fork of a process that has imported it; one fails.
PASSES = """
import os
IMPORTED_BY = os.getpid()

def test_runs_in_a_fork_of_the_process_that_imported_it():
    assert os.getpid() != IMPORTED_BY
"""
FAILS = """
def test_fails():
    assert 0, "as it should"
"""
DIES = """
import os

def test_dies():
    os.kill(os.getpid(), 9)
"""


def run(directory: Path, **files: str) -> subprocess.CompletedProcess[str]:
    for name, text in files.items():
        (directory / f"test_{name}.py").write_text(text, encoding="utf-8")
    # As `make test` runs it.
    arguments = ("2", "--dist=loadfile", "--max-worker-restart=0")
    command = (sys.executable, "-m", "tests.support.forked_pytest", *arguments)
    # A directory apart from the tests, whose settings and plugins it does not need.
    settings = ("-p", "xdist", "--rootdir", directory, "-c", os.devnull, directory)
    return subprocess.run(
        [*command, *settings],
        capture_output=True,
        text=True,
        timeout=90,
        env=os.environ | {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=False,
    )


def test_forks_run_the_tests_and_pytests_exit_code_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, passes=PASSES, fails=FAILS)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "as it should" in done.stdout


def test_fork_that_dies_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    done = run(tmp_path, dies=DIES, passes=PASSES)
    assert done.returncode != 0
    assert "crashed while running 'test_dies.py::test_dies'" in done.stdout
    assert re.search(r"process [0-9]+ of the tests ended: SIGKILL", done.stderr), done.stderr
    ours = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    assert not [each for each in ours if str(tmp_path) in each]
