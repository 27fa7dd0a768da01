"""How Sphinx builds the site: `make docs`. What it generates is in `reference_pages.py`."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import reference_pages

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project = "Vortex"
author = "The Vortex authors"
copyright = author  # noqa: A001 - Sphinx calls it so
version = release = version_of("vortex-slots")

extensions = ["myst_parser"]
myst_heading_anchors = 4
myst_enable_extensions = ["deflist", "fieldlist"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Vortex {version}"
html_show_sourcelink = False
html_copy_source = False
nitpicky = True

# A line that the page of the site puts something in place of.
_MARKER = re.compile(r"^<!-- (include|generated): (\S+) -->$", re.M)
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
# Files of the repository that are pages of the site.
_PAGES = {
    "CHANGELOG.md": "reference/changelog.md",
    "SECURITY.md": "reference/security-policy.md",
    "config.yaml": "reference/configuration.md",
    "deploy/README.md": "how-to/deploy.md",
    "examples/README.md": "how-to/examples.md",
    "schemas/asyncapi.yaml": "reference/contract.md",
    "schemas/examples": "reference/contract.md",
    "schemas/json": "reference/contract.md",
}


def _expand(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put included files and generated text in their places."""
    page = DOCS / f"{docname}.md"

    def content(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "generated":
            return reference_pages.PAGES[name]()
        file = ROOT / name
        app.env.note_dependency(str(file))
        return _links(file.read_text("utf-8"), file, page)

    source[0] = _MARKER.sub(content, _links(source[0], page, page))


def _links(text: str, file: Path, page: Path) -> str:
    """Have the links of a file work on a page of the site.

    Files of the repository that are no pages are named without a link. What does not exist is
    left as it is, so that Sphinx complains.
    """

    def target(match: re.Match[str]) -> str:
        path = (file.parent / match[1]).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            return match[1]
        name = path.relative_to(ROOT).as_posix()
        shown = DOCS / _PAGES[name] if name in _PAGES else path
        if not shown.is_relative_to(DOCS):
            return ""
        return os.path.relpath(shown, page.parent)

    return re.sub(r"\[([^\]]+)\]\((?:#[^)]*)?\)", r"\1", _LINK.sub(target, text))


def setup(app: Sphinx) -> None:
    """Have pages expanded as they are read."""
    app.connect("source-read", _expand)
