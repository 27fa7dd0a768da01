"""One scale for cosines of different encoders: an affine map, fitted to known pairs.

A map belongs to an encoder and the image model whose pictures it was fitted to, and lives outside
the weights of both: `calibration.<encoder>.json` in the profile's directory, which names the two by
their checksums. `vortex models calibrate` makes it, see `vortex.models.calibrate`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.describe import describe_validation_error
from vortex.errors import VortexInitializationError
from vortex.weights.manifest import FILE_NAME as MANIFEST_FILE
from vortex.weights.manifest import Manifest, describe

IMAGE_MODEL = "flux"
CALIBRATIONS = "calibration.*.json"
"""Matches the files of a profile's directory."""
_REMEDY = "run `vortex models calibrate`, or remove the file"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Calibration(_Part):
    """What an encoder's cosine counts for: `scale * cosine + offset`."""

    scale: float = Field(default=1.0, gt=0)
    offset: float = 0.0
    concept_margin: float = 0.0
    """By how much a concept's cosine must exceed that of neutral texts to count as shown."""

    @classmethod
    def read(cls, directory: Path, encoder: str) -> Calibration | None:
        """Read what belongs to an encoder of a profile's directory; None without a file.

        Raises:
            VortexInitializationError: the file holds no calibration, or one of other weights; one
                line that says what to do.
        """
        file = CalibrationFile.read(directory, encoder)
        if file is None:
            return None
        for made_for in (file.encoder, file.image_model):
            installed = Weights.installed(directory, made_for.model)
            if made_for.sha256 != installed.sha256:
                raise VortexInitializationError(
                    f"{path_of(directory, encoder)}: belongs to {made_for}, but {installed} is"
                    f" installed; {_REMEDY}"
                )
        return cls(**file.calibration.model_dump())

    def apply(self, cosines: torch.Tensor) -> torch.Tensor:
        """Return calibrated cosines, which may lie beyond -1 and 1."""
        return self.scale * cosines + self.offset


class Weights(_Part):
    """Which weights a calibration belongs to."""

    model: str
    revision: str
    sha256: str
    """Of the checksums of all files of the model's folder."""

    @classmethod
    def installed(cls, directory: Path, model: str) -> Self:
        """Describe a model as the directory's manifest lists it; without one, as it is on disk.

        Raises:
            VortexInitializationError: the manifest cannot be read or does not list the model, or
                there is no such folder.
        """
        if (directory / MANIFEST_FILE).exists():
            listed = Manifest.read(directory).models.get(model)
        else:
            listed = describe(directory / model) if (directory / model).is_dir() else None
        if listed is None:
            raise VortexInitializationError(f"there is no model '{model}' in {directory}")
        checksums = {path: file.sha256 for path, file in listed.files.items()}
        digest = hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()
        return cls(model=model, revision=listed.revision, sha256=digest)

    def __str__(self) -> str:
        return f"{self.model} {self.revision} ({self.sha256[:8]})"


class Figures(_Part):
    """How well an encoder tells pictures apart, with a calibration and without it."""

    prompts: int = Field(gt=0)
    """For each of which one picture was made."""
    separation: float = Field(ge=0, le=1)
    """How often a picture's own prompt has the higher cosine than another's: 0.5 is chance."""
    refused: float = Field(ge=0, le=1)
    """Share of pictures whose own prompt is below the threshold."""
    accepted: float = Field(ge=0, le=1)
    """Share of pairs of a picture and another's prompt that are not."""
    refused_uncalibrated: float = Field(ge=0, le=1)
    accepted_uncalibrated: float = Field(ge=0, le=1)


class CalibrationFile(_Part):
    """A calibration, what it belongs to, and how good it is."""

    format_version: Literal[1] = 1
    encoder: Weights
    image_model: Weights
    calibration: Calibration
    figures: Figures

    @classmethod
    def of(
        cls, directory: Path, encoder: str, calibration: Calibration, figures: Figures
    ) -> CalibrationFile:
        """Bind a calibration to the weights that are installed in a profile's directory.

        Raises:
            VortexInitializationError: one of the two models is not there.
        """
        return cls(
            encoder=Weights.installed(directory, encoder),
            image_model=Weights.installed(directory, IMAGE_MODEL),
            calibration=calibration,
            figures=figures,
        )

    @classmethod
    def read(cls, directory: Path, encoder: str) -> CalibrationFile | None:
        """Read an encoder's file, whatever weights it belongs to; None if there is none.

        Raises:
            VortexInitializationError: the file does not hold a calibration.
        """
        path = path_of(directory, encoder)
        try:
            return _Stored.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise VortexInitializationError(f"{path}: cannot be read: {error}") from error
        except ValidationError as error:
            raise VortexInitializationError(
                f"{path}: {describe_validation_error(error)}; {_REMEDY}"
            ) from error

    def write(self, directory: Path) -> None:
        """Write it into a profile's directory; it appears whole or not at all."""
        path = path_of(directory, self.encoder.model)
        unfinished = path.with_name(f".{path.name}")
        content = self.model_dump(mode="json")
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)


class _Whole(Calibration):
    """A file must name all numbers."""

    scale: float = Field(gt=0)
    offset: float
    concept_margin: float


class _Stored(CalibrationFile):
    calibration: _Whole


def path_of(directory: Path, encoder: str) -> Path:
    """Return where an encoder's calibration is kept."""
    return directory / f"calibration.{encoder}.json"
