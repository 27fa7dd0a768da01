"""The demo's output directory: new, empty, or marked by an earlier demo; never anybody else's."""

from __future__ import annotations

import re
from pathlib import Path

from consumer.artifacts.store import TEMPORARY_SUFFIX

MARK_NAME = ".vortex-demo"
PAGE_NAME = "index.html"
SHEET_NAME = "sheet.png"
TRACE_NAME = "trace.jsonl"
LOG_NAME = "worker.log"
SLOTS_NAME = "slots"

_VIDEO_OR_CAPTIONS = re.compile(r"[0-9]+-[0-9a-f]{12}\.(mp4|vtt)")
_MARK = "`vortex demo` made this directory, and replaces its own files in it at every run.\n"


class OutputError(Exception):
    """The demo must not or cannot write there; the message is one line that says what to do."""


def check_output(directory: Path) -> None:
    """Touch nothing, and tell whether the demo may write there.

    Raises:
        OutputError: it is not a directory, or holds files and has no mark.
    """
    try:
        if not directory.exists():
            if directory.is_symlink():
                raise OutputError(f"--output {directory} is a link to nowhere; name another")
            return
        if not directory.is_dir():
            raise OutputError(f"--output {directory} is not a directory; name another")
        mark = directory / MARK_NAME
        marked = mark.is_file() and not mark.is_symlink()
        if not marked and any(directory.iterdir()):
            raise OutputError(
                f"--output {directory} holds files that `vortex demo` did not write;"
                " name a new or an empty directory, or empty this one"
            )
    except OSError as error:
        raise OutputError(f"--output {directory} cannot be read: {error}") from error


def prepare_output(directory: Path) -> None:
    """Make and mark the directory, and remove what an earlier demo wrote there, and only that.

    Raises:
        OutputError: as `check_output`, or it cannot be written.
    """
    check_output(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MARK_NAME).write_text(_MARK, encoding="utf-8")
        for name in (PAGE_NAME, SHEET_NAME, TRACE_NAME, LOG_NAME):
            (directory / name).unlink(missing_ok=True)
        _remove_slots(directory / SLOTS_NAME)
    except OSError as error:
        raise OutputError(
            f"--output {directory} cannot be written: {error}; name another directory"
        ) from error


def _remove_slots(slots: Path) -> None:
    """Remove videos, finished or not, and captions of the demo's one channel; follow no links."""
    channel = slots / "main"
    for directory in (slots, channel):
        if directory.is_symlink():
            directory.unlink()
    ours = [
        path
        for path in channel.glob("*.*")
        if _VIDEO_OR_CAPTIONS.fullmatch(path.name) or path.name.endswith(TEMPORARY_SUFFIX)
    ]
    for path in [*ours, *slots.glob(".write-check-*")]:
        path.unlink()
    for directory in (channel, slots):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
