"""Ending a process whose threads may hang: model loading, a GPU or a store that does not answer."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import typer

THREADS_GRACE_S = 1.0

logger = logging.getLogger(__name__)


class AbandonableThreads(ThreadPoolExecutor):
    """A pool for an event loop, whose end waits for no thread; `leave` decides about these."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work and return immediately, whatever `wait` says."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def leave(exit_code: int) -> None:
    """End the process, without the threads that are still busy after a moment.

    Python would wait for them forever, and nothing can stop a thread.
    """
    give_up_at_s = time.monotonic() + THREADS_GRACE_S
    busy = []
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(max(0.0, give_up_at_s - time.monotonic()))
            if thread.is_alive():
                busy.append(thread.name)
    if busy:
        logger.warning("Ended without threads that are still busy", extra={"threads": busy})
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    raise typer.Exit(exit_code)
