"""What was learned of stage times, kept across restarts: one small JSON file per device."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from vortex.orchestration.estimates import StageEstimates

_FORMAT = 1

logger = logging.getLogger(__name__)


class EstimatesFile:
    """Reads and writes `estimates.<device>.json` in the folder of a profile's models."""

    def __init__(self, profile_directory: Path, device: str) -> None:
        """Name the file; nothing is read or written yet.

        Args:
            profile_directory: `ModelsConfig.profile_directory`.
            device: what the times belong to, such as "NVIDIA H100" or "cpu".
        """
        name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        self.path = profile_directory / f"estimates.{name}.json"
        self._failed = False

    def load_into(self, estimates: StageEstimates) -> bool:
        """Go on from the file, if there is one that can be used; return whether there was.

        A file that cannot be used is logged and left alone: estimates are learned again.
        """
        try:
            self._restore(estimates)
        except FileNotFoundError:
            return False
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            logger.warning(
                "Estimates not restored",
                extra={"path": str(self.path), "error": f"{type(error).__name__}: {error}"},
            )
            return False
        return True

    def save(self, learned: Mapping[str, Mapping[str, float]]) -> None:
        """Write the file as a whole; the first failure is logged: the worker does not need it.

        Args:
            learned: of `StageEstimates.to_json`.
        """
        content = json.dumps({"format": _FORMAT, "stages": learned}, indent=1)
        unfinished = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            unfinished.write_text(content, encoding="utf-8")
            unfinished.replace(self.path)
        except OSError as error:
            if not self._failed:
                logger.warning(
                    "Estimates not saved", extra={"path": str(self.path), "error": str(error)}
                )
            self._failed = True

    def _restore(self, estimates: StageEstimates) -> None:
        saved = json.loads(self.path.read_text(encoding="utf-8"))
        if saved["format"] != _FORMAT:
            raise ValueError(f"format: must be {_FORMAT}, got {saved['format']}")
        estimates.restore(saved["stages"])
