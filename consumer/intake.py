"""From a Kafka record to a tick, or to the reason why it is none."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka.structs import ConsumerRecord
from pydantic import ValidationError

from schemas import MAX_TICK_BYTES, SlotTick
from schemas.describe import describe_validation_error

# A schema registry's serialisers put a zero byte and a schema id of four bytes before the value.
_REGISTRY_MAGIC = b"\x00"
_REGISTRY_PREFIX_BYTES = 5


class UnreadableTickError(ValueError):
    """The record is no tick that this worker can read; says which field, and what is allowed."""


def read_tick(record: ConsumerRecord) -> SlotTick:
    """Return the tick that a record holds.

    Raises:
        UnreadableTickError: the record belongs to the dead letters.
    """
    value = record.value
    if value is None:
        raise UnreadableTickError("the record has no value")
    if len(value) > MAX_TICK_BYTES:
        raise UnreadableTickError(
            f"the value has {len(value)} bytes; at most {MAX_TICK_BYTES} are read"
        )
    if value.startswith(_REGISTRY_MAGIC):
        value = value[_REGISTRY_PREFIX_BYTES:]
    try:
        return SlotTick.model_validate_json(value)
    except ValidationError as error:
        raise UnreadableTickError(describe_validation_error(error)) from error


def dead_letter_headers(
    record: ConsumerRecord, group_id: str, reason: str
) -> Sequence[tuple[str, bytes]]:
    """Return the record's own headers, untouched, and what was wrong with it (KIP-1191's names)."""
    errors = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "group": group_id,
        "message": reason,
    }
    return [
        *record.headers,
        *((f"__dlq.errors.{name}", str(value).encode()) for name, value in errors.items()),
    ]
