from __future__ import annotations

import random
from typing import Any

from consumer.handover.neighbours import (
    HOP_S,
    MOST_ASKED,
    MOST_LOAD,
    STALE_S,
    Announced,
    Announcements,
    Neighbours,
)

NOW_S = 1000.0


def announced(worker_id: str, **changes: Any) -> Announced:
    usual: dict[str, Any] = {
        "free_in_s": 5.0,
        "usual_s": 10.0,
        "load": 0.9,
        "profile": "mini",
        "partitions": (1,),
        "heard_s": NOW_S,
    }
    return Announced(worker_id=worker_id, **{**usual, **changes})


def neighbours(*known: Announced) -> Neighbours:
    announcements = Announcements()
    for each in known:
        announcements.note(each)
    return Neighbours("me", "mini", announcements)


def choose(
    known: Neighbours, in_s: float = 45.0, now_s: float = NOW_S, frames: float = 1080.0
) -> str | None:
    """Return who would take a slot of 10 s and so many frames that is due in so many seconds."""
    work = {"audio": 45.0, "image": 1.0, "video": frames, "clip": 1.0}
    chosen = known.choose(10.0, 10.0, now_s + in_s, now_s, work)
    return None if chosen is None else chosen.worker_id


def test_worker_that_would_be_done_first_is_chosen() -> None:
    known = neighbours(announced("a", free_in_s=9.0), announced("b", free_in_s=2.0))
    assert choose(known) == "b"


def test_nobody_is_chosen_who_would_be_late() -> None:
    known = neighbours(announced("a", free_in_s=5.0))
    assert choose(known, in_s=15.0 + HOP_S) is None
    assert choose(known, in_s=15.1 + HOP_S) == "a"


def test_slot_goes_only_where_it_can_be_made() -> None:
    small = announced("small", free_in_s=1.0, most_work={"audio": 45.0, "video": 1080.0})
    large = announced("large", free_in_s=9.0, most_work={"audio": 45.0, "video": 2700.0})
    known = neighbours(small, large)
    assert choose(known, frames=1080.0) == "small"
    assert choose(known, frames=1081.0) == "large"
    assert choose(known, frames=2701.0) is None


def test_own_announcement_and_those_that_say_nothing_are_passed_over() -> None:
    assert choose(neighbours()) is None
    assert choose(neighbours(announced("me"))) is None
    assert choose(neighbours(announced("a", partitions=()))) is None
    assert choose(neighbours(announced("a", profile="production"))) is None
    assert choose(neighbours(announced("a", load=MOST_LOAD + 0.1))) is None
    assert choose(neighbours(announced("a", heard_s=NOW_S - STALE_S - 0.1))) is None
    assert choose(neighbours(announced("a", heard_s=NOW_S - STALE_S + 0.1))) == "a"


def test_time_passes_for_what_was_announced() -> None:
    known = neighbours(announced("a", free_in_s=5.0, heard_s=NOW_S - 2.0))
    assert choose(known, in_s=13.1 + HOP_S) == "a"


def test_slower_machine_needs_longer() -> None:
    slow = announced("slow", free_in_s=1.0, usual_s=30.0)
    assert choose(neighbours(slow, announced("a", free_in_s=5.0))) == "a"
    assert choose(neighbours(slow), in_s=31.0 + HOP_S) is None
    assert choose(neighbours(announced("new", usual_s=0.0)), in_s=15.1 + HOP_S) == "new"


def test_slots_on_their_way_count_until_they_are_announced() -> None:
    announcements = Announcements()
    known = Neighbours("me", "mini", announcements)
    announcements.note(announced("a", free_in_s=5.0))
    assert choose(known, in_s=30.0) == "a"
    assert choose(known, in_s=24.0) is None
    announcements.note(announced("a", free_in_s=14.0, heard_s=NOW_S + 1.0))
    assert choose(known, in_s=26.0, now_s=NOW_S + 1.0) == "a"


def test_of_many_workers_few_are_looked_at_and_all_have_their_turn() -> None:
    announcements = Announcements()
    for number in range(1000):
        announcements.note(announced(f"worker-{number}"))
    draw = random.Random(1)
    drawn = [announcements.some(MOST_ASKED, draw) for _ in range(300)]
    assert all(len({each.worker_id for each in some}) == MOST_ASKED for some in drawn)
    assert len({each.worker_id for some in drawn for each in some}) > 990


def test_worker_that_left_is_forgotten() -> None:
    announcements = Announcements()
    for name in "abc":
        announcements.note(announced(name))
    for name in ("a", "nobody", "c"):
        announcements.forget(name)
    assert [each.worker_id for each in announcements.some(9, random.Random(1))] == ["b"]
    announcements.note(announced("a"))
    assert len(announcements) == 2
