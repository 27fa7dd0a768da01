"""The four stages of a slot: speech and portrait, the video, the self-check."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from schemas import AudioTrack, Recipe, SlotParams, VisualTrack
from vortex.config import VortexConfig, asked_of_image_model
from vortex.errors import (
    DeviceLostError,
    MemoryPressureError,
    VortexInitializationError,
)
from vortex.models.clip_ensemble import DualClipResult
from vortex.models.kokoro import SAMPLE_RATE_HZ, Speech
from vortex.models.stage_models import StageModels
from vortex.orchestration import GenerationBreakdown, SlotScheduler
from vortex.orchestration.pace import VideoPace
from vortex.orchestration.scheduler import UNLIMITED
from vortex.rung import FULL
from vortex.slot import SlotContext, as_recipe, slot_seed
from vortex.utils.audio import fit_length
from vortex.utils.cancellation import CancellationToken
from vortex.utils.device import device_of, device_title
from vortex.utils.frames import FrameBuffer, InBetween
from vortex.utils.heap import keep_freed_memory
from vortex.utils.threads import StageThreads
from vortex.utils.vram import MemoryPressureWarning, VRAMMonitor, allocated_bytes_reader

__all__ = [
    "GenerationResult",
    "MemoryPressureError",
    "MemoryPressureWarning",
    "ModelRegistry",
    "VRAMMonitor",
    "VortexInitializationError",
    "VortexPipeline",
]

T = TypeVar("T")

logger = logging.getLogger(__name__)

BYTES_PER_GB = 10**9
WARM_UP_RECIPE = Recipe(
    slot_params=SlotParams(duration_sec=3.0, fps=12, resolution="128x128"),
    audio_track=AudioTrack(script="Good evening, and welcome to the programme."),
    visual_track=VisualTrack(prompt="A portrait of a news presenter."),
    seed=0,
)
_COLD_RECIPE = Recipe(
    slot_params=SlotParams(duration_sec=1.0, fps=12, resolution="128x128"),
    audio_track=AudioTrack(script="Good evening."),
    visual_track=WARM_UP_RECIPE.visual_track,
    seed=0,
)


@dataclass(frozen=True)
class GenerationResult:
    """A slot that was made without a deadline."""

    video_frames: torch.Tensor
    """uint8 `[T, 3, H, W]` on the CPU."""
    audio_waveform: torch.Tensor
    """float32 `[samples]` in [-1, 1], as long as the video."""
    clip_embedding: torch.Tensor
    """float32 `[512]`, unit length."""
    verification: DualClipResult
    breakdown: GenerationBreakdown
    slot_id: int | None
    seed: int
    fps: int
    sample_rate_hz: int


class ModelRegistry:
    """The loaded models by name, each with its revision."""

    def __init__(self, models: Mapping[str, Any], revisions: Mapping[str, str]) -> None:
        """Hold loaded models and their revisions, both by name."""
        self._models = dict(models)
        self.revisions = dict(revisions)

    def __contains__(self, name: str) -> bool:
        """Return whether there is a model of this name."""
        return name in self._models

    def get_model(self, name: str) -> Any:  # the models have no common interface
        """Return a model.

        Raises:
            KeyError: there is none of this name; the message lists those that there are.
        """
        try:
            return self._models[name]
        except KeyError:
            known = ", ".join(sorted(self._models))
            raise KeyError(f"there is no model '{name}'; known are {known}") from None


class VortexPipeline:
    """Loads a profile's models once, and makes slots with them, one at a time.

    Each stage runs in a thread of its own (on a GPU: on a stream of its own), so the event loop
    stays free and audio and image really overlap. Cancelling a stage's coroutine stops its work.

    The next slot may be spoken, and its prompt encoded, during this one. Each stage's model is used
    by one slot at a time: the other waits.
    """

    takes_slot_context: ClassVar[bool] = True

    def __init__(
        self,
        config_path: str | Path | None = None,
        device: str | None = None,
        *,
        config: VortexConfig | None = None,
        models: StageModels | None = None,
    ) -> None:
        """Load all models and log what memory they hold; blocks for seconds.

        Args:
            config_path: a YAML file over the packaged defaults.
            device: "cpu" or "cuda:N" instead of the configured one.
            config: a configuration that is loaded already, instead of a file.
            models: what is loaded already, instead of the configured profile.

        Raises:
            ConfigError: the file is wrong.
            VortexInitializationError: a model or the device is missing; one line that says what
                to do.
        """
        path = None if config_path is None else Path(config_path)
        self.config = config or VortexConfig.load(path)
        self.device = device_of(device or self.config.device.name)
        if self.config.device.cpu_threads is not None:
            torch.set_num_threads(self.config.device.cpu_threads)
        if self.device.type == "cpu":
            keep_freed_memory()
        self._models = models or StageModels.load(self.config, self.device)
        self.models = ModelRegistry(self._models.by_name(), self._models.revisions)
        vram = self.config.vram
        self.vram = VRAMMonitor(
            int(vram.soft_limit_gb * BYTES_PER_GB),
            int(vram.hard_limit_gb * BYTES_PER_GB),
            allocated_bytes_reader(self.device),
        )
        held_bytes = self._models.held_bytes()
        logger.info(
            "Models loaded", extra={"bytes": held_bytes, "total_bytes": sum(held_bytes.values())}
        )
        try:
            self.vram.check("the models alone")
        except MemoryPressureError as error:
            raise VortexInitializationError(
                f"{error}; set vram.hard_limit_gb higher, or models.flux_quantization and"
                " models.clip_quantization to fewer bits"
            ) from error
        self._frames = FrameBuffer()
        # Two stages run side by side, of one slot or of two; a third thread serves the next slot
        # while one hangs.
        self._threads = StageThreads(
            max_threads=3, cancel_grace_s=self.config.pipeline.cancel_grace_s
        )
        self._in_use: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def generate_slot(
        self, recipe: Recipe | Mapping[str, Any], slot_id: int | None
    ) -> GenerationResult:
        """Make one slot, however long it takes: the scheduler's way without limits or deadline.

        A warm-up has no slot id.

        Raises:
            InvalidRecipeError: the recipe asks for what this worker cannot make.
            MemoryPressureError: the hard memory limit was crossed.
        """
        recipe = as_recipe(recipe)
        slot = SlotContext(recipe=recipe, slot_id=slot_id, seed=slot_seed(recipe, slot_id))
        made = await SlotScheduler(self, UNLIMITED).execute(recipe, slot_id, math.inf, slot=slot)
        return GenerationResult(
            video_frames=made.video_frames,
            audio_waveform=made.audio_waveform,
            clip_embedding=made.clip_embedding,
            verification=made.verdict,
            breakdown=made.breakdown,
            slot_id=slot_id,
            seed=slot.seed,
            fps=recipe.slot_params.fps,
            sample_rate_hz=SAMPLE_RATE_HZ,
        )

    async def warm_up(self) -> GenerationResult:
        """Make a slot of one second, so that the first real one finds everything loaded.

        Logs the most memory that tensors on the GPU held at once.
        """
        if self.device.type != "cuda":
            return await self.generate_slot(_COLD_RECIPE, slot_id=None)
        torch.cuda.reset_peak_memory_stats(self.device)
        made = await self.generate_slot(_COLD_RECIPE, slot_id=None)
        logger.info(
            "Warmed up",
            extra={
                "peak_bytes": torch.cuda.max_memory_allocated(self.device),
                "limit_bytes": int(self.config.vram.hard_limit_gb * BYTES_PER_GB),
            },
        )
        return made

    async def encode_prompt(self, recipe: Recipe, seed: int) -> None:
        """Encode a slot's prompt, so that its image stage finds it encoded."""
        prompt = asked_of_image_model(
            self.config.pipeline.portrait_prompt, recipe.visual_track.prompt
        )
        await self._stage("image", None, lambda _: self._models.flux.encode(prompt, seed))

    @property
    def device_title(self) -> str:
        """What sort of device it runs on, such as "NVIDIA H100" or "cpu"."""
        return device_title(self.device)

    def close(self) -> None:
        """Accept no more work; does not wait for a stage that hangs."""
        self._threads.close()

    # --- the four stages --------------------------------------------------------------------

    async def _generate_audio(
        self, recipe: Recipe | Mapping[str, Any], slot: SlotContext | None = None
    ) -> torch.Tensor:
        """Return the speech, float32 `[samples]`, padded with silence to the slot's length."""
        wanted = as_recipe(recipe)
        track, duration_s = wanted.audio_track, wanted.slot_params.duration_sec

        def work(token: CancellationToken) -> Speech:
            return self._models.kokoro.synthesize(
                track.script,
                voice_id=track.voice_id,
                speed=track.speed,
                emotion=track.emotion.value,
                max_duration_s=duration_s,
                token=token,
            )

        speech = await self._stage("audio", slot, work)
        if slot is not None:
            slot.speech = speech
        return torch.from_numpy(fit_length(speech.waveform, round(duration_s * SAMPLE_RATE_HZ)))

    async def _generate_actor(
        self, recipe: Recipe | Mapping[str, Any], slot: SlotContext | None = None
    ) -> torch.Tensor:
        """Return the portrait, float32 `[1, 3, S, S]` in [0, 1]."""
        wanted = as_recipe(recipe)
        track = wanted.visual_track
        seed = slot_seed(wanted, 0) if slot is None else slot.seed
        settings = self.config.pipeline
        steps = settings.steps if slot is None else slot.rung.steps(settings.steps)

        def work(token: CancellationToken) -> torch.Tensor:
            return self._models.flux.generate(
                asked_of_image_model(settings.portrait_prompt, track.prompt),
                negative_prompt=track.negative_prompt,
                width=settings.image_size,
                height=settings.image_size,
                steps=steps,
                seed=seed,
                token=token,
            )

        portrait = await self._stage("image", slot, work)
        if slot is not None:
            slot.steps = steps
        return portrait

    async def _generate_video(
        self, image: torch.Tensor, audio: torch.Tensor, slot: SlotContext | None = None
    ) -> torch.Tensor:
        """Return the frames, uint8 `[T, 3, H, W]` on the CPU.

        For a slot with a sink they lie in a buffer of the pipeline's, and are valid until its next
        slot: a long one takes hundreds of megabytes, which are not allocated for each slot.

        Without a slot: 24 frames per second, as long as the audio, as large as the image.
        """
        if slot is None:
            duration_s = len(audio) / SAMPLE_RATE_HZ
            params = SlotParams(
                duration_sec=duration_s, resolution=f"{image.shape[-1]}x{image.shape[-2]}"
            )
            expressions = ["neutral"]
        else:
            params = slot.recipe.slot_params
            expressions = [e.value for e in slot.recipe.visual_track.expression_sequence]
        speech = None if slot is None else slot.speech
        if speech is None:
            speech = Speech(audio.numpy(), (), voice_id="", truncated=False)
        sink = None if slot is None else slot.sink
        rungs, end_by_s = ((FULL,), math.inf) if slot is None else (slot.rungs, slot.video_end_by_s)
        pace = VideoPace(rungs, params.frame_count, end_by_s)
        batch_frames = self.config.buffers.video_batch_frames

        def work(token: CancellationToken) -> torch.Tensor:
            shape = (params.frame_count, 3, params.height, params.width)
            # With a sink, nobody keeps the frames for longer than the slot.
            video = (
                torch.empty(shape, dtype=torch.uint8) if sink is None else self._frames.of(shape)
            )
            if sink is not None:
                sink.begin(
                    waveform=audio.numpy(),
                    sample_rate_hz=SAMPLE_RATE_HZ,
                    fps=params.fps,
                    width=params.width,
                    height=params.height,
                )
            between = InBetween(params.frame_count)
            under_way: deque[list[int]] = deque()  # from a GPU, frames arrive a batch later
            done = 0

            def put(frames: torch.Tensor) -> None:
                nonlocal done
                video[done : done + len(frames)] = frames
                done += len(frames)
                if sink is not None and len(frames):
                    sink.write(frames.permute(0, 2, 3, 1).contiguous().numpy())

            for batch in self._models.animator.animate(
                image,
                speech,
                fps=params.fps,
                frame_count=params.frame_count,
                width=params.width,
                height=params.height,
                expressions=expressions,
                seed=0 if slot is None else slot.seed,
                batch_frames=batch_frames,
                chosen=_noted(pace.batches(batch_frames), under_way),
                token=token,
            ):
                put(between.complete(under_way.popleft(), batch))
            put(between.rest())
            return video

        video = await self._stage("video", slot, work)
        if slot is not None:
            slot.frames_computed = pace.rendered
            if pace.why:
                slot.step_down(pace.rung, pace.why)
        return video

    async def _verify_semantic(
        self,
        video: torch.Tensor,
        recipe: Recipe | Mapping[str, Any],
        slot: SlotContext | None = None,
    ) -> DualClipResult:
        """Return the self-check's verdict."""
        wanted = as_recipe(recipe)
        constraints = wanted.semantic_constraints

        def work(token: CancellationToken) -> DualClipResult:
            return self._models.clip.verify(
                video,
                wanted.visual_track.prompt,
                banned_concepts=constraints.banned_concepts,
                required_concepts=constraints.required_concepts,
                min_clip_score=constraints.min_clip_score,
                keyframes=FULL.keyframes if slot is None else slot.rung.keyframes,
                token=token,
            )

        return await self._stage("clip", slot, work)

    # --- around each stage ------------------------------------------------------------------

    async def _stage(
        self, name: str, slot: SlotContext | None, work: Callable[[CancellationToken], T]
    ) -> T:
        def guarded(token: CancellationToken) -> T:
            with (
                self.vram.watching(name, token),
                torch.inference_mode(),
                self._own_stream(),
            ):
                try:
                    return work(token)
                except torch.OutOfMemoryError as error:
                    torch.cuda.empty_cache()
                    raise MemoryPressureError(f"out of memory in stage {name}: {error}") from error
                except torch.AcceleratorError as error:
                    raise DeviceLostError(f"GPU error in stage {name}: {error}") from error

        async with self._in_use[name]:
            return await self._threads.run(guarded, None if slot is None else slot.listener.beat)

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        if self.device.type != "cuda":
            yield
            return
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call] # torch's own gap
        with torch.cuda.stream(stream):
            yield
            stream.synchronize()


def _noted(batches: Iterator[list[int]], under_way: deque[list[int]]) -> Iterator[list[int]]:
    """Pass batches on as they are asked for, and note those whose frames have not arrived yet."""
    for batch in batches:
        under_way.append(batch)
        yield batch
