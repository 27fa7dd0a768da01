"""What a directory of models holds: `manifest.json`, with a size and a checksum for every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from schemas.describe import describe_validation_error
from vortex.config import Section
from vortex.errors import VortexInitializationError
from vortex.utils.files import sha256_of
from vortex.weights.catalogue import Catalogue, CatalogueModel, FilePath, HubModel

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1
_REVISION_CHARS = 12


class ManifestFile(Section):
    """A file as it was when the manifest was written."""

    bytes: int = Field(ge=0)
    sha256: str


class ManifestModel(Section):
    """A model's folder: all its files, but for hidden ones."""

    revision: str
    files: dict[FilePath, ManifestFile]


class Manifest(Section):
    """All models of a directory."""

    format_version: int
    profile: str
    models: dict[str, ManifestModel]

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read the manifest of a profile's directory.

        Raises:
            VortexInitializationError: it is not there, damaged, or of another format or profile.
        """
        path = directory / FILE_NAME
        remedy = remedy_for(directory)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise VortexInitializationError(
                    f"{path} has format_version {version}, known is {FORMAT_VERSION}; {remedy}"
                )
            manifest = cls.model_validate(content)
        except FileNotFoundError as error:
            raise VortexInitializationError(
                f"there are no models in {directory}; {remedy}"
            ) from error
        except ValidationError as error:
            raise VortexInitializationError(
                f"{path} cannot be read: {describe_validation_error(error)}; {remedy}"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VortexInitializationError(f"{path} cannot be read: {error}; {remedy}") from error
        if manifest.profile != directory.name:
            raise VortexInitializationError(
                f"{path} is of profile {manifest.profile}, not {directory.name}; {remedy}"
            )
        return manifest

    def write(self, directory: Path) -> None:
        """Write it into a profile's directory; it appears whole or not at all."""
        path = directory / FILE_NAME
        unfinished = path.with_name(f".{FILE_NAME}")
        content = self.model_dump(mode="json")
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)


def write_manifest(directory: Path, *, profile: str) -> None:
    """Describe every model folder of a directory; a model's revision is a hash of its files."""
    Manifest(
        format_version=FORMAT_VERSION,
        profile=profile,
        models={
            folder.name: describe(folder)
            for folder in sorted(directory.iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
        },
    ).write(directory)


def describe(folder: Path) -> ManifestModel:
    """Read all files of a model; its revision is a hash of them."""
    files = {
        path: ManifestFile(bytes=(folder / path).stat().st_size, sha256=sha256_of(folder / path))
        for path in files_in(folder)
    }
    content = {path: file.model_dump() for path, file in files.items()}
    revision = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return ManifestModel(revision=revision[:_REVISION_CHARS], files=files)


def verify_manifest(
    directory: Path, *, checksums: bool = False, catalogue: Path | None = None
) -> dict[str, str]:
    """Check that every model is the known one, with every file there and whole.

    Args:
        directory: the profile's directory.
        checksums: also read every file; sizes alone are compared otherwise.
        catalogue: names what the profile needs; None takes the packaged one.

    Returns:
        Each model's revision.

    Raises:
        VortexInitializationError: one line that names model and file, and says what to do.
    """
    manifest = Manifest.read(directory)
    for _, problem in problems(directory, manifest, checksums=checksums, catalogue=catalogue):
        if problem:
            raise VortexInitializationError(problem)
    return {name: model.revision for name, model in manifest.models.items()}


def problems(
    directory: Path, manifest: Manifest, *, checksums: bool, catalogue: Path | None = None
) -> Iterator[tuple[str, str | None]]:
    """Yield each model's name with one line about what is wrong with it, or None.

    Models are those that the profile needs, those that the manifest lists, and other folders
    that have the name of a model.

    Raises:
        VortexInitializationError: the catalogue cannot be read, or lacks the profile.
    """
    known = Catalogue.load(catalogue)
    wanted = known.profile(directory.name)
    strays = {name for name in known.names if (directory / name).is_dir()}
    remedy = remedy_for(directory)
    for name in [*wanted, *sorted((manifest.models.keys() | strays) - wanted.keys())]:
        if name not in manifest.models:
            stray = f"; remove {directory / name}, or" if name not in wanted else ";"
            yield name, f"{directory / FILE_NAME} does not describe '{name}'{stray} {remedy}"
            continue
        model = manifest.models[name]
        wrong = _differs(model, wanted.get(name)) or _spoilt(directory / name, model, checksums)
        yield name, f"model '{name}': {wrong}; {remedy}" if wrong else None


def remedy_for(directory: Path) -> str:
    """Return what to do about missing or damaged models."""
    command = "build" if directory.name == "mini" else "fetch"
    # What is there is never built again.
    first = f"remove {directory} and " if command == "build" and directory.exists() else ""
    return f"{first}run `vortex models {command}` or set models.directory"


def files_in(folder: Path) -> list[str]:
    """Return the paths of a folder's files, in order; hidden ones are left out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)
    )


def _differs(model: ManifestModel, wanted: CatalogueModel | None) -> str | None:
    """Compare what the manifest lists with the catalogue, which knows only published models."""
    if not isinstance(wanted, HubModel):
        return None
    if model.revision != wanted.revision:
        return (
            f"revision {model.revision} is not {wanted.revision} of {wanted.repository}, which this"
            " version needs"
        )
    for path, file in wanted.files.items():
        listed = model.files.get(path)
        if listed is None:
            return f"{FILE_NAME} does not list {path}"
        if file.sha256 not in (None, listed.sha256):
            return f"{FILE_NAME} lists another {path} than was published"
    more = min(model.files.keys() - wanted.files.keys(), default=None)
    return more and f"{FILE_NAME} lists {more}, which is not part of {wanted.repository}"


def _spoilt(folder: Path, model: ManifestModel, checksums: bool) -> str | None:
    """Compare the folder with what the manifest lists."""
    for relative, file in model.files.items():
        wrong = _compare(folder / relative, file, checksums)
        if wrong:
            return f"{folder / relative} {wrong}"
    # Loaders choose among the files that they find, so no other may be in the folder.
    for relative in files_in(folder):
        if relative not in model.files:
            return f"{folder / relative} is not listed in {FILE_NAME}; remove it"
    return None


def _compare(path: Path, file: ManifestFile, checksums: bool) -> str | None:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != file.bytes:
        return f"has {size} bytes instead of {file.bytes}"
    if checksums and sha256_of(path) != file.sha256:
        return "has a wrong checksum"
    return None
