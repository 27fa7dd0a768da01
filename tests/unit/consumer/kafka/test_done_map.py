from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.kafka.done_map import DoneMapError, decode_done, encode_done
from tests.support.scaling import growth

BROKER_LIMIT_BYTES = 4096  # the broker's default of offset.metadata.max.bytes
LINEAR = 20.0  # ten times the work, and as much again for a busy machine
MAX_WINDOW = 16_384  # the largest that the configuration allows

committed_offsets = st.integers(min_value=0, max_value=2**62)
distances = st.sets(st.integers(min_value=1, max_value=MAX_WINDOW), max_size=100)


@given(committed_offsets, distances)
def test_what_is_finished_comes_back(committed: int, above: set[int]) -> None:
    done = {committed + distance for distance in above}
    assert decode_done(committed, encode_done(committed, done)) == done


@pytest.mark.parametrize("offset", [6, 7])
def test_offset_that_is_not_above_the_committed_one_is_an_error(offset: int) -> None:
    with pytest.raises(ValueError, match=f"finished offset {offset} is not above"):
        encode_done(7, {offset, 9})


def test_nothing_finished_needs_no_metadata() -> None:
    assert encode_done(7, []) == ""
    assert decode_done(7, "") == set()


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_full_window_fits_into_the_metadata_of_an_offset(density: float) -> None:
    chosen = random.Random(1)
    done = {5 + d for d in range(1, MAX_WINDOW + 1) if chosen.random() < density}
    done.add(5 + MAX_WINDOW)
    assert len(encode_done(5, done).encode()) < BROKER_LIMIT_BYTES
    assert decode_done(5, encode_done(5, done)) == done


def test_cost_grows_with_the_number_of_offsets() -> None:
    # Far beyond the window, where what is quadratic shows.
    assert growth(lambda offsets: encode_done(0, range(1, offsets)), 30_000) < LINEAR
    texts = {offsets: encode_done(0, range(1, offsets)) for offsets in (30_000, 300_000)}
    assert growth(lambda offsets: decode_done(0, texts[offsets]), 30_000) < LINEAR


def test_text_is_what_other_workers_wrote() -> None:
    # Workers of different builds read each other's metadata: the text of a version never changes.
    assert encode_done(100, {101, 103, 116}) == "vortex-done-1:BYA="
    assert decode_done(100, "vortex-done-1:BYA=") == {101, 103, 116}


@pytest.mark.parametrize("metadata", ["moved by hand", "{}", "vortex", "é"])
def test_metadata_of_others_says_nothing(metadata: str) -> None:
    assert decode_done(0, metadata) == set()


@pytest.mark.parametrize("metadata", ["vortex-done-2:BYA=", "vortex-done-", "vortex-done-10:"])
def test_unknown_version_is_an_error(metadata: str) -> None:
    with pytest.raises(DoneMapError, match="another version"):
        decode_done(0, metadata)


@pytest.mark.parametrize("bitmap", ["BYA", "B A=", "*", "B\nYA=", "BYA=BYA=", "é"])
def test_damaged_bitmap_is_an_error(bitmap: str) -> None:
    with pytest.raises(DoneMapError):
        decode_done(0, f"vortex-done-1:{bitmap}")


@given(st.text())
def test_any_text_is_a_map_or_an_error_of_one_short_line(rest: str) -> None:
    said = ""
    try:
        decode_done(0, f"vortex-done-1:{rest}")
    except DoneMapError as error:
        said = str(error)
    assert not said or said.isprintable()
    assert len(said) < 250
