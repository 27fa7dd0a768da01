"""Takes one slot through its stages before its deadline."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from opentelemetry import trace

from schemas import AudioTrack, Recipe, VisualTrack
from vortex.errors import (
    DeadlineMissError,
    DeviceLostError,
    InvalidRecipeError,
    StageHungError,
    StageTimeoutError,
)
from vortex.orchestration.estimates import STAGES, StageEstimates, video_units, work_units
from vortex.orchestration.models import GenerationBreakdown, SlotMetadata, SlotResult
from vortex.rung import FULL, Rung
from vortex.slot import SlotContext, SpokenAhead, as_recipe, slot_seed
from vortex.utils.cancellation import being_cancelled
from vortex.utils.side_by_side import side_by_side

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import torch

    from vortex.models.clip_ensemble import DualClipResult

T = TypeVar("T")

DEFAULT_SLOT_S = 45.0
BACKOFF_S = 0.5
REQUIRED_KEYS: Mapping[str, tuple[str, ...]] = {
    "timeouts": tuple(f"{stage}_s" for stage in STAGES),
    "retry_policy": STAGES,
    "deadline_buffer_s": (),
}

UNLIMITED: Mapping[str, Any] = {
    "timeouts": {f"{stage}_s": math.inf for stage in STAGES},
    "retry_policy": dict.fromkeys(STAGES, 0),
    "deadline_buffer_s": 0.0,
}
"""A configuration under which every stage has one attempt, however long it takes."""

# A recipe that only a plain pipeline can read counts as one of full length.
FOREIGN_RECIPE = Recipe(audio_track=AudioTrack(script="-"), visual_track=VisualTrack(prompt="-"))

# Trying again cannot help after these.
NOT_RETRIED = (DeadlineMissError, DeviceLostError, InvalidRecipeError, StageHungError)

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("vortex.orchestration")


class Pipeline(Protocol):
    """What the scheduler needs of a pipeline.

    A pipeline whose class sets `takes_slot_context = True` gets the recipe as a `Recipe`, and the
    slot's `SlotContext` as one more positional argument of every method; any other pipeline gets
    the mapping that the caller gave, and exactly these arguments.
    """

    async def _generate_audio(self, recipe: Mapping[str, Any]) -> torch.Tensor:
        """Return the speech, `[samples]`."""

    async def _generate_actor(self, recipe: Mapping[str, Any]) -> torch.Tensor:
        """Return the portrait, `[1, 3, H, W]`."""

    async def _generate_video(self, image: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        """Return the frames, `[T, 3, H, W]`."""

    async def _verify_semantic(
        self, video: torch.Tensor, recipe: Mapping[str, Any]
    ) -> DualClipResult:
        """Return the self-check's verdict."""


