"""A file system of a few hundred kilobytes, which fills up as a real disk does."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs at `path`, while its context is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / ".filler"

    def fill(self, leave_bytes: int) -> None:
        """Leave so many bytes, in whole pages."""
        with self._filler.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):  # that the disk is full
                while file.write(b"\0" * 4096):
                    pass
            file.truncate(file.tell() - leave_bytes)

    def free(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink()

    def writable(self, writable: bool) -> None:
        """Remount it."""
        mode = "rw" if writable else "ro"
        subprocess.run(("mount", "-o", f"remount,{mode}", self.path), check=True)


@contextmanager
def small_disk(path: Path, size: str = "1m") -> Iterator[SmallDisk]:
    """Mount one; skips the test where this user may not."""
    path.mkdir(parents=True)
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path), capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(("umount", "--lazy", path), check=True)
