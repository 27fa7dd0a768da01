"""How much of a model is in its folder, by names and sizes alone."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from vortex.errors import VortexInitializationError
from vortex.weights.catalogue import CatalogueModel, HubModel
from vortex.weights.manifest import Manifest


class Presence(StrEnum):
    """What a glance at the folder says; checksums may say otherwise."""

    PRESENT = "present"
    OUTDATED = "outdated"
    """Whole, but of another revision than is needed."""
    PARTLY = "partly"
    """Files are missing or of another size, or the manifest does not list them."""
    MISSING = "missing"


def presence_of(directory: Path, name: str, model: CatalogueModel) -> Presence:
    """Look for a model in a profile's directory.

    Args:
        directory: the profile's directory.
        name: of the model's folder.
        model: what belongs into it.
    """
    folder = directory / name
    if not folder.is_dir():
        return Presence.MISSING
    try:
        listed = Manifest.read(directory).models.get(name)
    except VortexInitializationError:
        listed = None
    if listed is None:
        return Presence.PARTLY
    if isinstance(model, HubModel) and listed.revision != model.revision:
        return Presence.OUTDATED
    for path, file in listed.files.items():
        found = folder / path
        if not found.is_file() or found.stat().st_size != file.bytes:
            return Presence.PARTLY
    return Presence.PRESENT
