"""Makes one slot: the stages with as many seeds as there is time for, then encode and store.

Knows nothing of the process that it runs in; an engine is a host around it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import Span

from consumer.artifacts.credentials import ManifestSigner
from consumer.artifacts.encoder import SlotEncoder
from consumer.artifacts.errors import ArtifactError, ArtifactStoreError
from consumer.artifacts.loudness import LoudnessTarget
from consumer.artifacts.media import EncodedMedia
from consumer.artifacts.store import ArtifactStore, StoredArtifact
from consumer.artifacts.watermark import watermark_id_of
from consumer.config import CredentialsConfig, LoudnessConfig, WorkerConfig
from consumer.engine.base import (
    EngineLostError,
    EngineResult,
    EngineStartError,
    SlotMade,
    SlotNotMade,
    SlotRequest,
)
from consumer.engine.predictions import Predictions
from consumer.job import TickKey
from consumer.telemetry import propagation, semconv
from consumer.telemetry.redaction import shorten
from schemas import (
    MAX_SEED,
    Artifact,
    Loudness,
    MissReason,
    Provenance,
    Quality,
    Recipe,
    SpokenScript,
    Stage,
    Verification,
    recipe_sha256,
)
from vortex.errors import (
    DeadlineMissError,
    DeviceLostError,
    StageHungError,
    VortexInitializationError,
)
from vortex.orchestration import SlotResult, SlotScheduler, StageEstimates
from vortex.orchestration.estimates_file import EstimatesFile
from vortex.rung import Rung
from vortex.slot import SlotContext, SlotListener, SpokenAhead
from vortex.utils.cancellation import being_cancelled
from vortex.utils.files import sha256_of
from vortex.utils.heap import import_for_good
from vortex.weights.manifest import FILE_NAME, verify_manifest

if TYPE_CHECKING:
    from vortex.models.clip_ensemble import DualClip
    from vortex.pipeline import ModelRegistry, VortexPipeline

# Of a recipe that says nothing.
USUAL_SEEDS = 4
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
        signer: ManifestSigner | None,
    ) -> None:
        self.scheduler = SlotScheduler(
            pipeline, config.orchestration.model_dump(mode="json"), estimates=estimates
        )
        self._config = config
        self._pipeline = pipeline
        self._store = store
        self._predictions = Predictions(config.orchestration, estimates)
        self._signer = signer
        self._clip = _clip_of(pipeline)
        self._enforce = _can_enforce(config, self._clip)
        self._estimates_file = EstimatesFile(config.models.profile_directory, pipeline.device_title)
        # It lists the checksum of every file of weights.
        manifest = config.models.profile_directory / FILE_NAME
        self._models_sha256 = sha256_of(manifest) if manifest.exists() else None
        # The slot that is spoken ahead, or was.
        self._ahead: tuple[TickKey, asyncio.Task[SpokenAhead]] | None = None
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
            signer = _signer(config.artifacts.credentials)
            return cls(config, _load_pipeline(config), store, estimates, signer)
        except (ArtifactError, VortexInitializationError) as error:
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
            with tracer.start_as_current_span("engine.warm_up"):
                cold = await self._pipeline.warm_up()
                warm = await self.scheduler.execute(WARM_UP_RECIPE, slot_id=None, deadline=math.inf)
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
            rungs=request.rungs,
            rung_why=request.rung_why,
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
            span.set_attribute(semconv.SLOT_RUNG, slot.rung.name)
            if slot.rung_why:
                span.set_attribute(semconv.SLOT_RUNG_REASON, slot.rung_why)
            if isinstance(result, SlotNotMade):
                span.set_attribute(semconv.SLOT_REASON, result.reason.value)
            self._save_estimates()
            return result

    async def speak_ahead(self, request: SlotRequest, listener: SlotListener) -> None:
        """Speak a slot that should be made next, and encode its prompt; see `Engine`.

        Raises:
            EngineLostError: a stage hangs, or the GPU is in an error state.
        """
        slot = SlotContext(
            recipe=request.recipe, slot_id=request.slot_id, seed=request.seed, listener=listener
        )
        speaking = asyncio.create_task(self._speak_ahead(request, slot))
        self._ahead = request.key, speaking
        try:
            await speaking
        except (StageHungError, DeviceLostError) as error:
            raise EngineLostError(str(error)) from error
        except asyncio.CancelledError:
            if being_cancelled():
                raise
        except Exception as error:  # noqa: BLE001 - the slot speaks by itself, and tells
            _log_not_ahead(slot, error)

    async def _speak_ahead(self, request: SlotRequest, slot: SlotContext) -> SpokenAhead:
        with tracer.start_as_current_span(
            "slot.prepare",
            context=propagation.extract_carrier(request.trace),
            attributes={semconv.SLOT_ID: request.slot_id, semconv.SLOT_AHEAD: True},
            record_exception=False,
            set_status_on_exception=False,
        ):
            try:
                async with asyncio.timeout(self._config.orchestration.timeouts.image_s):
                    await self._pipeline.encode_prompt(request.recipe, request.seed)
            except (StageHungError, DeviceLostError):
                raise
            except Exception as error:  # noqa: BLE001 - the image stage encodes it, and tells
                _log_not_ahead(slot, error)
            return await self.scheduler.speak_ahead(slot)

    def _save_estimates(self) -> None:
        """Have what was learned written, once every few seconds; nobody waits for it."""
        now = time.monotonic()
        if now < self._next_save_s or (self._saving is not None and not self._saving.done()):
            return
        self._next_save_s = now + SAVE_INTERVAL_S
        learned = self.scheduler.estimates.to_json()
        self._saving = asyncio.create_task(asyncio.to_thread(self._estimates_file.save, learned))

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
        most = request.recipe.semantic_constraints.max_seeds or USUAL_SEEDS
        for seeds in range(1, most + 1):
            made = await self._with_seed(request, slot)
            if made is not None:
                return made
            rungs = self._rungs_for_another(request) if seeds < most else ()
            if not rungs:
                break
            slot.rungs, slot.rung_why = rungs, request.rung_why
            if rungs[0] != request.rungs[0]:
                slot.rung_why = f"{_left_s(request):.2f} s were left for another seed"
            slot.seed = (slot.seed + 1) % (MAX_SEED + 1)
            span.add_event("Another seed", {semconv.SLOT_SEED: slot.seed})
        detail = f"the self-check failed with {seeds} of at most {most} seeds"
        return SlotNotMade(MissReason.REJECTED, Stage.CLIP, detail, dict(slot.breakdown))

    async def _with_seed(self, request: SlotRequest, slot: SlotContext) -> SlotMade | None:
        """Make the slot with the context's seed; None if the self-check rejects it."""
        await self._take_ahead(request, slot)
        encoder = await asyncio.to_thread(self._new_encoder, request, slot)
        slot.sink = encoder
        stored = False
        try:
            result = await self.scheduler.execute(
                request.recipe, request.slot_id, request.deadline_s, slot=slot
            )
            if self._enforce and result.verdict.verdict == "failed":
                return None
            artifact, provenance = await self._keep(encoder, request, slot, result)
            stored = True
        finally:
            if not stored:
                await asyncio.to_thread(encoder.abort)
        return self._made(result, slot, artifact, provenance)

    async def _take_ahead(self, request: SlotRequest, slot: SlotContext) -> None:
        """Take what was spoken ahead if it is this slot's, else stop it and drop it."""
        if self._ahead is None:
            return
        (key, speaking), self._ahead = self._ahead, None
        if key == request.key:
            slot.ahead = speaking
        else:
            speaking.cancel()
            await asyncio.wait({speaking})

    def _unknown_demands(self, recipe: Recipe) -> tuple[str, ...]:
        """Return words that the recipe insists on and that no self-check can decide about."""
        wanted = recipe.semantic_constraints
        demands = [*wanted.banned_concepts, *wanted.required_concepts]
        if wanted.min_clip_score:
            demands.append(recipe.visual_track.prompt)
        if self._clip is None or not (self._enforce and demands):
            return ()
        return self._clip.unknown_words(demands)

    def _new_encoder(self, request: SlotRequest, slot: SlotContext) -> SlotEncoder:
        settings = self._config.artifacts
        return SlotEncoder(
            self._store.scratch_path(request.channel, request.slot_id),
            preset=settings.preset,
            crf=settings.crf,
            threads=settings.x264_threads,
            audio_bitrate_bps=settings.audio_bitrate_bps,
            queue_batches=self._config.buffers.encoder_queue_batches,
            loudness=_loudness_target(settings.loudness),
            fragmented=settings.fragmented,
            watermark_id=watermark_id_of(*request.key) if settings.watermark else None,
            words=(lambda: slot.speech.words if slot.speech else ()) if settings.captions else None,
            phonemes=lambda: slot.speech.phonemes if slot.speech else (),
        )

    async def _keep(
        self, encoder: SlotEncoder, request: SlotRequest, slot: SlotContext, result: SlotResult
    ) -> tuple[Artifact, Provenance]:
        """Finish the file, sign it and store it, durable and whole."""
        with slot.step(Stage.ENCODE.value), tracer.start_as_current_span("slot.encode"):
            media = await asyncio.to_thread(encoder.finish, _left_s(request))
            provenance = Provenance(
                recipe_sha256=recipe_sha256(request.recipe),
                media_sha256=media.sha256,
                manifest_sha256=None,
            )
            if self._signer is not None:
                claim = self._claim(request, slot, result, provenance)
                signed = await asyncio.to_thread(self._signer.sign, media, claim)
                media = signed.media
                provenance = provenance.model_copy(
                    update={"manifest_sha256": signed.manifest_sha256}
                )
        size = {semconv.SLOT_ARTIFACT_BYTES: media.bytes}
        with (
            slot.step(Stage.STORE.value),
            tracer.start_as_current_span("slot.store", attributes=size),
        ):
            async with asyncio.timeout(_left_s(request)):
                stored = await self._store.put_in_thread(media, request.channel, request.slot_id)
        return _artifact(media, stored), provenance

    def _claim(
        self,
        request: SlotRequest,
        slot: SlotContext,
        result: SlotResult,
        provenance: Provenance,
    ) -> dict[str, Any]:
        """Return what the video's credentials bind it to."""
        verdict, spoken = result.verdict, _spoken(slot)
        return {
            "tick": request.key._asdict(),
            "channel": request.channel,
            "slot_id": request.slot_id,
            "recipe_sha256": provenance.recipe_sha256,
            "media_sha256": provenance.media_sha256,
            "seed": slot.seed,
            "models": dict(self._pipeline.models.revisions),
            "models_manifest_sha256": self._models_sha256,
            "speech": None if spoken is None else spoken.model_dump(include={"spoken", "cut"}),
            "scores": {
                "clip_b": verdict.score_clip_b,
                "clip_l": verdict.score_clip_l,
                "ensemble": verdict.ensemble_score,
                "self_check_passed": verdict.self_check_passed,
            },
        }

    def _made(
        self, result: SlotResult, slot: SlotContext, artifact: Artifact, provenance: Provenance
    ) -> SlotMade:
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
                rung=slot.rung.name,
                rung_reason=slot.rung_why or None,
            ),
            seed=slot.seed,
            models=self._pipeline.models.revisions,
            times_ms=dict(slot.breakdown),
            provenance=provenance,
            speech=_spoken(slot),
        )

    def _rungs_for_another(self, request: SlotRequest) -> tuple[Rung, ...]:
        """Return the rungs at which there is time left for another seed, the best first."""
        for index, rung in enumerate(request.rungs):
            needed_s = self._predictions.slot_s(request.recipe, rung)
            if needed_s is not None and needed_s < _left_s(request):
                return request.rungs[index:]
        return ()


