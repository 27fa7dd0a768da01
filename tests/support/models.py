"""Directories of models."""

from __future__ import annotations

from pathlib import Path


def link_models(shared: Path, own: Path) -> Path:
    """Return `own` with the models of `shared`, but nothing that a worker learned beside them."""
    for profile in shared.iterdir():
        (own / profile.name).mkdir(parents=True)
        for entry in profile.iterdir():
            if not entry.name.startswith("estimates."):
                (own / profile.name / entry.name).symlink_to(entry)
    return own
