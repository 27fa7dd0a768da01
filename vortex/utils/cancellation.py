"""Cooperative cancellation of work that runs in a thread."""

from __future__ import annotations

import threading


class StageCancelled(Exception):  # noqa: N818 - it is an outcome, not a failure
    """The stage was told to stop and did so between two steps."""


class CancellationToken:
    """A flag that a stage's thread polls between denoising steps, sentences or frame batches.

    A thread cannot be killed from outside, so work that must be stoppable asks `raise_if_cancelled`
    often enough that a timeout ends it within one step. Safe to share between threads.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether the work should stop."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Ask the work to stop at its next step; asking twice does no harm."""
        self._event.set()

    def raise_if_cancelled(self) -> None:
        """Return at once while the work may go on.

        Raises:
            StageCancelled: `cancel` was called.
        """
        if self._event.is_set():
            raise StageCancelled
