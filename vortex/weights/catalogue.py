"""What each profile needs, and where it comes from: `data/catalogue.yaml`, or a file like it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Discriminator, Field, RootModel, Tag, ValidationError

from schemas.describe import describe_validation_error
from vortex.config import Section
from vortex.errors import VortexInitializationError, one_line

PACKAGED = Path(__file__).parent / "data" / "catalogue.yaml"

_SHORT_REVISION_CHARS = 7
_PATH_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def _plain(path: str) -> str:
    if not all(_PATH_PART.fullmatch(part) for part in path.split("/")):
        raise ValueError("must be a path below the model's folder, without hidden parts")
    return path


FilePath = Annotated[str, AfterValidator(_plain)]
"""Of a file in its repository and below the model's folder alike, with `/` between the parts."""


class CatalogueFile(Section):
    """A file as it was published."""

    bytes: int | None = Field(default=None, ge=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class HubModel(Section):
    """A model that is fetched from the hub."""

    repository: str = Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$")
    # A branch or tag could be moved to other files; the hash of a commit cannot.
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    licence: str
    gated: bool
    """Whether its conditions must be accepted, with an account, before it can be fetched."""
    files: dict[FilePath, CatalogueFile] = Field(min_length=1)

    @property
    def source(self) -> str:
        """Where it comes from."""
        return self.repository

    @property
    def bytes(self) -> int:
        """Size of all files; those of unknown size are small and do not count."""
        return sum(file.bytes or 0 for file in self.files.values())

    @property
    def short_revision(self) -> str:
        """The revision for a person's eyes."""
        return self.revision[:_SHORT_REVISION_CHARS]


class BuiltModel(Section):
    """A model that `vortex models build` makes."""

    source: str
    licence: str
    bytes: int = Field(gt=0)
    """About; what is built is described by its manifest."""


def _kind(model: Any) -> str:  # what a YAML file holds
    hub = isinstance(model, HubModel) or (isinstance(model, dict) and "repository" in model)
    return "hub" if hub else "built"


CatalogueModel = HubModel | BuiltModel
Profile = dict[
    str,
    Annotated[
        Annotated[HubModel, Tag("hub")] | Annotated[BuiltModel, Tag("built")], Discriminator(_kind)
    ],
]
"""Models by the name of their folder."""


class Catalogue(RootModel[dict[str, Profile]]):
    """The models of every profile, in the order in which they are fetched."""

    @classmethod
    def load(cls, path: Path | None = None) -> Catalogue:
        """Read a catalogue.

        Args:
            path: a YAML file; None takes the packaged one.

        Raises:
            VortexInitializationError: the file is not there, or a value in it is wrong; one line.
        """
        path = path or PACKAGED
        try:
            content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
            return cls.model_validate(content)
        except ValidationError as error:
            raise VortexInitializationError(
                f"catalogue {path}: {describe_validation_error(error)}"
            ) from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise VortexInitializationError(
                f"catalogue {path} cannot be read: {one_line(error)}; set models.catalogue"
            ) from error

    @property
    def names(self) -> frozenset[str]:
        """The names of all models of all profiles."""
        return frozenset(name for profile in self.root.values() for name in profile)

    def profile(self, name: str) -> Profile:
        """Return the models of a profile.

        Raises:
            VortexInitializationError: the catalogue has no such profile.
        """
        try:
            return self.root[name]
        except KeyError as error:
            known = ", ".join(self.root)
            raise VortexInitializationError(
                f"the catalogue has no profile '{name}'; it has {known}"
            ) from error
