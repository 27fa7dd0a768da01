"""An engine whose starts, losses and predictions are measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from consumer.engine.base import (
    Engine,
    EngineLostError,
    EngineResult,
    OnStage,
    SlotMade,
    SlotRequest,
    ignore_stage,
)
from consumer.telemetry.propagation import extract_carrier
from consumer.telemetry.worker_metrics import WorkerMetrics
from schemas import Recipe, Stage
from vortex.rung import FULL, Rung
from vortex.utils.clock import now_s


class MeasuredEngine:
    """Passes everything on to another engine, and tells the metrics."""

    def __init__(self, engine: Engine, metrics: WorkerMetrics) -> None:
        self._engine = engine
        self._metrics = metrics
        # Whether the loss of this engine was counted: it may be told by two slots.
        self._loss_counted = False

    @property
    def ready(self) -> bool:
        """Whether the engine is started and not lost."""
        return self._engine.ready

    async def start(self) -> None:
        """Start the engine, and count it; see `Engine`."""
        self._metrics.engine_started()
        self._loss_counted = False
        with self._counting_loss():
            await self._engine.start()

    async def run(self, request: SlotRequest, on_stage: OnStage = ignore_stage) -> EngineResult:
        """Make the slot, and compare the time it takes with the prediction; see `Engine`."""
        # Before the work, from which the predictions learn.
        predicted_s = self._engine.predict_s(request.recipe, request.rungs[0])
        began_s = now_s()
        with self._counting_loss():
            result = await self._engine.run(request, on_stage)
        if predicted_s is not None and isinstance(result, SlotMade):
            context = extract_carrier(request.trace)
            self._metrics.slot_made(predicted_s, now_s() - began_s, context)
        return result

    async def speak_ahead(self, request: SlotRequest) -> None:
        """Speak a slot ahead; see `Engine`."""
        with self._counting_loss():
            await self._engine.speak_ahead(request)

    async def settle(self) -> None:
        """Wait for what is left of the last slot; see `Engine`."""
        with self._counting_loss():
            await self._engine.settle()

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The rungs that may be used; see `Engine`."""
        return self._engine.ladder

    def predict_s(self, recipe: Recipe, rung: Rung = FULL) -> float | None:
        """Return the seconds that a slot takes; see `Engine`."""
        return self._engine.predict_s(recipe, rung)

    def predict_rest_s(self, recipe: Recipe, rung: Rung, stage: Stage) -> float | None:
        """Return the seconds that the rest of a slot takes; see `Engine`."""
        return self._engine.predict_rest_s(recipe, rung, stage)

    @property
    def spread(self) -> float:
        """How far predictions are off; see `Engine`."""
        return self._engine.spread

    @property
    def overlap_room_s(self) -> float:
        """How long before a slot's deadline another may be begun; see `Engine`."""
        return self._engine.overlap_room_s

    def speech_room_s(self, recipe: Recipe) -> float:
        """Return how long before its deadline another slot must end; see `Engine`."""
        return self._engine.speech_room_s(recipe)

    def rule_out(self, recipe: Recipe) -> str | None:
        """Return why the engine cannot make a slot; see `Engine`."""
        return self._engine.rule_out(recipe)

    def most_work(self) -> Mapping[str, float]:
        """See `Engine`."""
        return self._engine.most_work()

    @property
    def memory_bytes(self) -> int:
        """Main memory of the engine's process; see `Engine`."""
        return self._engine.memory_bytes

    async def stop(self) -> None:
        """Stop the engine."""
        await self._engine.stop()

    @contextmanager
    def _counting_loss(self) -> Iterator[None]:
        try:
            yield
        except EngineLostError:
            if not self._loss_counted:
                self._metrics.engine_lost()
            self._loss_counted = True
            raise
