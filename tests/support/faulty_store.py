"""An object store in memory that a test makes slow, full, read-only or unreachable."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class FaultyFileSystem(MemoryFileSystem):  # type: ignore[misc] # fsspec ships no types
    """`faulty://`; its faults are those of all instances."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    error: ClassVar[OSError | None] = None
    """Raised by every write."""
    answers: ClassVar[threading.Event] = threading.Event()
    """Writes wait until it is set."""
    truncate_to: ClassVar[int | None] = None
    """So many bytes of a file arrive, and nobody says so."""
    waiting = 0

    @classmethod
    def heal(cls) -> None:
        """Have no faults."""
        cls.error = None
        cls.truncate_to = None
        cls.answers.set()

    @classmethod
    def fail(cls, number: int) -> None:
        """Fail with an error of the operating system."""
        cls.error = OSError(number, os.strerror(number))

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        """Upload a file, as the faults allow."""
        with open(lpath, "rb") as file:  # noqa: PTH123 - fsspec's names
            content = file.read()  # as one does that is in the middle of it
        type(self).waiting += 1
        try:
            assert self.answers.wait(60), "the test forgot to let the store answer"
        finally:
            type(self).waiting -= 1
        if self.error is not None:
            raise self.error
        self.pipe_file(rpath, content[: self.truncate_to])


UNREACHABLE = errno.ECONNREFUSED
FULL = errno.ENOSPC
READ_ONLY = errno.EROFS

fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
