"""Every metric that a worker exports: name, kind, unit, labels and meaning, in one table.

`docs/metrics.md` lists the same, and a test compares the two with what is really exported. Names of
the semantic conventions are used where there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from opentelemetry.metrics import CallbackT, Counter, Histogram, Meter
from opentelemetry.semconv._incubating.attributes import hw_attributes as hw
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv._incubating.metrics import hw_metrics, messaging_metrics, process_metrics

from consumer.telemetry import semconv

SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 120)
RATIOS: Final = (0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5)
MEGABYTES: Final = tuple(int(each * 1e6) for each in (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64))

_MESSAGING: Final = (
    messaging.MESSAGING_SYSTEM,
    messaging.MESSAGING_OPERATION_NAME,
    messaging.MESSAGING_DESTINATION_NAME,
    messaging.MESSAGING_CONSUMER_GROUP_NAME,
)
_GPU: Final = (hw.HW_ID, hw.HW_NAME)


@dataclass(frozen=True)
class Instrument:
    """One metric."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    """A gauge is observed at each export; what the conventions call an up-down counter is one."""
    unit: str
    """As in UCUM: `s`, `By`, `1`; a name in braces is a count of such things."""
    description: str
    labels: Sequence[str] = ()
    bounds: Sequence[float] = ()
    """Upper bounds of a histogram's buckets."""

    def counter(self, meter: Meter) -> Counter:
        """Make the instrument of a counter."""
        return meter.create_counter(self.name, self.unit, self.description)

    def histogram(self, meter: Meter) -> Histogram:
        """Make the instrument of a histogram."""
        return meter.create_histogram(
            self.name,
            self.unit,
            self.description,
            explicit_bucket_boundaries_advisory=self.bounds,
        )

    def observe(self, meter: Meter, callback: CallbackT) -> None:
        """Have a gauge read at each export, by a call from any thread."""
        meter.create_observable_gauge(self.name, [callback], self.unit, self.description)


OUTCOMES = Instrument(
    "vortex.slot.outcomes",
    "counter",
    "{outcome}",
    "Outcomes published",
    (semconv.SLOT_OUTCOME, semconv.SLOT_REASON, semconv.SLOT_CHANNEL),
)
DEAD_LETTERS = Instrument(
    "vortex.dead_letters",
    "counter",
    "{record}",
    "Records put among the dead letters",
    (semconv.DEAD_LETTER_REASON,),
)
HANDED_OVER = Instrument(
    "vortex.slot.handovers",
    "counter",
    "{slot}",
    "Slots handed over to another worker, which decides them",
)
UNPLACED = Instrument(
    "vortex.slot.unplaced",
    "counter",
    "{slot}",
    "Slots given up before any work that no other worker had time for either; 0 without handover",
)
SLACK = Instrument(
    "vortex.slot.deadline.slack",
    "histogram",
    "s",
    "Time from the decision to the deadline, of decisions before it",
    (semconv.SLOT_OUTCOME,),
    SECONDS,
)
OVERRUN = Instrument(
    "vortex.slot.deadline.overrun",
    "histogram",
    "s",
    "Time from the deadline to the decision, of decisions after it",
    bounds=SECONDS,
)
STAGE_DURATION = Instrument(
    "vortex.slot.stage.duration",
    "histogram",
    "s",
    "Time that a slot spent in a stage, retries included",
    (semconv.SLOT_STAGE,),
    SECONDS,
)
PREDICTED_DURATION = Instrument(
    "vortex.slot.predicted.duration",
    "histogram",
    "s",
    "Predicted time from start to stored video, of slots that were made",
    bounds=SECONDS,
)
ACTUAL_DURATION = Instrument(
    "vortex.slot.actual.duration",
    "histogram",
    "s",
    "Actual time from start to stored video, of the same slots",
    bounds=SECONDS,
)
PREDICTION_RATIO = Instrument(
    "vortex.slot.prediction.ratio",
    "histogram",
    "1",
    "Actual time over predicted time, of the same slots",
    bounds=RATIOS,
)
ARTIFACT_SIZE = Instrument(
    "vortex.artifact.size", "histogram", "By", "Size of the stored videos", bounds=MEGABYTES
)
QUEUE_DEPTH = Instrument(
    "vortex.queue.depth", "gauge", "{slot}", "Slots that were read and wait for the engine"
)
PARTITION_LAG = Instrument(
    "vortex.partition.lag",
    "gauge",
    "{slot}",
    "Ticks of a partition without a decision: unread, waiting, or being made",
    (messaging.MESSAGING_DESTINATION_NAME, semconv.PARTITION_ID),
)
PREDICTED_LAG = Instrument(
    "vortex.lag.predicted",
    "gauge",
    "s",
    "Predicted time until everything that is in the worker's partitions now would be made",
)
ASSIGNED = Instrument(
    "vortex.partitions.assigned", "gauge", "{partition}", "Partitions that the worker owns"
)
STANDING = Instrument(
    "vortex.partitions.standing",
    "gauge",
    "{partition}",
    "Partitions that stand still: their next record cannot be read",
)
PAUSED = Instrument(
    "vortex.worker.paused", "gauge", "1", "1 if an operator has paused the worker, else 0"
)
ENGINE_READY = Instrument(
    "vortex.engine.ready",
    "gauge",
    "1",
    "1 if the engine is started and not lost, or unloaded while idle, else 0",
)
ENGINE_STARTS = Instrument(
    "vortex.engine.starts", "counter", "{start}", "Starts of an engine, the first one included"
)
ENGINE_LOSSES = Instrument(
    "vortex.engine.losses", "counter", "{loss}", "Engines that died, hung or were killed"
)
ENGINE_MEMORY = Instrument(
    "vortex.engine.memory.usage", "gauge", "By", "Main memory of the engine's process"
)
ENGINE_MEMORY_LIMIT = Instrument(
    "vortex.engine.memory.limit",
    "gauge",
    "By",
    "Main memory at which the engine's process is killed; absent without a limit",
)
PROCESS_MEMORY = Instrument(
    process_metrics.PROCESS_MEMORY_USAGE, "gauge", "By", "Main memory of the worker's process"
)
CONSUMED = Instrument(
    messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES,
    "counter",
    "{message}",
    "Ticks that were read",
    _MESSAGING,
)
PROCESS_DURATION = Instrument(
    messaging_metrics.MESSAGING_PROCESS_DURATION,
    "histogram",
    "s",
    "Time from a tick's arrival to its decision",
    (*_MESSAGING, semconv.ERROR_TYPE),
    SECONDS,
)
GPU_UTILIZATION = Instrument(
    hw_metrics.HW_GPU_UTILIZATION, "gauge", "1", "Share of time in which the GPU was busy", _GPU
)
GPU_MEMORY = Instrument(
    hw_metrics.HW_GPU_MEMORY_USAGE,
    "gauge",
    "By",
    "Memory of the GPU in use, by all processes",
    _GPU,
)
GPU_MEMORY_LIMIT = Instrument(
    hw_metrics.HW_GPU_MEMORY_LIMIT, "gauge", "By", "Memory that the GPU has", _GPU
)
TEMPERATURE = Instrument(
    hw_metrics.HW_TEMPERATURE, "gauge", "Cel", "Temperature of the GPU", (*_GPU, hw.HW_TYPE)
)

INSTRUMENTS: Final = tuple(each for each in list(vars().values()) if isinstance(each, Instrument))
"""All of them, in the order above."""
