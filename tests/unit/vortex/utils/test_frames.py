from __future__ import annotations

from itertools import accumulate

import torch
from hypothesis import given
from hypothesis import strategies as st

from vortex.utils.frames import FrameBuffer, InBetween


def test_buffer_serves_slots_of_any_size_from_the_same_memory() -> None:
    buffer = FrameBuffer()
    large = buffer.of((8, 3, 16, 16)).fill_(7)
    small = buffer.of((2, 3, 16, 8))
    assert (large.shape, small.shape) == ((8, 3, 16, 16), (2, 3, 16, 8))
    assert small.data_ptr() == large.data_ptr() == buffer.of((8, 3, 16, 16)).data_ptr()
    assert buffer.of((9, 3, 16, 16)).shape == (9, 3, 16, 16)
    assert (large == 7).all()


# Frames between those that were rendered


def shades(*levels: int) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def levels(frames: torch.Tensor) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames]


def test_consecutive_frames_are_handed_on_as_they_are() -> None:
    between, rendered = InBetween(2), shades(10, 20)
    assert between.complete([0, 1], rendered) is rendered
    assert len(between.rest()) == 0


def test_frames_between_rendered_ones_are_faded_over_across_batches() -> None:
    between = InBetween(8)
    assert levels(between.complete([0, 2], shades(0, 100))) == [0, 50, 100]
    assert levels(between.complete([5], shades(40))) == [80, 60, 40]
    assert levels(between.rest()) == [40, 40]


@given(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=30), st.integers(1, 5))
def test_video_has_every_frame_once_and_rendered_ones_in_their_place(
    strides: list[int], batch: int
) -> None:
    numbers = [0, *accumulate(strides)]
    total = numbers[-1] + 2
    between = InBetween(total)
    parts = [
        between.complete(some := numbers[at : at + batch], shades(*some))
        for at in range(0, len(numbers), batch)
    ]
    video = levels(torch.cat([*parts, between.rest()]))
    assert video == [*range(total - 1), numbers[-1]]
