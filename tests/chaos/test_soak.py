"""The soak's own judgement: a leak is told apart from a process that only breathes."""

from __future__ import annotations

from random import Random

import pytest

from tests.chaos.soak import Growth, Sample, growth

TICKS = 7_000
SAMPLES = 360
MEGABYTE = 1_000_000


def samples(bytes_per_tick: float = 0.0, descriptors_per_tick: float = 0.0) -> list[Sample]:
    """Return an hour of a process of 65 MB that breathes by a megabyte, starts small, and grows."""
    random, found = Random(0), []
    for number in range(SAMPLES):
        ticks = TICKS * number / SAMPLES
        warm = min(1.0, number / (0.15 * SAMPLES))
        resident = 45 * MEGABYTE + 20 * MEGABYTE * warm + random.uniform(0, MEGABYTE)
        descriptors = 40 + random.randrange(3) + int(descriptors_per_tick * ticks)
        found.append(Sample(10.0 * number, int(resident + bytes_per_tick * ticks), descriptors))
    return found


def judged(**growing: float) -> Growth:
    return growth("worker", samples(**growing), TICKS)


def test_process_that_only_warms_up_and_breathes_is_flat() -> None:
    assert judged().flat


def test_slots_that_are_kept_are_seen() -> None:
    found = judged(bytes_per_tick=2_000)
    assert not found.flat
    assert found.bytes_per_tick == pytest.approx(2_000, rel=0.05)


def test_descriptor_that_is_left_open_once_in_a_thousand_ticks_is_seen() -> None:
    assert not judged(descriptors_per_tick=1e-3).flat
