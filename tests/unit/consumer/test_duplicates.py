from __future__ import annotations

from consumer.duplicates import RecentTicks
from tests.support.jobs import record, tick


def test_only_earlier_ticks_of_the_slot_within_the_window_count() -> None:
    recent = RecentTicks(10.0)
    recent.note(tick(1), 5, 1_000)
    assert recent.first_of(tick(1), 6, 11_000) == 5
    assert recent.first_of(tick(1), 6, 11_001) is None
    assert recent.first_of(tick(1), 5, 1_000) is None
    assert recent.first_of(tick(1), 4, 1_000) is None
    assert recent.first_of(tick(2), 6, 1_000) is None


def test_first_of_several_is_named() -> None:
    recent = RecentTicks(10.0)
    for offset in (7, 5, 6, 5):
        recent.note(tick(1), offset, 1_000)
    assert recent.first_of(tick(1), 8, 2_000) == 5


def test_no_more_ticks_are_remembered_than_stated() -> None:
    recent = RecentTicks(10.0, max_ticks=3)
    for offset in range(1000):
        recent.note(tick(offset % 7), offset, 0)
    assert len(recent._order) == 3
    assert sum(map(len, recent._seen.values())) == 3
    assert recent.first_of(tick(996 % 7), 1000, 0) is None
    assert recent.first_of(tick(997 % 7), 1000, 0) == 997


def test_what_cannot_be_read_is_not_remembered() -> None:
    recent = RecentTicks(10.0)
    recent.note_record(record(b"not a tick"))
    assert not recent._order
