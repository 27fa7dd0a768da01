"""One scale for cosines of different encoders: an affine map, fitted to known pairs."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.describe import describe_validation_error
from vortex.errors import VortexInitializationError

FILE_NAME = "calibration.json"


class Calibration(BaseModel):
    """What an encoder's cosine counts for: `scale * cosine + offset`."""

    # The file may hold the figures of the fit, too.
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    scale: float = Field(default=1.0, gt=0)
    offset: float = 0.0
    concept_margin: float = 0.0
    """By how much a concept's cosine must exceed that of neutral texts to count as shown."""

    @classmethod
    def read(cls, directory: Path) -> Calibration:
        """Read a model folder's `calibration.json`; without one, cosines count as they are.

        Raises:
            VortexInitializationError: the file does not hold such a map.
        """
        path = directory / FILE_NAME
        if not path.exists():
            return cls()
        try:
            content = path.read_text(encoding="utf-8")
            return _Complete.model_validate_json(content)
        except (OSError, UnicodeDecodeError) as error:
            raise VortexInitializationError(f"{path}: cannot be read: {error}") from error
        except ValidationError as error:
            raise VortexInitializationError(
                f"{path}: {describe_validation_error(error)}; calibrate the model again, or remove"
                " the file"
            ) from error

    def apply(self, cosines: torch.Tensor) -> torch.Tensor:
        """Return calibrated cosines, which may lie beyond -1 and 1."""
        return self.scale * cosines + self.offset


class _Complete(Calibration):
    """A file must name both numbers."""

    scale: float = Field(gt=0)
    offset: float
