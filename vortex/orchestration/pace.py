"""Which frames of a video are rendered, so that it ends in time: decided batch by batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from vortex.rung import Rung

# The rest may take so much longer than the last batches say before it is too late.
MARGIN = 1.1
_WINDOW = 4


class VideoPace:
    """Steps down the ladder between two batches once the rest no longer fits; never up again.

    What the rest takes is estimated from the last batches: from one being asked for to the next, so
    with all that happens to its frames meanwhile. Used from the stage's thread alone.
    """

    def __init__(
        self,
        rungs: Sequence[Rung],
        frame_count: int,
        end_by_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is rendered yet.

        Args:
            rungs: the one to begin with, and those to step down to.
            frame_count: frames of the video.
            end_by_s: second of the clock by which the last frame must be rendered.
            clock: monotonic seconds.
        """
        self._rungs = tuple(rungs)
        self._frame_count = frame_count
        self._end_by_s = end_by_s
        self._clock = clock
        self._recent: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self.rendered = 0
        """Frames that were asked for so far."""
        self.why = ""
        """Why it has stepped down, in words; empty if it has not."""

    @property
    def rung(self) -> Rung:
        """The rung in force."""
        return self._rungs[0]

    def batches(self, batch_frames: int) -> Iterator[list[int]]:
        """Yield the numbers of the frames of each batch, ascending, when it is asked for."""
        position = 0.0
        while position < self._frame_count:
            asked_s = self._clock()
            self._step_down(position, asked_s)
            stride = 1 / self.rung.work_share
            batch: list[int] = []
            while len(batch) < batch_frames and position < self._frame_count:
                batch.append(int(position))
                position += stride
            self.rendered += len(batch)
            yield batch
            self._recent.append((self._clock() - asked_s, len(batch)))

    def _step_down(self, position: float, now_s: float) -> None:
        if not self._recent or len(self._rungs) == 1:
            return
        frame_s = sum(seconds for seconds, _ in self._recent) / sum(n for _, n in self._recent)
        frames_left = self._frame_count - int(position)
        left_s = self._end_by_s - now_s
        below = [
            rung for rung in self._rungs if rung.frames(frames_left) * frame_s * MARGIN <= left_s
        ]
        to = below[0] if below else self._rungs[-1]
        if to is self.rung:
            return
        self.why = (
            f"after {int(position)} of {self._frame_count} frames, {frames_left * frame_s:.2f} s of"
            f" rendering were ahead at full quality, and {max(0.0, left_s):.2f} s were left"
        )
        self._rungs = self._rungs[self._rungs.index(to) :]
        self._recent.clear()
