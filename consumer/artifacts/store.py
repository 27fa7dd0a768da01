"""Where finished videos are kept: a directory, or anything that fsspec knows."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from consumer.artifacts.errors import ArtifactStoreError
from consumer.artifacts.media import EncodedMedia
from consumer.artifacts.store_threads import StoreThreads
from vortex.utils.files import sha256_of

T = TypeVar("T")

TEMPORARY_SUFFIX = ".part.mp4"
ABANDONED_AFTER_S = 3600.0
NAME_DIGITS = 12


@dataclass(frozen=True)
class StoredArtifact:
    """A video that is durable and whole."""

    uri: str
    bytes: int
    sha256: str
    captions_uri: str | None = None
    """Where the video's captions are, if it has any."""


PROBE_BYTES = 64 * 1024
"""Written to prove that the store has room: a full disk still takes empty files."""


class ArtifactStore:
    """Stores each slot's video as `{channel}/{slot_id}-{sha256}.mp4`, whole or not at all.

    Of the checksum the name has the first twelve digits, so that whoever makes a slot again (a
    worker that takes over, one that was frozen and thaws) never changes a video that an outcome
    names already. Same bytes, same name.

    A video gets its final name by a rename at the very end. On a local disk that is atomic, and
    the file is flushed to the disk before it. On object stores fsspec copies and deletes; there an
    object appears whole anyway. All methods but `put_in_thread` block.
    """

    def __init__(self, url: str, storage_options: dict[str, str] | None = None) -> None:
        """Look up the file system of the URL, without connecting to it.

        Args:
            url: a directory or an fsspec URL such as `s3://bucket/slots`.
            storage_options: passed to fsspec.

        Raises:
            ArtifactStoreError: the protocol is unknown, or the package for it is missing.
        """
        self._url = url
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **(storage_options or {}))
        except (ValueError, ImportError) as error:
            raise ArtifactStoreError(f"artifacts.url {url}: {error}") from error
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        self._threads = StoreThreads()

    def scratch_path(self, channel: str, slot_id: int) -> Path:
        """Return an unused path on the local disk to encode to.

        For a local store it is in the final directory, so that storing is a rename.

        Raises:
            ArtifactStoreError: its directory cannot be made.
        """
        if not self._local:
            return Path(tempfile.gettempdir()) / f"{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
        folder = Path(self._folder(channel))
        self._attempt(lambda: folder.mkdir(parents=True, exist_ok=True))
        return folder / f".{slot_id}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"

    async def put_in_thread(
        self, media: EncodedMedia, channel: str, slot_id: int
    ) -> StoredArtifact:
        """Do what `put` does without blocking; cancelling leaves a store behind that hangs.

        What arrives in the store after that gets no final name.

        Raises:
            ArtifactStoreError: also if too many earlier calls hang.
        """
        given_up = threading.Event()
        try:
            return await self._threads.run(lambda: self.put(media, channel, slot_id, given_up))
        finally:
            given_up.set()

    def put(
        self,
        media: EncodedMedia,
        channel: str,
        slot_id: int,
        given_up: threading.Event | None = None,
    ) -> StoredArtifact:
        """Move a finished video to its final name; returns when it is durable.

        Args:
            media: the finished file, which is gone afterwards.
            channel: the slot's channel.
            slot_id: the slot.
            given_up: once it is set, an upload under way gets no final name.

        Raises:
            ArtifactStoreError: it could not be stored; older videos of the slot are as they were.
        """
        stem = f"{self._folder(channel)}/{slot_id}-{media.sha256[:NAME_DIGITS]}"
        final = f"{stem}.mp4"
        uri = self._fs.unstrip_protocol(final)
        with contextlib.ExitStack() as on_failure:
            captions_uri = None
            if media.captions is not None:
                captions_uri = self._put_captions(media.captions, f"{stem}.vtt", on_failure)
            if self._local:
                self._attempt(lambda: _rename_durably(media.path, Path(final)))
            else:
                self._attempt(lambda: self._upload(media, final, given_up))
                media.path.unlink(missing_ok=True)
            on_failure.pop_all()
        return StoredArtifact(uri, media.bytes, media.sha256, captions_uri)

    def _put_captions(self, captions: str, final: str, on_failure: contextlib.ExitStack) -> str:
        """Store captions, before the video that they belong to; return where."""
        content = captions.encode()
        if not self._attempt(lambda: self._fs.exists(final)):  # else those of an older video
            on_failure.callback(self._remove_quietly, final)
        if self._local:
            temporary = Path(final).with_name(f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")

            def write() -> None:
                temporary.write_bytes(content)
                _rename_durably(temporary, Path(final))

            self._attempt(write)
        else:
            self._attempt(lambda: self._fs.pipe_file(final, content))
        uri: str = self._fs.unstrip_protocol(final)
        return uri

    def _remove_quietly(self, path: str) -> None:
        with contextlib.suppress(Exception):  # the first error is the one that counts
            self._fs.rm_file(path)

    def is_whole(self, uri: str, sha256: str) -> bool:
        """Return whether the video at `uri` is there and has this checksum."""
        path = self._fs._strip_protocol(uri)
        if not self._fs.exists(path):
            return False
        if self._local:
            return sha256_of(Path(path)) == sha256
        with tempfile.NamedTemporaryFile() as copy:
            self._fs.get_file(path, copy.name)
            return sha256_of(Path(copy.name)) == sha256

    def check(self) -> None:
        """Prove that the store can be written, and clear away what dead workers left behind.

        Raises:
            ArtifactStoreError: it cannot; one line with the place and the reason.
        """
        self.try_writing()
        if self._local:
            self._attempt(self._sweep)

    def try_writing(self) -> None:
        """Prove that the store can be written.

        Raises:
            ArtifactStoreError: it cannot; one line with the place and the reason.
        """
        probe = f"{self._root}/.write-check-{uuid.uuid4().hex}"

        def write_and_remove() -> None:
            self._fs.makedirs(self._root, exist_ok=True)
            try:
                self._fs.pipe_file(probe, bytes(PROBE_BYTES))
            finally:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(probe)

        self._attempt(write_and_remove)

    def _sweep(self) -> None:
        abandoned_s = time.time() - ABANDONED_AFTER_S
        for path in Path(self._root).glob(f"*/.*{TEMPORARY_SUFFIX}"):
            if path.stat().st_mtime < abandoned_s:
                path.unlink(missing_ok=True)

    def _folder(self, channel: str) -> str:
        # The contract allows dots in a channel's name; two of these names mean something else here.
        folder = channel.replace(".", "%2E") if channel in (".", "..") else channel
        return f"{self._root}/{folder}"

    def _upload(self, media: EncodedMedia, final: str, given_up: threading.Event | None) -> None:
        temporary = f"{final}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
        self._fs.makedirs(final.rsplit("/", 1)[0], exist_ok=True)
        try:
            self._fs.put_file(str(media.path), temporary)
            self._check_arrived(temporary, media.bytes, given_up)
            self._fs.mv(temporary, final)
        except BaseException:
            # What is there of it, if the store answers; the first error is the one that counts.
            with contextlib.suppress(Exception):
                self._fs.rm_file(temporary)
            raise

    def _check_arrived(
        self, temporary: str, expected: int, given_up: threading.Event | None
    ) -> None:
        arrived = self._fs.info(temporary)["size"]
        if arrived != expected:
            raise OSError(f"{arrived} of {expected} bytes arrived")
        if given_up is not None and given_up.is_set():
            raise OSError("the slot was given up meanwhile")

    def _attempt(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:  # every backend of fsspec has errors of its own
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            message = f"artifacts.url {self._url} cannot be written: {reason}"
            raise ArtifactStoreError(message) from error


def _rename_durably(source: Path, target: Path) -> None:
    """Flush the file, rename it, and flush the directory entry."""
    _flush(source)
    source.replace(target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
