"""What becomes of a record that is not made: itself, unchanged, with headers that say why."""

from __future__ import annotations

from typing import Any

from aiokafka.structs import ConsumerRecord
from opentelemetry.context import Context
from opentelemetry.trace import Span

from consumer.job import DeadLetterReason, Decision, TickKey


def dead_letter(
    record: ConsumerRecord,
    reason: str,
    *,
    topic: str,
    group_id: str,
    span: Span,
    context: Context,
    duplicate_of: int | None = None,
    source: TickKey | None = None,
) -> Decision:
    """Return the decision to put a record among the dead letters, as it came.

    Key, value and headers are untouched; what was wrong is added in headers (KIP-1191's names).
    Only a header name that is not UTF-8 cannot be written as it is; its bytes are escaped.
    A topic that takes no record of this size gets the added headers alone, which say where it is.
    A duplicate names the offset of the tick that it repeats. `source` is where the tick was read
    first, if that was not here.
    """
    key = TickKey(record.topic, record.partition, record.offset)
    source = source or key
    described = _error_headers(source, reason, group_id, duplicate_of)
    too_large = f"{reason}; left out here, as the record is too large for {topic}"
    common: dict[str, Any] = {
        "key": key,
        "topic": topic,
        "span": span,
        "context": context,
        "carries_trace": False,
        "outcome": DeadLetterReason.UNREADABLE
        if duplicate_of is None
        else DeadLetterReason.DUPLICATE,
    }
    return Decision(
        **common,
        record_key=record.key,
        value=record.value,
        headers=[*((escaped_name(name), value) for name, value in record.headers), *described],
        smaller=lambda: Decision(
            **common,
            record_key=None,
            value=None,
            headers=_error_headers(source, too_large, group_id, duplicate_of),
        ),
    )


def escaped_name(name: str) -> str:
    """Return a header's name with bytes that are no UTF-8 (surrogates in it) as `\\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _error_headers(
    source: TickKey, reason: str, group_id: str, duplicate_of: int | None
) -> list[tuple[str, bytes]]:
    errors: dict[str, object] = {
        **source._asdict(),
        "group": group_id,
        "message": reason,
    }
    if duplicate_of is not None:
        errors["duplicate_of"] = duplicate_of
    return [(f"__dlq.errors.{name}", str(value).encode()) for name, value in errors.items()]
