"""The worker's side of an engine process that does what the tick's script says."""

from __future__ import annotations

import sys

from consumer.config import WorkerConfig
from consumer.engine.process import ProcessEngine
from consumer.handover.handover import USUAL
from schemas import Recipe, Stage
from tests.chaos.maker import read_script
from vortex.rung import FULL, Rung

COMMAND = (sys.executable, "-m", "tests.chaos.maker")


class ScriptedProcessEngine(ProcessEngine):
    """The real engine, but it knows from the script how long a slot takes."""

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__(config, COMMAND)

    def predict_s(self, recipe: Recipe, rung: Rung = FULL) -> float | None:
        """Return what the script says, on every rung; None for a recipe that has no such script.

        Workers ask for that of a usual slot, to tell the others how fast they are.
        """
        return None if recipe == USUAL else read_script(recipe)[0]

    def predict_rest_s(self, recipe: Recipe, rung: Rung, stage: Stage) -> float | None:
        """Return what the script says: a slot begins with its video."""
        return read_script(recipe)[0]
