from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

# Prints how many pages are cleared for memory that is freed and taken again, before and after.
TAKE_AGAIN = """
import resource
from vortex.utils.heap import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytearray(24 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = pages()
keep_freed_memory()
pages()
print(before, pages())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_memory_that_is_taken_again_is_not_cleared_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKE_AGAIN], capture_output=True, text=True, timeout=60, check=True
    )
    before, after = map(int, done.stdout.split())
    assert after < before / 10
