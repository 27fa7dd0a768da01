"""What becomes of memory: what tensors on the CPU have given back, and what imports leave."""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys

# Parameters of `mallopt`, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_KEPT_BYTES = 32 * 2**20  # the most that glibc takes
_KEPT_BYTES = 128 * 2**20


def keep_freed_memory() -> None:
    """Have the C library keep up to 128 MiB of freed memory for what comes next.

    glibc otherwise gives the memory of large tensors back to the system after every operation, and
    gets it cleared, page by page, for the next one. That was a quarter of the time in which a CPU
    draws a frame of `mini` (November 2026). Other C libraries are left as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def import_for_good(module: str) -> None:
    """Import a module, and have the garbage collector leave alone all that is there by then.

    It would look through all of it again and again while it comes, and later each time that it
    looks through everything: a fifth of the 6 s that the pipeline takes to import, and then 0.3 s
    each time (November 2026). Nothing happens if the module has been imported before.
    """
    if module in sys.modules:
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module(module)
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
