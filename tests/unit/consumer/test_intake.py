from __future__ import annotations

import pytest
from aiokafka.structs import ConsumerRecord
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN

from consumer.dead_letter import dead_letter
from consumer.intake import UnreadableTickError, read_tick
from consumer.job import Decision, TickKey
from schemas import MAX_TICK_BYTES, SlotTick
from tests.support.jobs import record, tick_json


def test_tick_is_read() -> None:
    value = tick_json(slot_id=7)
    assert read_tick(record(value)) == SlotTick.model_validate_json(value)


def test_registry_prefix_is_skipped() -> None:
    value = tick_json()
    assert read_tick(record(b"\x00\x00\x00\x01\x02" + value)) == read_tick(record(value))


def test_tick_of_exactly_the_limit_is_read() -> None:
    value = tick_json().ljust(MAX_TICK_BYTES)
    assert read_tick(record(value)).slot_id == 1
    with pytest.raises(UnreadableTickError):
        read_tick(record(value + b" "))


def test_oversized_value_is_refused_unread() -> None:
    # It would be no tick for its content either.
    with pytest.raises(UnreadableTickError) as refused:
        read_tick(record(b"{" * (MAX_TICK_BYTES + 1)))
    assert str(refused.value) == "the value has 262145 bytes; at most 262144 are read"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "the record has no value"),
        (b"", "the value: Invalid JSON: EOF"),
        (b"not json", "the value: Invalid JSON"),
        (b"\xff\xfe\x00", "the value: Invalid JSON"),
        (b"[]", "the value: Input should be an object"),
        (b"\x00", "the value: Invalid JSON"),
        (b"\x00\x00\x00\x00\x01\x0a\x02avro", "the value: Invalid JSON"),
        (tick_json(schema_version=2), "schema_version 2 is not known; this worker reads 1"),
        (tick_json(deadline="2026-11-23T20:15:45"), "deadline: Input should have timezone info"),
        (tick_json(slot_id=-1), "slot_id: Input should be greater than or equal to 0, got -1"),
        (tick_json(recipe={}), "recipe.audio_track: Field required"),
    ],
)
def test_unreadable_record_is_refused_with_its_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(UnreadableTickError) as refused:
        read_tick(record(value))
    assert str(refused.value).startswith(reason)
    assert str(refused.value).isprintable()


OWN_HEADERS = [
    ("traceparent", b"00-1-1-01"),
    ("traceparent", b"\xff not utf-8"),
    ("empty", b""),
    ("null", None),
    ("__dlq.errors.topic", b"where it failed before"),
]


def errors(message: str) -> list[tuple[str, bytes]]:
    return [
        ("__dlq.errors.topic", b"slot.ticks"),
        ("__dlq.errors.partition", b"3"),
        ("__dlq.errors.offset", b"1842"),
        ("__dlq.errors.group", b"group-1"),
        ("__dlq.errors.message", message.encode()),
    ]


def letter(of: ConsumerRecord, reason: str) -> Decision:
    return dead_letter(
        of, reason, topic="dead", group_id="group-1", span=INVALID_SPAN, context=Context()
    )


@pytest.mark.parametrize(("key", "value"), [(b"k\xff", b"v\xff"), (None, b""), (b"", None)])
def test_dead_letter_is_the_record_as_it_came(key: bytes | None, value: bytes | None) -> None:
    decision = letter(record(value, key=key, headers=OWN_HEADERS), "no such thing: é")
    assert (decision.topic, decision.record_key, decision.value) == ("dead", key, value)
    assert decision.key == TickKey("slot.ticks", 3, 1842)
    assert list(decision.headers) == [*OWN_HEADERS, *errors("no such thing: é")]
    assert not decision.carries_trace


def test_smaller_dead_letter_says_what_and_where_the_record_is() -> None:
    decision = letter(record(b"x" * 100, headers=[("big", b"x" * 100)]), "far too long")
    assert decision.smaller is not None
    smaller = decision.smaller()
    assert (smaller.key, smaller.topic) == (decision.key, "dead")
    assert (smaller.record_key, smaller.value, smaller.smaller) == (None, None, None)
    reason = "far too long; left out here, as the record is too large for dead"
    assert list(smaller.headers) == errors(reason)
