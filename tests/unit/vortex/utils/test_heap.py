from __future__ import annotations

import ctypes
import json
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


# Prints how many objects the collector leaves alone after an import, a second one and a failed one,
# and whether it goes on collecting.
IMPORT = """
import gc, json
from vortex.utils.heap import import_for_good

counts = []
for module in ("fractions", "fractions", "not.there"):
    try:
        import_for_good(module)
    except ModuleNotFoundError:
        counts.append(-1)
    counts.append(gc.get_freeze_count())
import fractions
print(json.dumps([counts, gc.isenabled(), fractions.Fraction in gc.get_objects()]))
"""


def test_collector_leaves_alone_what_was_imported_for_good_and_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=60, check=True
    )
    counts, collecting, looked_through = json.loads(done.stdout)
    first, second, refused, third = counts
    assert 0 < first == second <= third
    assert refused == -1
    assert collecting
    assert not looked_through
