"""The face animator's engine: one picture and the keypoints of n frames give n frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from vortex.models.footprint import held_bytes
from vortex.models.liveportrait.blocks import channels_last, fold
from vortex.models.liveportrait.checkpoints import Networks
from vortex.models.liveportrait.crop import Crop
from vortex.models.liveportrait.dims import LivePortraitDims
from vortex.models.liveportrait.motion import Motion, stitched
from vortex.models.liveportrait.warping import WarpingSource
from vortex.utils.cancellation import CancellationToken
from vortex.utils.vram import loading

_LOOKS = 2  # at a picture for its face


@dataclass(frozen=True)
class Source:
    """A prepared picture: all that does not change from frame to frame.

    Attributes:
        motion: where its face is and how it looks, float32, `n` = 1.
        warping: its feature volume and keypoints.
    """

    motion: Motion
    warping: WarpingSource

    @property
    def keypoints(self) -> torch.Tensor:
        """The face's own keypoints, float32 `[1, 21, 3]`; driving with them changes nothing."""
        return self.warping.keypoints


class LivePortrait:
    """Renders a portrait with its keypoints moved.

    Blocking; one call at a time. Warping and generator, which run for every frame, have the chosen
    precision; what runs once for a picture, and all coordinates, stay float32.
    """

    def __init__(
        self,
        networks: Networks,
        dims: LivePortraitDims,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Fold the networks' constants and move them to the device."""
        self.output_size = dims.output_size
        self._dims = dims
        self._device = device
        self._networks = networks
        for network in networks:
            fold(network)
        if device.type == "cuda":
            networks.warping.fill_channels()
        for network in (networks.warping, networks.generator):
            network.to(dtype)
            if device.type == "cuda":
                channels_last(network)
        with loading("liveportrait", device, sum(map(held_bytes, networks))):
            for network in networks:
                network.to(device)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The networks by name."""
        return vars(self._networks)

    @classmethod
    def load(cls, directory: Path, *, device: torch.device, dtype: torch.dtype) -> LivePortrait:
        """Load the published checkpoints or our own; see `checkpoints` for the layout.

        Args:
            directory: holds `base_models/` and `retargeting_models/`, itself or, as the published
                repository has it, in a folder `liveportrait/`.
            device: where to compute.
            dtype: of warping and generator.

        Raises:
            VortexInitializationError: a file or a tensor is missing, unexpected or damaged, or the
                device is full.
        """
        inner = directory / "liveportrait"
        directory = inner if inner.is_dir() else directory
        dims = LivePortraitDims.read(directory)
        return cls(Networks.load(directory, dims), dims, device=device, dtype=dtype)

    @torch.no_grad()
    def prepare(self, portrait: torch.Tensor) -> Source:
        """Do what depends on the picture alone.

        Args:
            portrait: float32 `[1, 3, S, S]` in [0, 1], one face, centred and frontal.
        """
        image = self._resized(portrait)
        motion = self._networks.motion(image)
        volume = self._networks.appearance(image)
        return Source(motion, self._networks.warping.prepare(volume, motion.placed()))

    @torch.no_grad()
    def find_face(self, portrait: torch.Tensor) -> Crop:
        """Return the part of a picture in which its face is as the weights want it.

        All of it, if the face is there already; else looks twice, the second time closer.

        Args:
            portrait: as for `prepare`, but its face may be anywhere.
        """
        crop = Crop.all_of(portrait)
        for _ in range(_LOOKS):
            seen = self._networks.motion(self._resized(crop.of(portrait)))
            before, crop = crop, crop.reframed(seen, self._dims)
            if crop == before:
                break
        return crop

    def _resized(self, portrait: torch.Tensor) -> torch.Tensor:
        if portrait.ndim != 4 or portrait.shape[:2] != (1, 3) or len({*portrait.shape[2:]}) != 1:
            raise ValueError(f"the portrait is {list(portrait.shape)}, not [1, 3, S, S]")
        image = portrait.to(self._device, torch.float32)
        size = (self._dims.image_size, self._dims.image_size)
        if image.shape[-2:] != size:
            image = functional.interpolate(image, size, mode="bilinear", antialias=True)
        return image

    @torch.no_grad()
    def drive(
        self,
        source: Source,
        *,
        expression: torch.Tensor,
        angles: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the keypoints of frames in which the face moves, stitched to its shoulders.

        Args:
            source: the prepared picture.
            expression: added to the face's own, in its canonical frame, `[n, 21, 3]`.
            angles: degrees added to the head's own pitch, yaw and roll, `[n, 3]`.

        Returns:
            float32 `[n, 21, 3]` on the model's device.
        """
        moved = source.motion.driven(
            expression=expression.to(self._device, torch.float32),
            angles=None if angles is None else angles.to(self._device, torch.float32),
        )
        return stitched(self._networks.stitching, source.keypoints, moved.placed())

    def render(
        self,
        source: Source,
        driving: torch.Tensor,
        *,
        batch_frames: int,
        token: CancellationToken,
    ) -> torch.Tensor:
        """Return all frames at once, uint8 `[n, 3, H, W]` on the CPU; see `render_batches`."""
        frames = torch.empty(
            (len(driving), 3, self.output_size, self.output_size), dtype=torch.uint8
        )
        done = 0
        for batch in self.render_batches(source, driving, batch_frames=batch_frames, token=token):
            frames[done : done + len(batch)] = batch
            done += len(batch)
        return frames

    def render_batches(
        self,
        source: Source,
        driving: torch.Tensor,
        *,
        batch_frames: int,
        chosen: Iterator[Sequence[int]] | None = None,
        finish: Callable[[torch.Tensor], torch.Tensor] | None = None,
        token: CancellationToken,
    ) -> Iterator[torch.Tensor]:
        """Yield the frames in batches, in order.

        Args:
            source: the prepared picture.
            driving: keypoints `[n, 21, 3]`, of `drive`.
            batch_frames: frames in one batch.
            chosen: the numbers of each batch's frames, asked for when it is about to be drawn; None
                draws all, `batch_frames` at a time.
            finish: makes the final frames, uint8 too, of those that were drawn, uint8
                `[b, 3, H, W]`, while they are still on the model's device.
            token: polled before each batch. On a GPU, the batch before is then still computed.

        Yields:
            uint8 on the CPU, of its own memory.

        Raises:
            StageCancelled: the token was cancelled.
        """
        driving = driving.to(self._device, torch.float32)
        outbox = _Outbox(self._device)
        for batch in _batches(len(driving), batch_frames) if chosen is None else chosen:
            token.raise_if_cancelled()
            drawn = self._draw(source, driving[list(batch)])
            yield from outbox.send(drawn if finish is None else finish(drawn))
        token.raise_if_cancelled()
        yield from outbox.flush()

    @torch.no_grad()
    def _draw(self, source: Source, driving: torch.Tensor) -> torch.Tensor:
        warped = self._networks.warping(source.warping, driving)
        drawn: torch.Tensor = self._networks.generator(warped.features)
        return drawn.mul_(255.0).round_().to(torch.uint8, memory_format=torch.contiguous_format)


def _batches(frames: int, batch_frames: int) -> Iterator[Sequence[int]]:
    for start in range(0, frames, batch_frames):
        yield range(start, min(frames, start + batch_frames))


class _Outbox:
    """Brings frames to the CPU; from a GPU, while it already draws the next batch."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._under_way: tuple[torch.Tensor, torch.cuda.Event] | None = None

    def send(self, frames: torch.Tensor) -> Iterator[torch.Tensor]:
        """Start to copy a batch; yield the one that has arrived, if any."""
        if self._stream is None:
            yield frames
            return
        self._stream.wait_stream(torch.cuda.current_stream(frames.device))
        arriving = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        with torch.cuda.stream(self._stream):
            arriving.copy_(frames, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._stream)
        frames.record_stream(self._stream)
        before, self._under_way = self._under_way, (arriving, copied)
        yield from self._arrived(before)

    def flush(self) -> Iterator[torch.Tensor]:
        """Wait for the last batch."""
        before, self._under_way = self._under_way, None
        yield from self._arrived(before)

    @staticmethod
    def _arrived(batch: tuple[torch.Tensor, torch.cuda.Event] | None) -> Iterator[torch.Tensor]:
        if batch is not None:
            frames, copied = batch
            copied.synchronize()
            yield frames
