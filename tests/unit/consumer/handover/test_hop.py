from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import pytest

from consumer.handover.hop import hand_over, read_hop
from consumer.intake import UnreadableTickError
from consumer.job import Decision, Hop, Job, TickKey
from tests.support.jobs import job, record, tick_json

AT = datetime(2026, 11, 29, 20, 15, tzinfo=UTC)


def never() -> NoReturn:
    raise AssertionError("the topic has taken it")


def handed(headers: tuple[tuple[str, bytes | None], ...] = ()) -> tuple[Job, Hop, Decision]:
    waiting = replace(job(7), record=record(tick_json(), key=b"7", headers=headers))
    hop = Hop(
        source=waiting.key,
        worker="worker-1",
        at=AT,
        why="the plan has no room for it",
        arrived=AT - timedelta(seconds=3),
        written_ms=1_764_447_300_000,
    )
    return waiting, hop, hand_over(waiting, hop, topic="slot.handover", partition=2, instead=never)


def arriving(decision: Decision) -> Hop:
    return read_hop(record(decision.value, headers=tuple(decision.headers)))


def test_receiver_reads_what_the_donor_wrote() -> None:
    _, hop, decision = handed()
    assert arriving(decision) == hop


def test_key_value_and_headers_go_as_they_came() -> None:
    came = (("ce_id", b"42"), ("odd", None), ("vortex-signature", b"\x00\xff"))
    waiting, _, decision = handed(came)
    assert waiting.record is not None
    assert (decision.record_key, decision.value) == (b"7", waiting.record.value)
    assert tuple(decision.headers[: len(came)]) == came
    assert (decision.topic, decision.partition, decision.key) == ("slot.handover", 2, waiting.key)


def test_headers_of_a_hop_that_a_producer_made_up_are_replaced() -> None:
    _, hop, decision = handed((("vortex-handover-worker", b"an attacker"),))
    assert arriving(decision) == hop


@pytest.mark.parametrize(
    ("name", "value"),
    [("offset", b"-1"), ("partition", b"one"), ("arrived", b"yesterday"), ("at", b"2026-11-29")],
)
def test_record_that_no_worker_wrote_is_refused_by_header(name: str, value: bytes) -> None:
    _, _, decision = handed()
    forged = [
        (header, value if header == f"vortex-handover-{name}" else old)
        for header, old in decision.headers
    ]
    with pytest.raises(UnreadableTickError, match=rf"vortex-handover-\*: {name}"):
        read_hop(record(decision.value, headers=forged))


def test_long_names_and_reasons_are_cut_where_they_are_written() -> None:
    waiting, hop, _ = handed()
    long = replace(hop, worker="w" * 1000, why="y" * 5000)
    decision = hand_over(waiting, long, topic="slot.handover", partition=2, instead=never)
    assert (len(arriving(decision).worker), len(arriving(decision).why)) == (200, 500)


def test_record_without_any_of_the_headers_is_refused() -> None:
    with pytest.raises(UnreadableTickError, match="not handed over by a worker"):
        read_hop(record(tick_json()))


def test_slot_belongs_to_the_place_where_its_tick_was_read_first() -> None:
    waiting, hop, _ = handed()
    received = replace(waiting, key=TickKey("slot.handover", 2, 11), hop=hop)
    assert received.source == waiting.key != received.key
    assert received.arrived_s == received.arrival.to_monotonic_s(hop.arrived)


def test_first_arrival_is_never_after_the_second_whatever_the_clocks_say() -> None:
    waiting, hop, _ = handed()
    ahead = replace(hop, arrived=waiting.arrival.wall + timedelta(seconds=5))
    assert replace(waiting, hop=ahead).arrived_s == waiting.arrival.monotonic_s
