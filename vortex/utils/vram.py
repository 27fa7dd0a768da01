"""Limits of GPU memory, looked at before, while and after a stage works."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from vortex.errors import MemoryPressureError, VortexInitializationError
from vortex.utils.cancellation import CancellationToken, StageCancelled

if TYPE_CHECKING:
    import torch


SAMPLE_INTERVAL_S = 0.1


class MemoryPressureWarning(UserWarning):
    """The soft memory limit is crossed: slots are still made, and someone should look."""


class VRAMMonitor:
    """Compares the memory in use with a soft limit, which warns, and a hard one, which raises.

    The warning comes once for every crossing of the soft limit, not at every check above it.
    """

    def __init__(
        self,
        soft_limit_bytes: int,
        hard_limit_bytes: int,
        read_allocated_bytes: Callable[[], int],
    ) -> None:
        """Nothing is read before `check` or `watching`.

        Args:
            soft_limit_bytes: use above it is warned of.
            hard_limit_bytes: use above it fails the slot; not below the soft limit.
            read_allocated_bytes: tells the memory in use, see `allocated_bytes_reader`.

        Raises:
            ValueError: the soft limit is above the hard one.
        """
        if soft_limit_bytes > hard_limit_bytes:
            raise ValueError(
                f"soft_limit_bytes {soft_limit_bytes} is above hard_limit_bytes {hard_limit_bytes}"
            )
        self._soft_limit_bytes = soft_limit_bytes
        self._hard_limit_bytes = hard_limit_bytes
        self._read_allocated_bytes = read_allocated_bytes
        self._crossings = 0
        self._above = False
        self._lock = threading.Lock()  # audio and image are watched at the same time

    @contextmanager
    def watching(
        self, stage: str, token: CancellationToken, *, interval_s: float = SAMPLE_INTERVAL_S
    ) -> Iterator[None]:
        """Check before and after a stage's work, and from a thread of its own in between.

        Above the hard limit the token is cancelled, so that the work stops at its next step.

        Warns:
            MemoryPressureWarning: see `check`.

        Raises:
            MemoryPressureError: the hard limit was crossed before, during or after the work.
        """
        self.check(stage)
        ended = threading.Event()
        pressure: list[Exception] = []

        def sample() -> None:
            while not ended.wait(interval_s):
                try:
                    self.check(stage)
                except (MemoryPressureError, MemoryPressureWarning) as error:  # made strict
                    pressure.append(error)
                    token.cancel()
                    return

        sampler = threading.Thread(target=sample, name="vortex-vram", daemon=True)
        sampler.start()
        try:
            yield
        except StageCancelled:
            if pressure:
                raise pressure[0] from None
            raise
        finally:
            ended.set()
            sampler.join()
        if pressure:
            raise pressure[0]
        self.check(stage)

    def check(self, stage: str) -> None:
        """Read the memory in use and say if it is too much; quick, from any thread.

        Args:
            stage: what is running, for the message.

        Warns:
            MemoryPressureWarning: the soft limit was crossed since the last check below it.

        Raises:
            MemoryPressureError: the hard limit is crossed.
        """
        used_bytes = self._read_allocated_bytes()
        with self._lock:
            crossed = used_bytes > self._soft_limit_bytes and not self._above
            self._above = used_bytes > self._soft_limit_bytes
            self._crossings += crossed
        if used_bytes > self._hard_limit_bytes:
            raise MemoryPressureError(_message(stage, used_bytes, "hard", self._hard_limit_bytes))
        if crossed:
            # Numbered, as the warnings module shows one text only once.
            message = _message(stage, used_bytes, "soft", self._soft_limit_bytes)
            warnings.warn(
                f"{message} (crossing {self._crossings})", MemoryPressureWarning, stacklevel=2
            )


def allocated_bytes_reader(device: torch.device) -> Callable[[], int]:
    """Return a function that tells the bytes held by tensors on a device; 0 off the GPU."""
    import torch  # takes seconds, and the limits alone do not need it

    return partial(torch.cuda.memory_allocated, device) if device.type == "cuda" else lambda: 0


@contextmanager
def loading(model: str, device: torch.device, needed_bytes: int) -> Iterator[None]:
    """Say in one line what is missing when a model does not fit on its device.

    Args:
        model: its name, for the message.
        device: where it is put.
        needed_bytes: what it will hold there.

    Raises:
        VortexInitializationError: the device ran out of memory.
    """
    import torch

    free_bytes = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise VortexInitializationError(
            out_of_memory_at_load(model, str(device), needed_bytes, free_bytes)
        ) from error


def out_of_memory_at_load(
    model: str, device: str, needed_bytes: int, free_bytes: int | None
) -> str:
    """Return the line that says which model did not fit, and what to do about it."""
    free = "" if free_bytes is None else f" and {free_bytes / 1e9:.2f} GB were free"
    return (
        f"{model}: out of memory on {device} while loading: it needs {needed_bytes / 1e9:.2f} GB"
        f"{free}; stop what else uses {device}, or set models.flux_quantization and"
        " models.clip_quantization to fewer bits"
    )


def _message(stage: str, used_bytes: int, kind: str, limit_bytes: int) -> str:
    return (
        f"{stage}: {used_bytes / 1e9:.3f} GB of memory in use,"
        f" above the {kind} limit of {limit_bytes / 1e9:.3f} GB"
    )
