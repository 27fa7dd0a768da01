"""The engine inside the worker's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from consumer.config import WorkerConfig
from consumer.engine.base import (
    EngineLostError,
    EngineResult,
    OnStage,
    SlotRequest,
    StageListener,
    ignore_stage,
)
from consumer.engine.predictions import Predictions
from consumer.engine.slot_maker import SlotMaker
from schemas import Recipe, Stage
from vortex.orchestration import StageEstimates
from vortex.rung import FULL, Rung
from vortex.slot import SlotListener


class InlineEngine:
    """Hosts a slot maker; its heavy work runs in threads of this process.

    Serves demo, tests and single machines. A stage that hangs is left behind with its thread when
    the engine is replaced, since a thread cannot be killed.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        orchestration = config.orchestration
        # Kept while the models are not loaded: slots are planned for then, too.
        self._estimates = StageEstimates(
            orchestration.timeouts.by_stage(), orchestration.priors.by_stage()
        )
        self._predictions = Predictions(orchestration, self._estimates)
        self._maker: SlotMaker | None = None
        self._lost = False

    @property
    def ready(self) -> bool:
        """Whether everything is loaded, and nothing of it lost."""
        return self._maker is not None and not self._lost

    async def start(self) -> None:
        """Load everything and warm up; see `Engine`."""
        maker = await asyncio.to_thread(SlotMaker.load, self._config, self._estimates)
        maker.restore_estimates()
        if self._config.pipeline.warmup:
            await maker.warm_up()
        self._maker, self._lost = maker, False

    async def run(self, request: SlotRequest, on_stage: OnStage = ignore_stage) -> EngineResult:
        """Make the slot; see `Engine`."""
        with self._noting_loss():
            return await self._working_maker.make(request, StageListener(on_stage))

    async def speak_ahead(self, request: SlotRequest) -> None:
        """Speak the slot; see `Engine`."""
        with self._noting_loss():
            await self._working_maker.speak_ahead(request, SlotListener())

    async def settle(self) -> None:
        """Do nothing: `run` returns when the slot's work has stopped."""

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The configured rungs; see `Engine`."""
        return self._config.orchestration.rungs

    def predict_s(self, recipe: Recipe, rung: Rung = FULL) -> float | None:
        """Return the predicted critical path; see `Engine`."""
        return self._predictions.slot_s(recipe, rung)

    def predict_rest_s(self, recipe: Recipe, rung: Rung, stage: Stage) -> float | None:
        """Return the predicted stages ahead; see `Engine`."""
        return self._predictions.rest_s(recipe, rung, stage)

    @property
    def spread(self) -> float:
        """How far predictions are off; see `Engine`."""
        return self._estimates.spread

    @property
    def overlap_room_s(self) -> float:
        """How long before a slot's deadline another may be begun; see `Engine`."""
        return self._config.orchestration.overlap_room_s

    def speech_room_s(self, recipe: Recipe) -> float:
        """Return how long before its deadline another slot must end; see `Engine`."""
        return self._predictions.speech_room_s(recipe)

    def rule_out(self, recipe: Recipe) -> str | None:
        """Return why a stage would exceed its limit; see `Engine`."""
        return self._predictions.rule_out(recipe)

    def most_work(self) -> Mapping[str, float]:
        """See `Engine`."""
        return self._predictions.most_work()

    @property
    def _working_maker(self) -> SlotMaker:
        if self._maker is None or self._lost:
            raise EngineLostError("the engine is not started")
        return self._maker

    @contextmanager
    def _noting_loss(self) -> Iterator[None]:
        try:
            yield
        except EngineLostError:
            self._lost = True
            raise

    @property
    def memory_bytes(self) -> int:
        """Return 0: it is the worker's own."""
        return 0

    async def stop(self) -> None:
        """Let go of the models; does not wait for a stage that hangs."""
        if self._maker is not None:
            self._maker.close()
        self._maker = None
