"""The processes that share a measurement."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def pool(processes: int) -> ProcessPoolExecutor:
    """Return as many new Pythons.

    Forks would hang where this process has used a library with threads, such as PyAV: a fork has
    its objects, waits for their threads when it collects them, and has no such threads.
    """
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
