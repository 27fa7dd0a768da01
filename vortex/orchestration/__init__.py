"""Deadlines: which stage runs when, and when a slot is given up. Holds no model code."""

from vortex.errors import DeadlineMissError
from vortex.orchestration.estimates import StageEstimates
from vortex.orchestration.models import GenerationBreakdown, SlotMetadata, SlotResult
from vortex.orchestration.scheduler import Pipeline, SlotScheduler

__all__ = [
    "DeadlineMissError",
    "GenerationBreakdown",
    "Pipeline",
    "SlotMetadata",
    "SlotResult",
    "SlotScheduler",
    "StageEstimates",
]
