"""What a worker counts and measures, and what is observed of it at each export."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from aiokafka import TopicPartition
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, NoOpMeter, Observation
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

from consumer.job import DeadLetterReason, Decision, Hop
from consumer.process_memory import memory_bytes
from consumer.telemetry import instruments, semconv
from schemas import DeadlineMissed, SlotComplete, Stage

MAX_CHANNELS = 50
"""So many channels have a label value of their own; those seen later share one."""
OTHER_CHANNELS = "other"
CANCELLED = "cancelled"
"""In place of the reason of a slot that an operator cancelled."""
GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class WorkerState:
    """A worker at one moment."""

    waiting: int
    """Slots in the queue."""
    lag: Mapping[TopicPartition, int]
    """Ticks without a decision, by partition; claimed partitions only."""
    lag_s: float
    """Predicted seconds until all of these would be made."""
    assigned: int
    """Partitions owned."""
    standing: int
    """Partitions that cannot be read."""
    engine_ready: bool
    engine_memory_bytes: int
    """0 if the engine has no process of its own."""
    paused: bool = False
    """Whether an operator has paused the worker."""


class WorkerMetrics:
    """The metrics of one worker.

    Called on the event loop. Observations are made in the exporters' threads, from the last state
    that the loop has told.
    """

    def __init__(
        self,
        meter: Meter | None = None,
        *,
        topic: str = "",
        group: str = "",
        engine_memory_limit_gb: float | None = None,
    ) -> None:
        """Make the instruments.

        Args:
            meter: makes them; None counts nothing.
            topic: of the ticks.
            group: the consumer group.
            engine_memory_limit_gb: exported as it is.
        """
        meter = NoOpMeter("vortex.consumer") if meter is None else meter
        self._reading = _messaging("receive", topic, group)
        self._processing = _messaging("process", topic, group)
        self._channels: set[str] = set()
        self._state: WorkerState | None = None
        self._outcomes = instruments.OUTCOMES.counter(meter)
        self._dead_letters = instruments.DEAD_LETTERS.counter(meter)
        self._handed_over = instruments.HANDED_OVER.counter(meter)
        self._unplaced = instruments.UNPLACED.counter(meter)
        self._consumed = instruments.CONSUMED.counter(meter)
        self._starts = instruments.ENGINE_STARTS.counter(meter)
        self._losses = instruments.ENGINE_LOSSES.counter(meter)
        self._slack = instruments.SLACK.histogram(meter)
        self._overrun = instruments.OVERRUN.histogram(meter)
        self._stage = instruments.STAGE_DURATION.histogram(meter)
        self._process = instruments.PROCESS_DURATION.histogram(meter)
        self._size = instruments.ARTIFACT_SIZE.histogram(meter)
        self._predicted = instruments.PREDICTED_DURATION.histogram(meter)
        self._actual = instruments.ACTUAL_DURATION.histogram(meter)
        self._ratio = instruments.PREDICTION_RATIO.histogram(meter)
        # A counter that begins with its first increment hides it from `increase()`.
        for counter in (self._losses, self._handed_over, self._unplaced):
            counter.add(0)
        for reason in DeadLetterReason:
            self._dead_letters.add(0, {semconv.DEAD_LETTER_REASON: reason.value})
        self._observe_state(meter)
        _observe(meter, instruments.PROCESS_MEMORY, lambda: memory_bytes(os.getpid()))
        if engine_memory_limit_gb is not None:
            limit_bytes = int(engine_memory_limit_gb * GIGABYTE)
            _observe(meter, instruments.ENGINE_MEMORY_LIMIT, lambda: limit_bytes)

    def tell(self, state: WorkerState) -> None:
        """Have this state exported from now on."""
        self._state = state

    def consumed(self, ticks: int) -> None:
        """Count ticks that were read."""
        self._consumed.add(ticks, self._reading)

    def published(self, decision: Decision) -> None:
        """Count what was published for one tick."""
        match decision.outcome:
            case Hop():
                self._handed_over.add(1)
            case DeadLetterReason() as reason:
                self._dead_letters.add(1, {semconv.DEAD_LETTER_REASON: reason.value})
            case SlotComplete() | DeadlineMissed() as event:
                self._count(event, decision.context)

    def unplaced(self) -> None:
        """Count a slot that was given up, and that no other worker could have taken either."""
        self._unplaced.add(1)

    def engine_started(self) -> None:
        """Count an engine that is started, whatever comes of it."""
        self._starts.add(1)

    def engine_lost(self) -> None:
        """Count an engine that is lost."""
        self._losses.add(1)

    def slot_made(self, predicted_s: float, actual_s: float, context: Context) -> None:
        """Measure a prediction against what became of it."""
        self._predicted.record(predicted_s, context=context)
        self._actual.record(actual_s, context=context)
        if predicted_s > 0:
            self._ratio.record(actual_s / predicted_s, context=context)

    def _count(self, event: SlotComplete | DeadlineMissed, context: Context) -> None:
        """Measure an outcome; `context` holds the tick's span, which becomes the exemplar."""
        reason = _reason(event)
        outcome = {semconv.SLOT_OUTCOME: event.type}
        channel = {semconv.SLOT_CHANNEL: self._channel(event.channel)}
        self._outcomes.add(1, {**outcome, semconv.SLOT_REASON: reason, **channel}, context)
        if event.slack_ms >= 0:
            self._slack.record(event.slack_ms / 1000, outcome, context)
        else:  # a histogram takes no negative values
            self._overrun.record(-event.slack_ms / 1000, context=context)
        error = {semconv.ERROR_TYPE: reason} if reason else {}
        total_s = event.breakdown.total_ms / 1000
        self._process.record(total_s, {**self._processing, **error}, context)
        for stage in ("queue", *Stage):
            took_ms = getattr(event.breakdown, f"{stage}_ms")
            if took_ms is not None:
                self._stage.record(took_ms / 1000, {semconv.SLOT_STAGE: str(stage)}, context)
        if isinstance(event, SlotComplete):
            self._size.record(event.artifact.bytes, context=context)

    def _channel(self, channel: str) -> str:
        if channel in self._channels:
            return channel
        if len(self._channels) >= MAX_CHANNELS:
            return OTHER_CHANNELS
        self._channels.add(channel)
        return channel

    def _observe_state(self, meter: Meter) -> None:
        def of_state(
            instrument: instruments.Instrument, read: Callable[[WorkerState], float]
        ) -> None:
            _observe(meter, instrument, lambda: None if self._state is None else read(self._state))

        of_state(instruments.QUEUE_DEPTH, lambda state: state.waiting)
        of_state(instruments.PREDICTED_LAG, lambda state: state.lag_s)
        of_state(instruments.ASSIGNED, lambda state: state.assigned)
        of_state(instruments.STANDING, lambda state: state.standing)
        of_state(instruments.PAUSED, lambda state: int(state.paused))
        of_state(instruments.ENGINE_READY, lambda state: int(state.engine_ready))
        of_state(instruments.ENGINE_MEMORY, lambda state: state.engine_memory_bytes)
        instruments.PARTITION_LAG.observe(meter, self._lag)

    def _lag(self, _: CallbackOptions) -> Iterable[Observation]:
        lag = {} if self._state is None else self._state.lag
        return [
            Observation(
                slots,
                {
                    messaging.MESSAGING_DESTINATION_NAME: partition.topic,
                    semconv.PARTITION_ID: str(partition.partition),
                },
            )
            for partition, slots in lag.items()
        ]


def _reason(event: SlotComplete | DeadlineMissed) -> str:
    """Return the reason of a miss; what an operator cancelled calls for no worker more."""
    if isinstance(event, SlotComplete):
        return ""
    return CANCELLED if event.cancelled else event.reason.value


def _observe(
    meter: Meter, instrument: instruments.Instrument, read: Callable[[], float | None]
) -> None:
    def callback(_: CallbackOptions) -> Iterable[Observation]:
        value = read()
        return [] if value is None else [Observation(value)]

    instrument.observe(meter, callback)


def _messaging(operation: str, topic: str, group: str) -> dict[str, str]:
    return {
        messaging.MESSAGING_SYSTEM: "kafka",
        messaging.MESSAGING_OPERATION_NAME: operation,
        messaging.MESSAGING_DESTINATION_NAME: topic,
        messaging.MESSAGING_CONSUMER_GROUP_NAME: group,
    }
