"""The event contract: what goes over Kafka, for producers and consumers of any kind.

Importing this package needs pydantic and nothing else of the worker's dependencies.
"""

from schemas.events import (
    MAX_TICK_BYTES,
    SCHEMA_VERSION,
    Artifact,
    Breakdown,
    DeadlineMissed,
    Delivery,
    MissReason,
    Outcome,
    Quality,
    SlotComplete,
    SlotTick,
    Stage,
    TickSource,
    Verification,
    WorkerInfo,
    outcome_json,
    parse_outcome,
)
from schemas.recipe import (
    MAX_SEED,
    MAX_SLOT_DURATION_S,
    AudioTrack,
    Emotion,
    Expression,
    Recipe,
    SemanticConstraints,
    SlotParams,
    VisualTrack,
)

__all__ = [
    "MAX_SEED",
    "MAX_SLOT_DURATION_S",
    "MAX_TICK_BYTES",
    "SCHEMA_VERSION",
    "Artifact",
    "AudioTrack",
    "Breakdown",
    "DeadlineMissed",
    "Delivery",
    "Emotion",
    "Expression",
    "MissReason",
    "Outcome",
    "Quality",
    "Recipe",
    "SemanticConstraints",
    "SlotComplete",
    "SlotParams",
    "SlotTick",
    "Stage",
    "TickSource",
    "Verification",
    "VisualTrack",
    "WorkerInfo",
    "outcome_json",
    "parse_outcome",
]
