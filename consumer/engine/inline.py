"""The engine inside the worker's own process."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import Span

from consumer.artifacts.encoder import SlotEncoder
from consumer.artifacts.errors import ArtifactError, ArtifactStoreError
from consumer.artifacts.media import EncodedMedia
from consumer.artifacts.store import ArtifactStore
from consumer.config import WorkerConfig
from consumer.engine.base import (
    EngineLostError,
    EngineStartError,
    SlotMade,
    SlotNotMade,
    SlotRequest,
)
from consumer.telemetry import propagation, semconv
from consumer.telemetry.redaction import shorten
from schemas import MAX_SEED, Artifact, MissReason, Quality, Stage, Verification
from vortex.errors import (
    DeadlineMissError,
    DeviceLostError,
    StageHungError,
    VortexInitializationError,
)
from vortex.orchestration import SlotResult, SlotScheduler
from vortex.slot import SlotContext
from vortex.weights.manifest import verify_manifest

if TYPE_CHECKING:
    from vortex.pipeline import VortexPipeline

MAX_SEEDS = 4
FULL_RUNG = "full"

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("vortex.engine", schema_url=semconv.SCHEMA_URL)


class InlineEngine:
    """Holds pipeline and scheduler, encodes and stores; all heavy work runs in threads.

    Serves demo, tests and single machines. A stage that hangs is left behind with its thread when
    the engine is replaced, since a thread cannot be killed.
    """

    def __init__(self, config: WorkerConfig) -> None:
        """Take the configuration; `start` loads."""
        self._config = config
        self._pipeline: VortexPipeline | None = None
        self._scheduler: SlotScheduler | None = None
        self._store: ArtifactStore | None = None
        self._enforce = config.models.self_check == "enforce"

    async def start(self) -> None:
        """Load the models, prove that the store can be written, and make a slot or two to warm up.

        Raises:
            EngineStartError: one line that says what to do.
        """
        artifacts = self._config.artifacts
        try:
            self._store = ArtifactStore(artifacts.url, artifacts.storage_options)
            await asyncio.to_thread(self._store.check)
            self._pipeline = await asyncio.to_thread(_load_pipeline, self._config)
        except (ArtifactStoreError, VortexInitializationError) as error:
            raise EngineStartError(str(error)) from error
        self._scheduler = SlotScheduler(
            self._pipeline, self._config.orchestration.model_dump(mode="json")
        )
        if self._config.pipeline.warmup:
            await self._warm_up(self._pipeline, self._scheduler)

    async def run(self, request: SlotRequest) -> SlotMade | SlotNotMade:
        """Make the slot; see `Engine`."""
        parent = propagation.extract_carrier(request.trace)
        with tracer.start_as_current_span(
            "slot.make",
            context=parent,
            attributes={
                semconv.SLOT_ID: request.slot_id,
                semconv.SLOT_CHANNEL: request.channel,
                semconv.SLOT_SEED: request.seed,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            made = await self._make(request, span)
            if isinstance(made, SlotNotMade):
                span.set_attribute(semconv.SLOT_REASON, made.reason.value)
            return made

    def predict_s(self, recipe: Mapping[str, Any]) -> float | None:
        """Return the predicted critical path, with what is kept back for encoding and storing."""
        if self._scheduler is None:
            return None
        predicted_s = self._scheduler.estimates.predict_slot(recipe)
        if predicted_s is None:
            return None
        return predicted_s + self._config.orchestration.deadline_buffer_s

    def rule_out(self, recipe: Mapping[str, Any]) -> str | None:
        """Return why a stage would go over its limit; see `Engine`."""
        return None if self._scheduler is None else self._scheduler.rule_out(recipe)

    async def stop(self) -> None:
        """Let go of the models; does not wait for a stage that hangs."""
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline = self._scheduler = None

    # --- one slot ---------------------------------------------------------------------------

    async def _make(self, request: SlotRequest, span: Span) -> SlotMade | SlotNotMade:
        times_ms: dict[str, float] = {}
        slot = SlotContext(recipe=request.recipe, slot_id=request.slot_id, seed=request.seed)
        try:
            for seeds in range(1, MAX_SEEDS + 1):  # noqa: B007 - told in the answer below
                made = await self._make_with_seed(request, slot, times_ms)
                if made is not None:
                    return made
                if not self._time_for_another(request):
                    break
                slot.seed = (slot.seed + 1) % (MAX_SEED + 1)
                span.add_event("Another seed", {semconv.SLOT_SEED: slot.seed})
        except (StageHungError, DeviceLostError) as error:
            semconv.record_failure(span, error)
            raise EngineLostError(str(error)) from error
        except Exception as error:  # noqa: BLE001 - a slot's failure is its outcome
            semconv.record_failure(span, error)
            return _not_made(error, slot, {**slot.breakdown, **times_ms})
        detail = f"the self-check failed with {seeds} of at most {MAX_SEEDS} seeds"
        times_ms = {**slot.breakdown, **times_ms}
        return SlotNotMade(MissReason.REJECTED, Stage.CLIP, detail, times_ms)

    async def _make_with_seed(
        self, request: SlotRequest, slot: SlotContext, times_ms: dict[str, float]
    ) -> SlotMade | None:
        """Make the slot with the context's seed; None if the self-check rejects it."""
        if self._store is None or self._scheduler is None:
            raise EngineLostError("the engine is not started")
        settings = self._config.artifacts
        path = self._store.scratch_path(request.channel, request.slot_id)
        encoder = SlotEncoder(
            path,
            preset=settings.preset,
            crf=settings.crf,
            audio_bitrate_bps=settings.audio_bitrate_bps,
            queue_batches=self._config.buffers.encoder_queue_batches,
        )
        slot.sink = encoder
        stored = False
        try:
            result = await self._scheduler.execute(
                request.recipe, request.slot_id, request.deadline_s, slot=slot
            )
            if self._enforce and not _passed(result):
                return None
            media = await self._finish(encoder, request, slot, times_ms)
            artifact = await self._put(media, request, slot, times_ms)
            stored = True
        finally:
            if not stored:
                await asyncio.to_thread(encoder.abort)
        return SlotMade(
            artifact=artifact,
            verification=self._verification(result),
            quality=Quality(
                frames_computed=slot.frames_computed,
                frames_total=len(result.video_frames),
                steps=slot.steps,
                rung=FULL_RUNG,
            ),
            seed=slot.seed,
            models=self._revisions(),
            times_ms={**slot.breakdown, **times_ms},
        )

    async def _finish(
        self,
        encoder: SlotEncoder,
        request: SlotRequest,
        slot: SlotContext,
        times_ms: dict[str, float],
    ) -> EncodedMedia:
        slot.stage = Stage.ENCODE
        started = time.monotonic()
        with tracer.start_as_current_span("slot.encode"):
            media = await asyncio.to_thread(encoder.finish, _left_s(request))
        times_ms["encode_ms"] = (time.monotonic() - started) * 1000
        return media

    async def _put(
        self,
        media: EncodedMedia,
        request: SlotRequest,
        slot: SlotContext,
        times_ms: dict[str, float],
    ) -> Artifact:
        slot.stage = Stage.STORE
        started = time.monotonic()
        store = self._store
        if store is None:
            raise EngineLostError("the engine is not started")
        attributes = {semconv.SLOT_ARTIFACT_BYTES: media.bytes}
        with tracer.start_as_current_span("slot.store", attributes=attributes):
            async with asyncio.timeout(_left_s(request)):
                stored = await store.put_in_thread(media, request.channel, request.slot_id)
        times_ms["store_ms"] = (time.monotonic() - started) * 1000
        return Artifact(
            uri=stored.uri,
            bytes=stored.bytes,
            sha256=stored.sha256,
            duration_s=media.duration_s,
            width=media.width,
            height=media.height,
            fps=media.fps,
        )

    def _time_for_another(self, request: SlotRequest) -> bool:
        needed_s = self.predict_s(request.recipe)
        return needed_s is not None and needed_s < request.deadline_s - time.monotonic()

    def _verification(self, result: SlotResult) -> Verification:
        verdict = result.verification
        if verdict is None:
            raise ValueError("the pipeline returned no verdict")
        return Verification(
            score_clip_b=verdict.score_clip_b,
            score_clip_l=verdict.score_clip_l,
            cosine_clip_b=verdict.cosine_clip_b,
            cosine_clip_l=verdict.cosine_clip_l,
            ensemble_score=verdict.ensemble_score,
            self_check_passed=verdict.self_check_passed,
            enforced=self._enforce,
            outlier_detected=verdict.outlier_detected,
            embedding=tuple(round(value, 6) for value in verdict.embedding.tolist()),
        )

    def _revisions(self) -> Mapping[str, str]:
        return {} if self._pipeline is None else self._pipeline.models.revisions

    async def _warm_up(self, pipeline: VortexPipeline, scheduler: SlotScheduler) -> None:
        """Make a slot that finds everything cold, and one that tells how long a slot takes.

        Without a deadline: what is slow here is for the limits of the stages to say.
        """
        from vortex.pipeline import WARM_UP_RECIPE

        try:
            cold = await pipeline.warm_up()
            warm = await scheduler.execute(WARM_UP_RECIPE, slot_id=0, deadline=math.inf)
        except Exception as error:
            raise EngineStartError(f"the warm-up slot failed: {error}") from error
        logger.info(
            "Engine warmed up",
            extra={
                "cold_ms": round(cold.breakdown.total_ms, 1),
                "warm_ms": round(warm.breakdown.total_ms, 1),
            },
        )


def _load_pipeline(config: WorkerConfig) -> VortexPipeline:
    verify_manifest(config.models.profile_directory, catalogue=config.models.catalogue)
    # Here and not above: the libraries take seconds to load. The group does not wait for them, nor
    # does a user whose weights are missing.
    from vortex.pipeline import VortexPipeline

    return VortexPipeline(config=config)


def _passed(result: SlotResult) -> bool:
    return result.verification is not None and result.verification.self_check_passed


def _left_s(request: SlotRequest) -> float:
    return max(0.0, request.deadline_s - time.monotonic())


def _not_made(error: Exception, slot: SlotContext, times_ms: Mapping[str, float]) -> SlotNotMade:
    stage = Stage(slot.stage) if slot.stage is not None else None
    if isinstance(error, DeadlineMissError):
        return SlotNotMade(MissReason.PREDICTED, stage, str(error), times_ms)
    if isinstance(error, TimeoutError):
        detail = f"stage {stage.value if stage else '?'} went over its time limit"
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
