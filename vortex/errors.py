"""The errors of `vortex`, sorted by what their catcher does about them."""

from __future__ import annotations


class VortexError(Exception):
    """Base of every error that this package raises on purpose."""


class VortexInitializationError(VortexError):
    """A model cannot be loaded: the process should say so in one line and exit."""


class InvalidRecipeError(VortexError):
    """The recipe asks for what this worker cannot make; trying again cannot help."""


class MemoryPressureError(VortexError):
    """The hard memory limit is crossed: this slot fails, the worker goes on."""


class StageHungError(VortexError):
    """A stage did not stop within its grace period: the engine must be replaced."""


class DeviceLostError(VortexError):
    """The GPU is in an error state that only a new process clears: replace the engine."""


class StageTimeoutError(VortexError, TimeoutError):
    """A stage went over its limit and was stopped."""

    retryable = True
    """Whether another attempt may well end in time."""


class DeadlineMissError(VortexError, RuntimeError):
    """The slot cannot be finished before its deadline, so its work was stopped."""


MESSAGE_MAX_CHARS = 300


def one_line(error: BaseException) -> str:
    """Return an error's message in one line of at most 300 characters; its type if it has none.

    For errors of libraries, whose messages may be of several lines or quote whole files.
    """
    return " ".join(str(error).split())[:MESSAGE_MAX_CHARS] or type(error).__name__
