"""What a directory of models holds: `manifest.json`, with a size and a checksum for every file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vortex.errors import VortexInitializationError

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1
MODELS = ("flux", "kokoro", "clip-b", "clip-l")
_REVISION_CHARS = 12


def write_manifest(directory: Path, *, profile: str, seed: int) -> None:
    """Describe every model folder of a directory; a model's revision is a hash of its files."""
    described = {name: _describe(directory / name) for name in MODELS}
    content = {
        "format_version": FORMAT_VERSION,
        "profile": profile,
        "seed": seed,
        "models": described,
    }
    (directory / FILE_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def verify_manifest(directory: Path, *, checksums: bool = False) -> dict[str, str]:
    """Check that every file is there and whole; return each model's revision.

    Args:
        directory: the profile's directory.
        checksums: also read every file; sizes alone are compared otherwise.

    Raises:
        VortexInitializationError: one line that names model and file, and says what to do.
    """
    path = directory / FILE_NAME
    remedy = f"run `vortex models build` (profile {directory.name}) or set models.directory"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        models: dict[str, Any] = manifest["models"]
        version = manifest["format_version"]
    except FileNotFoundError as error:
        raise VortexInitializationError(f"there are no models in {directory}; {remedy}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VortexInitializationError(f"{path} cannot be read: {error}; {remedy}") from error
    if version != FORMAT_VERSION:
        raise VortexInitializationError(
            f"{path} has format_version {version}, known is {FORMAT_VERSION}; {remedy}"
        )
    for name in MODELS:
        if not {"files", "revision"} <= models.get(name, {}).keys():
            raise VortexInitializationError(f"{path} does not describe '{name}'; {remedy}")
        for relative, expected in models[name]["files"].items():
            wrong = _compare(directory / name / relative, expected, checksums)
            if wrong:
                raise VortexInitializationError(
                    f"model '{name}': {directory / name / relative} {wrong}; {remedy}"
                )
    return {name: str(models[name]["revision"]) for name in MODELS}


def _describe(folder: Path) -> dict[str, Any]:
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    revision = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return {"revision": revision[:_REVISION_CHARS], "files": files}


def _compare(path: Path, expected: dict[str, Any], checksums: bool) -> str | None:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != expected["bytes"]:
        return f"has {size} bytes instead of {expected['bytes']}"
    if checksums and _sha256(path) != expected["sha256"]:
        return "has a wrong checksum"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
