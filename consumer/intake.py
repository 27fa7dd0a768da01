"""Turns a Kafka record into a tick, or a dead letter with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiokafka.structs import ConsumerRecord
from opentelemetry.context import Context
from opentelemetry.trace import Span
from pydantic import ValidationError

from consumer.job import Decision, TickKey
from schemas import MAX_TICK_BYTES, SlotTick
from schemas.describe import describe_validation_error
from vortex.config import ConfigError

if TYPE_CHECKING:
    from schemas.signing import TrustedKeys

# A schema registry's serialisers put a zero byte and a schema id of four bytes before the value.
_REGISTRY_MAGIC = b"\x00"
_REGISTRY_PREFIX_BYTES = 5


class UnreadableTickError(ValueError):
    """The record is not a readable tick; the message says which field, and what is allowed."""


def load_trusted_keys(paths: Sequence[Path]) -> TrustedKeys | None:
    """Return the keys of `intake.trusted_keys`; None, if there are none: all ticks are accepted.

    Raises:
        ConfigError: a file is no public key, or the package that reads it is missing.
    """
    if not paths:
        return None
    try:
        from schemas.signing import SigningKeyError, TrustedKeys
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"intake.trusted_keys: the package {error.name} is missing; install"
            " vortex-slots[signing]"
        ) from error
    try:
        return TrustedKeys.load(paths)
    except SigningKeyError as error:
        raise ConfigError(f"intake.trusted_keys: {error}") from error


def read_tick(record: ConsumerRecord, trusted: TrustedKeys | None = None) -> SlotTick:
    """Return the tick that a record holds, signed by one of the `trusted` keys if there are any.

    Raises:
        UnreadableTickError: the record belongs to the dead letters.
    """
    for name, _ in record.headers:
        if _escaped(name) != name:
            raise UnreadableTickError(f"the header name {_escaped(name)[:60]!r} is not UTF-8")
    value = record.value
    if value is None:
        raise UnreadableTickError("the record has no value")
    if len(value) > MAX_TICK_BYTES:
        raise UnreadableTickError(
            f"the value has {len(value)} bytes; at most {MAX_TICK_BYTES} are read"
        )
    if trusted is not None:
        try:
            trusted.check(value, record.headers)
        except ValueError as error:
            raise UnreadableTickError(str(error)) from error
    if value.startswith(_REGISTRY_MAGIC):
        value = value[_REGISTRY_PREFIX_BYTES:]
    try:
        return SlotTick.model_validate_json(value)
    except ValidationError as error:
        raise UnreadableTickError(describe_validation_error(error)) from error


def dead_letter(
    record: ConsumerRecord,
    reason: str,
    *,
    topic: str,
    group_id: str,
    span: Span,
    context: Context,
    duplicate_of: int | None = None,
) -> Decision:
    """Return the decision to put a record among the dead letters, as it came.

    Key, value and headers are untouched; what was wrong is added in headers (KIP-1191's names).
    Only a header name that is not UTF-8 cannot be written as it is; its bytes are escaped.
    A topic that takes no record of this size gets the added headers alone, which say where it is.
    A duplicate names the offset of the tick that it repeats.
    """
    described = _error_headers(record, reason, group_id, duplicate_of)
    too_large = f"{reason}; left out here, as the record is too large for {topic}"
    common: dict[str, Any] = {
        "key": TickKey(record.topic, record.partition, record.offset),
        "topic": topic,
        "span": span,
        "context": context,
        "carries_trace": False,
    }
    return Decision(
        **common,
        record_key=record.key,
        value=record.value,
        headers=[*((_escaped(name), value) for name, value in record.headers), *described],
        smaller=Decision(
            **common,
            record_key=None,
            value=None,
            headers=_error_headers(record, too_large, group_id, duplicate_of),
        ),
    )


def _escaped(name: str) -> str:
    """Return a header's name with bytes that are no UTF-8 (surrogates in it) as `\\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _error_headers(
    record: ConsumerRecord, reason: str, group_id: str, duplicate_of: int | None
) -> list[tuple[str, bytes]]:
    errors = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "group": group_id,
        "message": reason,
    }
    if duplicate_of is not None:
        errors["duplicate_of"] = duplicate_of
    return [(f"__dlq.errors.{name}", str(value).encode()) for name, value in errors.items()]
