"""What becomes of memory that tensors on the CPU have given back."""

from __future__ import annotations

import ctypes

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
