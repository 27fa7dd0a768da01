"""Makes one slot: the stages with as many seeds as there is time for, then encode and store.

Knows nothing of the process that it runs in; an engine is a host around it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import Span

from consumer.artifacts.encoder import SlotEncoder
from consumer.artifacts.errors import ArtifactError, ArtifactStoreError
from consumer.artifacts.store import ArtifactStore
from consumer.config import WorkerConfig
from consumer.engine.base import (
    EngineLostError,
    EngineResult,
    EngineStartError,
    SlotMade,
    SlotNotMade,
    SlotRequest,
)
from consumer.telemetry import propagation, semconv
from consumer.telemetry.redaction import shorten
from schemas import MAX_SEED, Artifact, MissReason, Quality, Recipe, Stage, Verification
from vortex.errors import (
    DeadlineMissError,
    DeviceLostError,
    StageHungError,
    VortexInitializationError,
)
from vortex.orchestration import SlotResult, SlotScheduler, StageEstimates
from vortex.orchestration.estimates_file import EstimatesFile
from vortex.slot import SlotContext, SlotListener
from vortex.weights.manifest import verify_manifest

if TYPE_CHECKING:
    from vortex.models.clip_ensemble import DualClip
    from vortex.pipeline import VortexPipeline

MAX_SEEDS = 4
FULL_RUNG = "full"
SAVE_INTERVAL_S = 5.0
MAX_WORDS, MAX_WORD_CHARS = 64, 64

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("vortex.engine", schema_url=semconv.SCHEMA_URL)


class SlotMaker:
    """Holds pipeline, scheduler and store; all heavy work runs in threads."""

    def __init__(
        self,
        config: WorkerConfig,
        pipeline: VortexPipeline,
        store: ArtifactStore,
        estimates: StageEstimates,
    ) -> None:
        self.scheduler = SlotScheduler(
            pipeline, config.orchestration.model_dump(mode="json"), estimates=estimates
        )
        self._config = config
        self._pipeline = pipeline
        self._store = store
        self._enforce = config.models.self_check == "enforce"
        self._estimates_file = EstimatesFile(config.models.profile_directory, pipeline.device_title)
        self._saving: asyncio.Task[None] | None = None
        self._next_save_s = 0.0

    @classmethod
    def load(cls, config: WorkerConfig, estimates: StageEstimates) -> SlotMaker:
        """Prove that the store can be written, and load the models; blocks for seconds.

        Args:
            config: the worker's.
            estimates: learns how long stages take, and predicts it.

        Raises:
            EngineStartError: one line that says what to do.
        """
        try:
            store = ArtifactStore(config.artifacts.url, config.artifacts.storage_options)
            store.check()
            return cls(config, _load_pipeline(config), store, estimates)
        except (ArtifactStoreError, VortexInitializationError) as error:
            raise EngineStartError(str(error)) from error

    def restore_estimates(self) -> None:
        """Go on from what was learned on this device before, if anything was."""
        self._estimates_file.load_into(self.scheduler.estimates)

    async def warm_up(self) -> None:
        """Make a slot that finds everything cold, and one that tells how long a slot takes.

        Without a deadline: what is slow here is for the limits of the stages to say.

        Raises:
            EngineStartError: one of them failed.
        """
        from vortex.pipeline import WARM_UP_RECIPE

        try:
            cold = await self._pipeline.warm_up()
            warm = await self.scheduler.execute(WARM_UP_RECIPE, slot_id=0, deadline=math.inf)
        except Exception as error:
            raise EngineStartError(f"the warm-up slot failed: {error}") from error
        logger.info(
            "Engine warmed up",
            extra={
                "cold_ms": round(cold.breakdown.total_ms, 1),
                "warm_ms": round(warm.breakdown.total_ms, 1),
            },
        )

    async def make(self, request: SlotRequest, listener: SlotListener) -> EngineResult:
        """Make the slot. A slot that fails is a result; cancelling the call stops the work.

        Raises:
            EngineLostError: a stage hangs, or the GPU is in an error state.
        """
        slot = SlotContext(
            recipe=request.recipe,
            slot_id=request.slot_id,
            seed=request.seed,
            listener=listener,
            admitted=request.admitted,
        )
        with tracer.start_as_current_span(
            "slot.make",
            context=propagation.extract_carrier(request.trace),
            attributes={
                semconv.SLOT_ID: request.slot_id,
                semconv.SLOT_CHANNEL: request.channel,
                semconv.SLOT_SEED: request.seed,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                result = await self._with_seeds(request, slot, span)
            except (StageHungError, DeviceLostError) as error:
                semconv.record_failure(span, error)
                raise EngineLostError(str(error)) from error
            except Exception as error:  # noqa: BLE001 - a slot's failure is its outcome
                semconv.record_failure(span, error)
                result = _not_made(error, slot)
            if isinstance(result, SlotNotMade):
                span.set_attribute(semconv.SLOT_REASON, result.reason.value)
            self._save_estimates()
            return result

    def _save_estimates(self) -> None:
        """Have what was learned written, once every few seconds; nobody waits for it."""
        now = time.monotonic()
        if now < self._next_save_s or (self._saving is not None and not self._saving.done()):
            return
        self._next_save_s = now + SAVE_INTERVAL_S
        learned = self.scheduler.estimates.to_json()
        self._saving = asyncio.create_task(asyncio.to_thread(self._estimates_file.save, learned))

    def predict_s(self, recipe: Recipe) -> float | None:
        """Return the predicted critical path, with what is kept back for encoding and storing."""
        predicted_s = self.scheduler.estimates.predict_slot(recipe)
        return None if predicted_s is None else predicted_s + self.scheduler.deadline_buffer_s

    def rule_out(self, recipe: Recipe) -> str | None:
        """Return why a stage would exceed its limit, or None if the slot may be tried."""
        return self.scheduler.rule_out(recipe)

    def close(self) -> None:
        """Let go of the models; does not wait for a stage that hangs."""
        self._pipeline.close()

    # --- one slot ---------------------------------------------------------------------------

    async def _with_seeds(
        self, request: SlotRequest, slot: SlotContext, span: Span
    ) -> EngineResult:
        """Make the slot with one seed after another, until one passes or there is no more time."""
        unknown = self._unknown_demands(request.recipe)
        if unknown:
            named = ", ".join(repr(word[:MAX_WORD_CHARS]) for word in unknown[:MAX_WORDS])
            detail = (
                f"semantic_constraints: the self-check cannot look for {named}; the models of"
                f" profile {self._config.models.profile} do not know such words"
            )
            return SlotNotMade(MissReason.REJECTED, None, detail, {})
        for seeds in range(1, MAX_SEEDS + 1):  # noqa: B007 - told in the answer below
            made = await self._with_seed(request, slot)
            if made is not None:
                return made
            if not self._time_for_another(request):
                break
            slot.seed = (slot.seed + 1) % (MAX_SEED + 1)
            span.add_event("Another seed", {semconv.SLOT_SEED: slot.seed})
        detail = f"the self-check failed with {seeds} of at most {MAX_SEEDS} seeds"
        return SlotNotMade(MissReason.REJECTED, Stage.CLIP, detail, dict(slot.breakdown))

    async def _with_seed(self, request: SlotRequest, slot: SlotContext) -> SlotMade | None:
        """Make the slot with the context's seed; None if the self-check rejects it."""
        encoder = await asyncio.to_thread(self._new_encoder, request)
        slot.sink = encoder
        stored = False
        try:
            result = await self.scheduler.execute(
                request.recipe, request.slot_id, request.deadline_s, slot=slot
            )
            if self._enforce and result.verdict.verdict == "failed":
                return None
            artifact = await self._keep(encoder, request, slot)
            stored = True
        finally:
            if not stored:
                await asyncio.to_thread(encoder.abort)
        return self._made(result, slot, artifact)

    def _unknown_demands(self, recipe: Recipe) -> tuple[str, ...]:
        """Return words that the recipe insists on and that no self-check can decide about."""
        wanted = recipe.semantic_constraints
        demands = [*wanted.banned_concepts, *wanted.required_concepts]
        if wanted.min_clip_score:
            demands.append(recipe.visual_track.prompt)
        if not (self._enforce and demands):
            return ()
        clip: DualClip = self._pipeline.models.get_model("clip")
        return clip.unknown_words(demands)

    def _new_encoder(self, request: SlotRequest) -> SlotEncoder:
        settings = self._config.artifacts
        return SlotEncoder(
            self._store.scratch_path(request.channel, request.slot_id),
            preset=settings.preset,
            crf=settings.crf,
            audio_bitrate_bps=settings.audio_bitrate_bps,
            queue_batches=self._config.buffers.encoder_queue_batches,
        )

    async def _keep(
        self, encoder: SlotEncoder, request: SlotRequest, slot: SlotContext
    ) -> Artifact:
        """Finish the file and store it, durable and whole."""
        with slot.step(Stage.ENCODE.value), tracer.start_as_current_span("slot.encode"):
            media = await asyncio.to_thread(encoder.finish, _left_s(request))
        size = {semconv.SLOT_ARTIFACT_BYTES: media.bytes}
        with (
            slot.step(Stage.STORE.value),
            tracer.start_as_current_span("slot.store", attributes=size),
        ):
            async with asyncio.timeout(_left_s(request)):
                stored = await self._store.put_in_thread(media, request.channel, request.slot_id)
        return Artifact(
            uri=stored.uri,
            bytes=stored.bytes,
            sha256=stored.sha256,
            duration_s=media.duration_s,
            width=media.width,
            height=media.height,
            fps=media.fps,
        )

    def _made(self, result: SlotResult, slot: SlotContext, artifact: Artifact) -> SlotMade:
        verdict = result.verdict
        return SlotMade(
            artifact=artifact,
            verification=Verification(
                score_clip_b=verdict.score_clip_b,
                score_clip_l=verdict.score_clip_l,
                cosine_clip_b=verdict.cosine_clip_b,
                cosine_clip_l=verdict.cosine_clip_l,
                ensemble_score=verdict.ensemble_score,
                self_check_passed=verdict.self_check_passed,
                verdict=verdict.verdict,
                unknown_words=tuple(
                    word[:MAX_WORD_CHARS] for word in verdict.unknown_words[:MAX_WORDS]
                ),
                enforced=self._enforce,
                outlier_detected=verdict.outlier_detected,
                embedding=tuple(round(value, 6) for value in verdict.embedding.tolist()),
            ),
            quality=Quality(
                frames_computed=slot.frames_computed,
                frames_total=len(result.video_frames),
                steps=slot.steps,
                rung=FULL_RUNG,
            ),
            seed=slot.seed,
            models=self._pipeline.models.revisions,
            times_ms=dict(slot.breakdown),
        )

    def _time_for_another(self, request: SlotRequest) -> bool:
        needed_s = self.predict_s(request.recipe)
        return needed_s is not None and needed_s < _left_s(request)


