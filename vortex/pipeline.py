"""The story of a slot: speech beside portrait, then the video, then the self-check."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import ValidationError

from schemas import Recipe, SlotParams
from schemas.describe import describe_validation_error
from vortex.config import VortexConfig
from vortex.errors import (
    DeviceLostError,
    InvalidRecipeError,
    MemoryPressureError,
    VortexInitializationError,
)
from vortex.models.animator import FaceAnimator
from vortex.models.clip_ensemble import DualClip, DualClipResult
from vortex.models.flux import FluxImage
from vortex.models.kokoro import SAMPLE_RATE_HZ, KokoroSpeech, Speech
from vortex.models.liveportrait import LivePortrait
from vortex.models.liveportrait_animator import LivePortraitAnimator
from vortex.models.manifest import verify_manifest
from vortex.models.mouth_warp import MouthWarp
from vortex.orchestration.models import GenerationBreakdown
from vortex.slot import SlotContext, slot_seed
from vortex.utils.audio import fit_length
from vortex.utils.cancellation import CancellationToken
from vortex.utils.device import device_of
from vortex.utils.frames import FrameBuffer
from vortex.utils.side_by_side import side_by_side
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

BYTES_PER_GB = 10**9
LIVEPORTRAIT = "liveportrait"
WARM_UP_RECIPE: Mapping[str, Any] = {
    "slot_params": {"duration_sec": 3.0, "fps": 12, "resolution": "128x128"},
    "audio_track": {"script": "Good evening, and welcome to the programme."},
    "visual_track": {"prompt": "A portrait of a news presenter."},
    "seed": 0,
}


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
    slot_id: int
    seed: int
    fps: int
    sample_rate_hz: int


class ModelRegistry:
    """The loaded models by name, each with its revision."""

    def __init__(self, models: Mapping[str, Any], revisions: Mapping[str, str]) -> None:
        """Take what is loaded."""
        self._models = dict(models)
        self.revisions = dict(revisions)

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
    """

    takes_slot_context: ClassVar[bool] = True

    def __init__(
        self,
        config_path: str | Path | None = None,
        device: str | None = None,
        *,
        config: VortexConfig | None = None,
    ) -> None:
        """Load all models; blocks for seconds.

        Args:
            config_path: a YAML file over the packaged defaults.
            device: "cpu" or "cuda:N" instead of the configured one.
            config: a configuration that is loaded already, instead of a file.

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
        directory = self.config.models.profile_directory
        revisions = verify_manifest(directory)
        self._flux = FluxImage.load(
            directory / "flux",
            device=self.device,
            dtype=torch.float32 if self.device.type == "cpu" else torch.bfloat16,
        )
        self._kokoro = KokoroSpeech(
            directory / "kokoro",
            default_voice=self.config.models.default_voice,
            device=self.device,
            threads=self.config.device.cpu_threads,
        )
        self._clip = DualClip.load(directory, device=self.device)
        self._animator = _load_animator(directory, revisions, self.device)
        self.models = ModelRegistry(
            {
                "flux": self._flux,
                "kokoro": self._kokoro,
                "clip": self._clip,
                "animator": self._animator,
            },
            revisions,
        )
        vram = self.config.vram
        self.vram = VRAMMonitor(
            int(vram.soft_limit_gb * BYTES_PER_GB),
            int(vram.hard_limit_gb * BYTES_PER_GB),
            allocated_bytes_reader(self.device),
        )
        self._frames = FrameBuffer()
        # Two stages run side by side; a third thread serves the next slot while one hangs.
        self._threads = StageThreads(
            max_threads=3, cancel_grace_s=self.config.pipeline.cancel_grace_s
        )

    async def generate_slot(self, recipe: Mapping[str, Any], slot_id: int) -> GenerationResult:
        """Make one slot, however long it takes.

        Raises:
            InvalidRecipeError: the recipe asks for what this worker cannot make.
            MemoryPressureError: the hard memory limit was crossed.
        """
        slot = SlotContext(recipe=recipe, slot_id=slot_id, seed=slot_seed(recipe, slot_id))
        started = time.monotonic()
        audio, image = await side_by_side(
            self._timed(slot, "audio", self._generate_audio(recipe, slot)),
            self._timed(slot, "image", self._generate_actor(recipe, slot)),
        )
        video = await self._timed(slot, "video", self._generate_video(image, audio, slot))
        verdict = await self._timed(slot, "clip", self._verify_semantic(video, recipe, slot))
        total_ms = (time.monotonic() - started) * 1000
        return GenerationResult(
            video_frames=video,
            audio_waveform=audio,
            clip_embedding=verdict.embedding,
            verification=verdict,
            breakdown=GenerationBreakdown(**slot.breakdown, total_ms=total_ms),
            slot_id=slot_id,
            seed=slot.seed,
            fps=_read(recipe).slot_params.fps,
            sample_rate_hz=SAMPLE_RATE_HZ,
        )

    async def warm_up(self) -> GenerationResult:
        """Make one very short slot, so that the first real one finds everything loaded."""
        return await self.generate_slot(WARM_UP_RECIPE, slot_id=0)

    def close(self) -> None:
        """Take no more work."""
        self._threads.close()

    # --- the four stages --------------------------------------------------------------------

    async def _generate_audio(
        self, recipe: Mapping[str, Any], slot: SlotContext | None = None
    ) -> torch.Tensor:
        """Return the speech, float32 `[samples]`, padded with silence to the slot's length."""
        wanted = _read(recipe)
        track, duration_s = wanted.audio_track, wanted.slot_params.duration_sec

        def work(token: CancellationToken) -> Speech:
            return self._kokoro.synthesize(
                track.script,
                voice_id=track.voice_id,
                speed=track.speed,
                emotion=track.emotion.value,
                max_duration_s=duration_s,
                token=token,
            )

        speech = await self._stage("audio", work)
        if slot is not None:
            slot.speech = speech
        return torch.from_numpy(fit_length(speech.waveform, round(duration_s * SAMPLE_RATE_HZ)))

    async def _generate_actor(
        self, recipe: Mapping[str, Any], slot: SlotContext | None = None
    ) -> torch.Tensor:
        """Return the portrait, float32 `[1, 3, S, S]` in [0, 1]."""
        track = _read(recipe).visual_track
        seed = slot_seed(recipe, 0) if slot is None else slot.seed
        settings = self.config.pipeline

        def work(token: CancellationToken) -> torch.Tensor:
            return self._flux.generate(
                track.prompt,
                negative_prompt=track.negative_prompt,
                width=settings.image_size,
                height=settings.image_size,
                steps=settings.steps,
                seed=seed,
                token=token,
            )

        portrait = await self._stage("image", work)
        if slot is not None:
            slot.steps = settings.steps
        return portrait

    async def _generate_video(
        self, image: torch.Tensor, audio: torch.Tensor, slot: SlotContext | None = None
    ) -> torch.Tensor:
        """Return the frames, uint8 `[T, 3, H, W]` on the CPU.

        For a slot with a sink they lie in a buffer of the pipeline's, and are valid until its next
        slot: a long one takes hundreds of megabytes, which are not allocated anew each time.

        Without a slot: 24 frames per second, as long as the audio, as large as the image.
        """
        if slot is None:
            duration_s = len(audio) / SAMPLE_RATE_HZ
            params = SlotParams(
                duration_sec=duration_s, resolution=f"{image.shape[-1]}x{image.shape[-2]}"
            )
            expressions = ["neutral"]
        else:
            wanted = _read(slot.recipe)
            params = wanted.slot_params
            expressions = [e.value for e in wanted.visual_track.expression_sequence]
        speech = None if slot is None else slot.speech
        if speech is None:
            speech = Speech(audio.numpy(), (), voice_id="", truncated=False)
        sink = None if slot is None else slot.sink

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
            done = 0
            for batch in self._animator.animate(
                image,
                speech,
                fps=params.fps,
                frame_count=params.frame_count,
                width=params.width,
                height=params.height,
                expressions=expressions,
                seed=0 if slot is None else slot.seed,
                batch_frames=self.config.buffers.video_batch_frames,
                token=token,
            ):
                video[done : done + len(batch)] = batch
                done += len(batch)
                if sink is not None:
                    sink.write(batch.permute(0, 2, 3, 1).contiguous().numpy())
            return video

        video = await self._stage("video", work)
        if slot is not None:
            slot.frames_computed = len(video)
        return video

    async def _verify_semantic(
        self, video: torch.Tensor, recipe: Mapping[str, Any], slot: SlotContext | None = None
    ) -> DualClipResult:
        """Return the self-check's verdict."""
        wanted = _read(recipe)
        constraints = wanted.semantic_constraints

        def work(token: CancellationToken) -> DualClipResult:
            return self._clip.verify(
                video,
                wanted.visual_track.prompt,
                banned_concepts=constraints.banned_concepts,
                required_concepts=constraints.required_concepts,
                min_clip_score=constraints.min_clip_score,
                token=token,
            )

        return await self._stage("clip", work)

    # --- around each stage ------------------------------------------------------------------

    async def _stage(self, name: str, work: Callable[[CancellationToken], T]) -> T:
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

        return await self._threads.run(guarded)

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        if self.device.type != "cuda":
            yield
            return
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call] # torch's own gap
        with torch.cuda.stream(stream):
            yield
            stream.synchronize()

    async def _timed(self, slot: SlotContext, stage: str, work: Any) -> Any:  # a stage's coroutine
        started = time.monotonic()
        made = await work
        slot.breakdown[f"{stage}_ms"] = (time.monotonic() - started) * 1000
        return made


def _load_animator(
    directory: Path, revisions: Mapping[str, str], device: torch.device
) -> FaceAnimator:
    """Return LivePortrait where the directory's manifest lists it, else the stand-in."""
    if LIVEPORTRAIT not in revisions:
        return MouthWarp()
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    model = LivePortrait.load(directory / LIVEPORTRAIT, device=device, dtype=dtype)
    return LivePortraitAnimator(model)


def _read(recipe: Mapping[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(recipe)
    except ValidationError as error:
        raise InvalidRecipeError(f"recipe: {describe_validation_error(error)}") from error