class SlotScheduler:
    """Runs audio and image in parallel, then video, then the self-check.

    Works with any pipeline that has these four coroutine methods:

    * `_generate_audio(recipe)`: the speech, Tensor `[samples]`
    * `_generate_actor(recipe)`: the portrait, Tensor `[1, 3, H, W]`
    * `_generate_video(image, audio)`: the frames, Tensor `[T, 3, H, W]`
    * `_verify_semantic(video, recipe)`: the self-check's `DualClipResult`

    A recipe is a mapping with `audio_track`, `visual_track` and optionally `slot_params` and
    `semantic_constraints`. Cancelling a method must stop its work: plain coroutines do so by
    themselves, `VortexPipeline` stops its threads. A pipeline whose class sets
    `takes_slot_context = True` gets recipes as `Recipe`, and the slot's `SlotContext` as one more
    positional argument.

    A slot steps down its ladder when the stages ahead no longer fit before its deadline, is given
    up once they do not fit on the lowest rung either, and not begun if one of them would go over
    its timeout. What they need is predicted from how long they
    took; a stage that was never measured may be tried, and counts as no time.
    """

    def __init__(
        self,
        pipeline: Any,  # a Pipeline; private methods make structural typing refuse real ones
        config: Mapping[str, Any],
        *,
        estimates: StageEstimates | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check the limits; the pipeline is not called yet.

        Args:
            pipeline: has the methods of `Pipeline`.
            config: `timeouts` (`audio_s`, `image_s`, `video_s`, `clip_s`), `retry_policy`
                (`audio`, `image`, `video`, `clip`) and `deadline_buffer_s`, all seconds or counts.
            estimates: shared with whoever else predicts slots; by default a fresh one that knows
                the timeouts.
            clock: monotonic seconds.

        Raises:
            ValueError: a required key is missing.
        """
        if missing := _missing_keys(config):
            raise ValueError(f"Config missing required keys: {missing}")
        self.pipeline = pipeline
        self.timeouts: Mapping[str, float] = config["timeouts"]
        self.retry_policy: Mapping[str, int] = config["retry_policy"]
        self.deadline_buffer_s: float = config["deadline_buffer_s"]
        limits_s = {stage: self.timeouts[f"{stage}_s"] for stage in STAGES}
        self.estimates = StageEstimates(limits_s) if estimates is None else estimates
        self._clock = clock
        self._takes_context = getattr(type(pipeline), "takes_slot_context", False) is True
        logger.info("SlotScheduler initialized", extra={"buffer_s": self.deadline_buffer_s})

    async def execute(
        self,
        recipe: Recipe | Mapping[str, Any],
        slot_id: int | None,
        deadline: float | None = None,
        *,
        slot: SlotContext | None = None,
    ) -> SlotResult:
        """Make one slot.

        Args:
            recipe: a `Recipe`, or a mapping with `audio_track`, `visual_track` and optionally
                `slot_params`, `semantic_constraints` and `seed`.
            slot_id: the slot's number; None for a warm-up.
            deadline: `time.monotonic()` seconds; None is 45 s from now, `math.inf` is none.
            slot: a context of the caller's own, to follow progress and to take frames as they are
                made. Its `stage` and `breakdown` are also right after an error.

        Returns:
            The finished slot. A failed self-check is a result, not an error: see `verification`.

        Raises:
            InvalidRecipeError: the mapping is not a recipe; a plain pipeline decides that itself.
            DeadlineMissError: the stages ahead cannot end in time, running ones were stopped; or
                one would go over its limit, and nothing was begun.
            asyncio.TimeoutError: a stage went over its limit, and so did its retries.
            Exception: a stage's own error, after its retries, unchanged.
        """
        read = self._read(recipe)
        if slot is None or not slot.admitted:
            ruled_out = self.rule_out(read, FULL if slot is None else slot.rungs[-1])
            if ruled_out is not None:
                raise DeadlineMissError(f"Deadline miss predicted before any work: {ruled_out}")
        started = self._clock()
        if deadline is None:
            deadline = started + DEFAULT_SLOT_S
        if slot is None:
            slot = SlotContext(recipe=read, slot_id=slot_id, seed=slot_seed(read, slot_id))
        run = _SlotRun(self, self._as_pipeline_reads(recipe, read), slot, deadline)
        fields = {"slot_id": slot_id}
        logger.info(
            "Starting slot generation",
            extra={
                **fields,
                "deadline_s": None if math.isinf(deadline) else round(deadline - started, 3),
                "buffer_s": self.deadline_buffer_s,
            },
        )

        async with run.phase("audio", "image", then=("video", "clip")):
            audio, image = await side_by_side(run.audio(), run.image())
        run.checkpoint("Parallel phase complete", "audio_ms", "image_ms")

        async with run.phase("video", then=("clip",)):
            video = await run.video(image, audio)
        run.checkpoint("Video generation complete", "video_ms")

        async with run.phase("clip"):
            verification = await run.clip(video)
        run.checkpoint("CLIP verification complete", "clip_ms")

        ended = self._clock()
        result = SlotResult(
            video_frames=video,
            audio_waveform=audio,
            clip_embedding=verification.embedding,
            metadata=SlotMetadata(slot_id, started, ended, deadline),
            breakdown=run.breakdown(total_ms=(ended - started) * 1000),
            deadline_met=ended <= deadline,
            verification=verification,
        )
        # With a sink, the slot is complete only once what it holds is stored.
        logger.log(
            logging.INFO if slot.sink is None else logging.DEBUG,
            "Slot generation complete",
            extra={
                **fields,
                "total_ms": round(result.breakdown.total_ms, 1),
                "deadline_met": result.deadline_met,
            },
        )
        return result

    async def speak_ahead(self, slot: SlotContext) -> SpokenAhead:
        """Speak a slot that is not begun yet: one attempt of its audio stage.

        Give the slot the task that does this as `SlotContext.ahead`, and it takes the speech from
        there. If that failed, it speaks by itself, with its retries.

        Args:
            slot: a context for the speech alone.

        Raises:
            Exception: the stage's own error, unchanged; also that it went over its limit.
        """
        recipe = self._as_pipeline_reads(slot.recipe, slot.recipe)
        waveform = await _SlotRun(self, recipe, slot, math.inf).audio_ahead()
        return SpokenAhead(waveform, slot.speech, slot.breakdown["audio_ms"])

    def rule_out(self, recipe: Recipe, rung: Rung = FULL) -> str | None:
        """Return in words why the limits rule a slot out at a rung, or None if it may be tried.

        Whoever is given a reason refuses the slot; see `StageEstimates` for what that changes.
        """
        overrun = self.estimates.rule_out(recipe, rung)
        return None if overrun is None else str(overrun)

    def _read(self, recipe: Recipe | Mapping[str, Any]) -> Recipe:
        try:
            return as_recipe(recipe)
        except InvalidRecipeError:
            if self._takes_context:
                raise
            return FOREIGN_RECIPE

    def _as_pipeline_reads(
        self, given: Recipe | Mapping[str, Any], read: Recipe
    ) -> Recipe | Mapping[str, Any]:
        if self._takes_context:
            return read
        return given.model_dump(mode="json") if isinstance(given, Recipe) else given

    def _check_deadline(
        self, current_time: float, deadline: float, remaining_work_s: float
    ) -> bool:
        """Return whether the remaining work fits before the deadline with the buffer kept back."""
        return deadline - current_time - self.deadline_buffer_s >= remaining_work_s

    async def _generate_audio_with_timeout(
        self, recipe: Recipe | Mapping[str, Any], slot: SlotContext | None = None
    ) -> torch.Tensor:
        async with _limit("audio", self.timeouts["audio_s"]):
            audio: torch.Tensor = await self.pipeline._generate_audio(recipe, *self._context(slot))
            return audio

    async def _generate_image_with_timeout(
        self, recipe: Recipe | Mapping[str, Any], slot: SlotContext | None = None
    ) -> torch.Tensor:
        async with _limit("image", self.timeouts["image_s"]):
            image: torch.Tensor = await self.pipeline._generate_actor(recipe, *self._context(slot))
            return image

    async def _generate_video_with_timeout(
        self, image: torch.Tensor, audio: torch.Tensor, slot: SlotContext | None = None
    ) -> torch.Tensor:
        async with _limit("video", self.timeouts["video_s"]):
            video: torch.Tensor = await self.pipeline._generate_video(
                image, audio, *self._context(slot)
            )
            return video

    async def _verify_with_clip(
        self,
        video: torch.Tensor,
        recipe: Recipe | Mapping[str, Any],
        slot: SlotContext | None = None,
    ) -> DualClipResult:
        async with _limit("clip", self.timeouts["clip_s"]):
            verdict: DualClipResult = await self.pipeline._verify_semantic(
                video, recipe, *self._context(slot)
            )
            return verdict

    def _context(self, slot: SlotContext | None) -> tuple[SlotContext, ...]:
        return (slot,) if self._takes_context and slot is not None else ()

    async def _with_retry(
        self, make_coroutine: Callable[[], Awaitable[T]], retries: int, stage: str = "stage"
    ) -> T:
        """Await a fresh coroutine until one succeeds, at most `1 + retries` times.

        Waits `0.5 * 2**attempt` seconds after a failed attempt. Cancellation is never retried, nor
        is an error that another attempt cannot mend, nor a timeout that it would only repeat.
        """
        for attempt in range(retries + 1):
            try:
                about: dict[str, str | int] = {"slot.stage": stage, "slot.attempt": attempt + 1}
                with _span(f"slot.{stage} attempt", about):
                    return await make_coroutine()
            except NOT_RETRIED:
                raise
            except Exception as error:
                if attempt == retries or not _is_retryable(error):
                    raise
                backoff_s = BACKOFF_S * 2**attempt
                logger.warning(
                    "Stage attempt failed",
                    extra={
                        "stage": stage,
                        "attempt": attempt + 1,
                        "error_type": type(error).__name__,
                        "backoff_s": backoff_s,
                    },
                )
            await asyncio.sleep(backoff_s)
        raise AssertionError("retries is never negative")


class _SlotRun:
    """One call of `execute`: its stages, their times and its deadline."""

    def __init__(
        self,
        scheduler: SlotScheduler,
        recipe: Recipe | Mapping[str, Any],
        slot: SlotContext,
        deadline: float,
    ) -> None:
        self._scheduler = scheduler
        self._recipe = recipe
        self._slot = slot
        self._deadline = deadline
        self._estimate = scheduler.estimates.slot(slot.recipe)

    async def audio(self) -> torch.Tensor:
        spoken = await self._spoken_ahead()
        return spoken if spoken is not None else await self._stage("audio", self._speak)

    async def audio_ahead(self) -> torch.Tensor:
        return await self._stage("audio", self._speak, ahead=True)

    def _speak(self) -> Awaitable[torch.Tensor]:
        return self._scheduler._generate_audio_with_timeout(self._recipe, self._slot)

    async def _spoken_ahead(self) -> torch.Tensor | None:
        """Return the speech that was begun ahead, when it is there; None if it must be made now."""
        slot = self._slot
        if slot.ahead is None:
            return None
        try:
            with slot.step("audio", self._scheduler._clock):
                spoken = await slot.ahead
        except NOT_RETRIED:
            raise
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            slot.ahead = None
        except Exception:  # noqa: BLE001 - whoever spoke ahead has logged it
            slot.ahead = None
        else:
            slot.speech, slot.breakdown["audio_ms"] = spoken.speech, spoken.took_ms
            return spoken.waveform
        return None

    async def image(self) -> torch.Tensor:
        attempt = self._scheduler._generate_image_with_timeout
        return await self._stage("image", lambda: attempt(self._recipe, self._slot))

    async def video(self, image: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        scheduler = self._scheduler

        def attempt() -> Awaitable[torch.Tensor]:
            self._slot.video_end_by_s = min(
                self._end_by_s(("clip",)), scheduler._clock() + scheduler.timeouts["video_s"]
            )
            return scheduler._generate_video_with_timeout(image, audio, self._slot)

        return await self._stage("video", attempt)

    async def clip(self, video: torch.Tensor) -> DualClipResult:
        attempt = self._scheduler._verify_with_clip
        return await self._stage("clip", lambda: attempt(video, self._recipe, self._slot))

    @asynccontextmanager
    async def phase(self, *stages: str, then: tuple[str, ...] = ()) -> AsyncIterator[None]:
        """Run stages inside, and stop them once those of `then` would come too late.

        The slot first steps down to the rung at which all of them fit, if it must. Stages that were
        never measured may be tried even with little time: they can be quick.

        Raises:
            DeadlineMissError: that moment came, or is known to come before the stages end.
        """
        self._settle_rung(stages, then)
        left_s = self._end_by_s(then) - self._scheduler._clock()
        try:
            async with asyncio.timeout(None if math.isinf(left_s) else left_s) as limit:
                yield
        except TimeoutError as error:
            if limit.expired():
                raise self._miss(stages, self._ahead_s(then, self._slot.rungs[-1])) from error
            raise

    def _settle_rung(self, stages: tuple[str, ...], then: tuple[str, ...]) -> None:
        """Step down to the first rung at which the stages and those after them fit.

        Raises:
            DeadlineMissError: they fit at none.
        """
        slot, scheduler, now = self._slot, self._scheduler, self._scheduler._clock()
        needed_s = {
            rung: max(self._predicted_s(stage, rung) for stage in stages)
            + self._ahead_s(then, rung)
            for rung in slot.rungs
        }
        fitting = (
            rung
            for rung, seconds in needed_s.items()
            if scheduler._check_deadline(now, self._deadline, seconds)
        )
        rung = next(fitting, None)
        if rung is None:
            raise self._miss(stages, needed_s[slot.rungs[-1]])
        if rung is not slot.rung:
            left_s = self._deadline - now - scheduler.deadline_buffer_s
            slot.step_down(
                rung,
                f"before the {' and '.join(stages)}, rung {slot.rung.name} needed"
                f" {needed_s[slot.rung]:.2f} s, and {left_s:.2f} s were left",
            )

    def _end_by_s(self, then: tuple[str, ...]) -> float:
        """Return the second by which a phase must end for those of `then` on the lowest rung."""
        ahead_s = self._ahead_s(then, self._slot.rungs[-1])
        return self._deadline - self._scheduler.deadline_buffer_s - ahead_s

    def _ahead_s(self, stages: tuple[str, ...], rung: Rung) -> float:
        return sum(self._predicted_s(stage, rung) for stage in stages)

    def breakdown(self, total_ms: float) -> GenerationBreakdown:
        times = {f"{stage}_ms": self._slot.breakdown[f"{stage}_ms"] for stage in STAGES}
        return GenerationBreakdown(**times, total_ms=total_ms)

    def checkpoint(self, message: str, *keys: str) -> None:
        times = {key: round(self._slot.breakdown[key], 1) for key in keys}
        logger.info(message, extra={"slot_id": self._slot.slot_id, **times})
        trace.get_current_span().add_event(message, times)

    async def _stage(
        self, stage: str, make_coroutine: Callable[[], Awaitable[T]], *, ahead: bool = False
    ) -> T:
        clock, estimates = self._scheduler._clock, self._scheduler.estimates
        units = work_units(self._slot.recipe, self._slot.rung)[stage]

        async def measured_attempt() -> T:
            attempt_started = clock()
            self._slot.listener.attempt_began(stage)
            try:
                result = await make_coroutine()
            except StageTimeoutError as error:
                error.retryable = estimates.overrun(stage, units) is None
                estimates.observe_stopped(stage, clock() - attempt_started, units)
                raise
            except asyncio.CancelledError:
                estimates.observe_at_least(stage, clock() - attempt_started, units)
                raise
            finally:
                self._slot.listener.attempt_ended(stage)
            seconds = clock() - attempt_started
            self._estimate.finished(stage, seconds, self._done_units(stage, units))
            return result

        about: dict[str, str | int] = {"slot.stage": stage}
        if self._slot.slot_id is not None:
            about["slot.id"] = self._slot.slot_id
        if ahead:
            about["slot.ahead"] = True
        retries = 0 if ahead else self._scheduler.retry_policy[stage]
        with self._slot.step(stage, clock), _span(f"slot.{stage}", about):
            return await self._scheduler._with_retry(measured_attempt, retries, stage)

    def _done_units(self, stage: str, planned: float) -> float:
        """Return the work of a stage that has finished; a video may have stepped down meanwhile."""
        params = self._slot.recipe.slot_params
        if stage != "video" or not self._slot.frames_computed:
            return planned
        return video_units(params, self._slot.frames_computed / params.frame_count)

    def _predicted_s(self, stage: str, rung: Rung) -> float:
        return self._estimate.predict(stage, rung) or 0.0

    def _miss(self, stages: tuple[str, ...], needed_s: float) -> DeadlineMissError:
        left_s = self._deadline - self._scheduler._clock()
        return DeadlineMissError(
            f"Deadline miss predicted in phase '{' and '.join(stages)}': {left_s:.3f} s left, of"
            f" which {self._scheduler.deadline_buffer_s:.3f} s are kept back; {needed_s:.3f} s of"
            " work are ahead"
        )


@asynccontextmanager
async def _limit(stage: str, seconds: float) -> AsyncIterator[None]:
    """Stop an attempt of a stage after its time limit."""
    try:
        async with asyncio.timeout(None if math.isinf(seconds) else seconds) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        message = (
            f"the {stage} did not end within its limit of {seconds:g} s"
            f" (orchestration.timeouts.{stage}_s)"
        )
        raise StageTimeoutError(message) from error


def _is_retryable(error: Exception) -> bool:
    return not isinstance(error, StageTimeoutError) or error.retryable


def _missing_keys(config: Mapping[str, Any]) -> list[str]:
    absent = [key for key in REQUIRED_KEYS if key not in config]
    return absent or [
        f"{key}.{part}"
        for key, parts in REQUIRED_KEYS.items()
        for part in parts
        if part not in config[key]
    ]


@contextmanager
def _span(name: str, attributes: Mapping[str, str | int]) -> Iterator[None]:
    """Open a span; an error sets its status and type, without the error's text."""
    with tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(trace.StatusCode.ERROR)
            raise