def _load_pipeline(config: WorkerConfig) -> VortexPipeline:
    verify_manifest(config.models.profile_directory, catalogue=config.models.catalogue)
    # Here and not above: the libraries take seconds to load. The group does not wait for them, nor
    # does a user whose weights are missing.
    from vortex.pipeline import VortexPipeline

    return VortexPipeline(config=config)


def _left_s(request: SlotRequest) -> float:
    return max(0.0, request.deadline_s - time.monotonic())


def _not_made(error: Exception, slot: SlotContext) -> SlotNotMade:
    """Return the miss that an error amounts to; log what nobody foresaw with its traceback."""
    stage = None if slot.stage is None else Stage(slot.stage)
    times_ms: Mapping[str, float] = dict(slot.breakdown)
    if isinstance(error, DeadlineMissError):
        return SlotNotMade(MissReason.PREDICTED, stage, str(error), times_ms)
    if isinstance(error, TimeoutError):
        detail = f"stage {stage.value if stage else '?'} exceeded its time limit"
        return SlotNotMade(MissReason.TIMEOUT, stage, detail, times_ms)
    if isinstance(error, ArtifactStoreError):
        stage = Stage.STORE
    elif isinstance(error, ArtifactError):
        stage = Stage.ENCODE
    logger.error(
        "Slot failed",
        extra={"slot_id": slot.slot_id, "stage": stage.value if stage else None},
        exc_info=error,
    )
    detail = shorten(f"{semconv.error_type(error)}: {error}")
    return SlotNotMade(MissReason.FAILED, stage, detail, times_ms)
