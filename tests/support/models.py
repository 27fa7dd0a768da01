"""Directories of models."""

from __future__ import annotations

from pathlib import Path


def link_models(shared: Path, own: Path) -> Path:
    """Return `own` with the models of `shared`, where a worker may keep what it learns."""
    for profile in shared.iterdir():
        (own / profile.name).mkdir(parents=True)
        for entry in profile.iterdir():
            (own / profile.name / entry.name).symlink_to(entry)
    return own
