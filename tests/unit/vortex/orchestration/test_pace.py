"""Which frames are rendered when time runs short, on a clock that passes with every frame."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from vortex.orchestration.pace import VideoPace
from vortex.rung import FULL, LADDER, Rung

_, HALF, THIRD = LADDER


class Rendering:
    """Renders batch after batch; a frame takes as long as told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.frames: list[int] = []

    def run(self, pace: VideoPace, *frame_s: float, batch_frames: int = 4) -> None:
        """Render all batches; the last time given is that of all further batches too."""
        for number, batch in enumerate(pace.batches(batch_frames)):
            self.frames += batch
            self.now_s += frame_s[min(number, len(frame_s) - 1)] * len(batch)


def rendered(
    rungs: tuple[Rung, ...], end_by_s: float, *frame_s: float
) -> tuple[Rendering, VideoPace]:
    rendering = Rendering()
    pace = VideoPace(rungs, 48, end_by_s, clock=lambda: rendering.now_s)
    rendering.run(pace, *frame_s)
    return rendering, pace


def test_every_frame_is_rendered_while_there_is_time() -> None:
    rendering, pace = rendered(LADDER, 48 * 0.1 * 1.2, 0.1)
    assert rendering.frames == list(range(48))
    assert (pace.rung, pace.why, pace.rendered) == (FULL, "", 48)


@pytest.mark.parametrize(("rung", "stride"), [(HALF, 2), (THIRD, 3)])
def test_lower_rung_renders_every_nth_frame_from_the_first(rung: Rung, stride: int) -> None:
    rendering, pace = rendered((rung,), math.inf, 0.1)
    assert rendering.frames == list(range(0, 48, stride))
    assert pace.rendered == rung.frames(48)


def test_video_that_becomes_slow_in_the_middle_ends_in_time_on_a_lower_rung() -> None:
    """All frames would take 0.4 + 44 * 0.2 = 9.2 s."""
    rendering, pace = rendered(LADDER, 7.0, 0.1, 0.2)
    assert pace.rung is HALF
    assert rendering.now_s <= 7.0
    steps = [after - before for before, after in pairwise(rendering.frames)]
    assert steps == sorted(steps), "it never goes up again"
    assert set(steps) == {1, 2}
    assert "of 48 frames" in pace.why


def test_steps_over_a_rung_that_does_not_fit_either() -> None:
    """After a batch of 4, 44 frames of 0.1 s are ahead; 22 do not fit into 2 s, 15 do."""
    rendering, pace = rendered(LADDER, 0.4 + 2.0, 0.1)
    assert pace.rung is THIRD
    assert rendering.frames[:6] == [0, 1, 2, 3, 4, 7]
    assert rendering.now_s <= 2.4


def test_steps_no_further_down_than_it_must() -> None:
    _, pace = rendered(LADDER, 0.4 + 2.8, 0.1)
    assert pace.rung is HALF


def test_forbidden_rungs_are_not_used_however_late_it_is() -> None:
    rendering, pace = rendered((FULL,), 1.0, 0.1)
    assert rendering.frames == list(range(48))
    assert (pace.rung, pace.why) == (FULL, "")