def _log_not_ahead(slot: SlotContext, error: Exception) -> None:
    about = {"slot_id": slot.slot_id, "error_type": semconv.error_type(error)}
    logger.debug("Not done ahead", extra=about)


def _clip_of(pipeline: VortexPipeline) -> DualClip | None:
    """Return the models of the self-check; None if the pipeline judges without them."""
    # The scheduler does not ask a pipeline for any.
    models: ModelRegistry | None = getattr(pipeline, "models", None)
    return models.get_model("clip") if models is not None and "clip" in models else None


def _can_enforce(config: WorkerConfig, clip: DualClip | None) -> bool:
    """Return whether a failed self-check is a miss; say so if that is only for want of a scale."""
    if config.models.self_check != "enforce":
        return False
    if clip is None or clip.calibrated:
        return True
    logger.warning(
        "The self-check only reports: profile %s is not calibrated; run `vortex models calibrate`",
        config.models.profile,
    )
    return False


def _spoken(slot: SlotContext) -> SpokenScript | None:
    """Return what is heard of the script; None if the pipeline does not tell."""
    speech = slot.speech
    if speech is None or not speech.text:
        return None
    return SpokenScript(
        spoken=speech.text,
        cut=speech.truncated,
        duration_s=round(speech.duration_s, 3),
        voice_id=speech.voice_id,
    )


def _artifact(media: EncodedMedia, stored: StoredArtifact) -> Artifact:
    return Artifact(
        uri=stored.uri,
        bytes=stored.bytes,
        sha256=stored.sha256,
        duration_s=media.duration_s,
        width=media.width,
        height=media.height,
        fps=media.fps,
        captions_uri=stored.captions_uri,
        loudness=None if media.loudness is None else Loudness(**asdict(media.loudness)),
        watermark_id=media.watermark_id,
    )


def _loudness_target(settings: LoudnessConfig) -> LoudnessTarget | None:
    if not settings.enabled:
        return None
    return LoudnessTarget(settings.target_lufs, settings.true_peak_dbtp)


def _signer(settings: CredentialsConfig) -> ManifestSigner | None:
    if not settings.enabled:
        return None
    if settings.cert_file is None or settings.key_file is None:
        return ManifestSigner.self_made()
    return ManifestSigner.load(settings.cert_file, settings.key_file)


def _load_pipeline(config: WorkerConfig) -> VortexPipeline:
    verify_manifest(config.models.profile_directory, catalogue=config.models.catalogue)
    # Here and not above: the libraries take seconds to load. The group does not wait for them, nor
    # does a user whose weights are missing.
    import_for_good("vortex.pipeline")
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
