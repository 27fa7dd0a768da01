"""Brings the published models of a profile into its directory, checked, and writes the manifest."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vortex.errors import VortexInitializationError
from vortex.utils.files import sha256_of
from vortex.weights import hub
from vortex.weights.catalogue import Catalogue, CatalogueFile, HubModel
from vortex.weights.manifest import (
    FORMAT_VERSION,
    Manifest,
    ManifestFile,
    ManifestModel,
)

BYTES_PER_GB = 1e9

_UNFINISHED = ".fetching"
_CHUNK_BYTES = 16 * 2**20


class Progress(Protocol):
    """Who watches."""

    def start(self, total_bytes: int) -> None:
        """Learn of how many bytes will be checked or fetched in all."""

    def step(self, what: str) -> None:
        """Learn what is done now."""

    def advance(self, more_bytes: int) -> None:
        """Learn of bytes checked or fetched; negative if some must come again."""


@dataclass(frozen=True, eq=False)
class _File:
    """One file of a model, and where it belongs."""

    name: str
    model: HubModel
    path: str
    directory: Path

    @property
    def published(self) -> CatalogueFile:
        return self.model.files[self.path]

    @property
    def target(self) -> Path:
        return self.directory / self.name / self.path

    @property
    def unfinished(self) -> Path:
        # Named by what it will hold, so that another revision never goes on with it.
        content = f"{self.model.repository}/{self.model.revision}/{self.path}"
        key = self.published.sha256 or hashlib.sha256(content.encode()).hexdigest()
        return self.directory / _UNFINISHED / key

    @property
    def unfinished_bytes(self) -> int:
        return self.unfinished.stat().st_size if self.unfinished.exists() else 0

    def __str__(self) -> str:
        return f"{self.name}/{self.path}"


def fetch(
    directory: Path,
    *,
    progress: Progress,
    source: Path | None = None,
    offline: bool = False,
    catalogue: Path | None = None,
) -> None:
    """Make a profile's directory whole.

    Whole files are kept, damaged ones replaced, interrupted downloads resumed. Files that other
    programs got from the hub are linked, or copied from another disk.

    Args:
        directory: the profile's directory, named as the profile.
        progress: told of every step.
        source: takes all files from this directory, and nothing from the hub. It has the layout
            of the hub's cache, or holds repositories by their names, or models by theirs.
        offline: never asks the hub; HF_HUB_OFFLINE does the same.
        catalogue: names the files; None takes the packaged catalogue.

    Raises:
        VortexInitializationError: one line that says what is missing and what to do.
    """
    models = Catalogue.load(catalogue).profile(directory.name)
    published = {name: model for name, model in models.items() if isinstance(model, HubModel)}
    if built := models.keys() - published.keys():
        raise VortexInitializationError(
            f"{', '.join(sorted(built))} of profile {directory.name} cannot be fetched: run `vortex"
            " models build`"
        )
    files = [
        _File(name, model, path, directory)
        for name, model in published.items()
        for path in model.files
    ]
    with _writing(directory), _alone(directory):
        progress.start(sum(model.bytes for model in published.values()))
        listed = _listed(directory)
        known: dict[_File, ManifestFile] = {}
        for file in files:
            if file.target.is_file():
                known |= _kept(file, listed, progress)
        missing = [file for file in files if file not in known]
        local = _find_locally(missing, source or hub.cache_directory())
        if source or offline or hub.is_offline():
            _refuse_remote([file for file in missing if file not in local], source)
        _check_room(missing, local, directory)
        for file in missing:
            known[file] = _bring(file, local.get(file), progress)
        _write_manifest(directory, published, known)
        for leftover in (directory / _UNFINISHED).glob("[0-9a-f]*"):  # of other revisions
            leftover.unlink()


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Say in one line why a file cannot be read or written."""
    try:
        yield
    except OSError as error:
        where = error.filename or directory
        raise VortexInitializationError(
            f"{where}: {error.strerror or error}; what was fetched is kept: fix that or set"
            " models.directory, and run it again"
        ) from error


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep a second process from writing to the same unfinished files."""
    unfinished = directory / _UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    with (unfinished / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VortexInitializationError(
                f"another process is fetching models into {directory}; wait for it"
            ) from error
        try:
            yield
        finally:
            (unfinished / "lock").unlink()
            with contextlib.suppress(OSError):  # something is left to go on with
                unfinished.rmdir()


def _listed(directory: Path) -> dict[str, ManifestModel]:
    """Return what the manifest that is there knows, if it can be read."""
    try:
        return Manifest.read(directory).models
    except VortexInitializationError:
        return {}


def _kept(
    file: _File, listed: dict[str, ManifestModel], progress: Progress
) -> dict[_File, ManifestFile]:
    """Check a file that is there; one that is damaged, or cannot be judged, counts as missing."""
    wanted = file.published
    model = listed.get(file.name)
    before = model.files.get(file.path) if model else None
    if model and before and model.revision == file.model.revision:
        wanted = CatalogueFile(
            bytes=wanted.bytes or before.bytes, sha256=wanted.sha256 or before.sha256
        )
    if wanted.sha256 is None or wanted.bytes not in (None, file.target.stat().st_size):
        return {}
    progress.step(f"checking {file}")
    size, found = file.target.stat().st_size, sha256_of(file.target)
    if found != wanted.sha256:
        return {}
    progress.advance(size)
    return {file: ManifestFile(bytes=size, sha256=found)}


def _find_locally(files: list[_File], root: Path) -> dict[_File, Path]:
    found = {}
    for file in files:
        repository = file.model.repository
        cached = Path(f"models--{repository.replace('/', '--')}", "snapshots", file.model.revision)
        for folder in (cached, Path("hub") / cached, Path(repository), Path(file.name)):
            path = root / folder / file.path
            if path.is_file() and file.published.bytes in (None, path.stat().st_size):
                found[file] = path.resolve()
                break
    return found


def _refuse_remote(files: list[_File], source: Path | None) -> None:
    if files:
        others = f" (and {len(files) - 1} more)" if len(files) > 1 else ""
        where = f"{source} has" if source else "offline, and the hub's cache has"
        wanted = f"{files[0].path} of {files[0].model.repository} at {files[0].model.revision}"
        size = files[0].published.bytes
        raise VortexInitializationError(
            f"{where} no {wanted}{f' with {size} bytes' if size is not None else ''}{others}; give"
            " --from a DIRECTORY that has, or go online"
        )


def _check_room(files: list[_File], local: dict[_File, Path], directory: Path) -> None:
    device = directory.stat().st_dev
    needed = sum(
        max(0, (file.published.bytes or 0) - file.unfinished_bytes)
        for file in files
        if file not in local or local[file].stat().st_dev != device
    )
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise VortexInitializationError(
            f"{needed / BYTES_PER_GB:.1f} GB must be fetched into {directory}, where"
            f" {free / BYTES_PER_GB:.1f} GB are free; free some or set models.directory"
        )


def _bring(file: _File, local: Path | None, progress: Progress) -> ManifestFile:
    """Get a file, check it, and only then put it where it belongs."""
    if local:
        progress.step(f"copying {file}")
        _link_or_copy(local, file.unfinished, progress)
    else:
        progress.step(f"fetching {file}")
        hub.download(file.model, file.path, file.unfinished, progress.advance)
    size, found = file.unfinished.stat().st_size, sha256_of(file.unfinished)
    if file.published.sha256 not in (None, found) or file.published.bytes not in (None, size):
        file.unfinished.unlink()
        remedy = "replace that file" if local else "run it again"
        raise VortexInitializationError(
            f"{local or file} came with sha256 {found} instead of {file.published.sha256}; {remedy}"
        )
    file.target.parent.mkdir(parents=True, exist_ok=True)
    file.unfinished.replace(file.target)
    return ManifestFile(bytes=size, sha256=found)


def _link_or_copy(source: Path, target: Path, progress: Progress) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
        progress.advance(source.stat().st_size)
    except OSError:  # another disk, or one that knows no links
        with source.open("rb") as reader, target.open("wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                writer.write(chunk)
                progress.advance(len(chunk))


def _write_manifest(
    directory: Path, models: dict[str, HubModel], known: dict[_File, ManifestFile]
) -> None:
    Manifest(
        format_version=FORMAT_VERSION,
        profile=directory.name,
        models={
            name: ManifestModel(
                revision=model.revision,
                files={file.path: known[file] for file in known if file.name == name},
            )
            for name, model in models.items()
        },
    ).write(directory)
