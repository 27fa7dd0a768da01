"""Frames `[n, 3, H, W]` of a slot: their memory, and those that were not rendered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch


class FrameBuffer:
    """Memory for the frames of one slot after the other; grows to the largest, never shrinks."""

    def __init__(self) -> None:
        """Start without memory."""
        self._memory = torch.empty(0, dtype=torch.uint8)

    def of(self, shape: tuple[int, int, int, int]) -> torch.Tensor:
        """Return frames, uint8 `[T, 3, H, W]`, to be written; what was in them is undefined.

        They share the memory of all frames that this buffer has returned before.
        """
        size = math.prod(shape)
        if size > self._memory.numel():
            self._memory = torch.empty(size, dtype=torch.uint8)
        return self._memory[:size].view(shape)


class InBetween:
    """Completes a video of which only some frames were rendered: those between are faded over."""

    def __init__(self, frame_count: int) -> None:
        """Start before the first frame.

        Args:
            frame_count: frames of the complete video.
        """
        self._frame_count = frame_count
        self._next = 0
        self._last: torch.Tensor | None = None

    def complete(self, numbers: Sequence[int], rendered: torch.Tensor) -> torch.Tensor:
        """Return the frames from where it has come to the last of those given, in order.

        Args:
            numbers: of the rendered frames in the video, ascending.
            rendered: uint8 `[len(numbers), 3, H, W]`.

        Returns:
            uint8 `[n, 3, H, W]`; the rendered frames themselves if none is missing.
        """
        consecutive = numbers[0] == self._next and numbers[-1] - numbers[0] == len(numbers) - 1
        parts = [rendered] if consecutive else list(self._faded(numbers, rendered))
        self._next, self._last = numbers[-1] + 1, rendered[-1].clone()
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def rest(self) -> torch.Tensor:
        """Return the frames after the last rendered one, which is held: `[n, 3, H, W]`, n >= 0."""
        if self._last is None:
            raise ValueError("no frame was rendered")
        missing = self._frame_count - self._next
        self._next = self._frame_count
        return self._last.expand(missing, *self._last.shape)

    def _faded(self, numbers: Sequence[int], rendered: torch.Tensor) -> Iterator[torch.Tensor]:
        before, at = self._last, self._next - 1
        for number, frame in zip(numbers, rendered, strict=True):
            gap = number - at
            if gap > 1 and before is not None:
                shares = torch.arange(1, gap, dtype=torch.float32).view(-1, 1, 1, 1) / gap
                yield torch.lerp(before.float(), frame.float(), shares).round_().to(torch.uint8)
            yield frame[None]
            before, at = frame, number
