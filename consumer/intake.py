"""Turns a Kafka record into a tick, or says why it is not one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aiokafka.structs import ConsumerRecord
from pydantic import ValidationError

from consumer.dead_letter import escaped_name
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
        if escaped_name(name) != name:
            raise UnreadableTickError(f"the header name {escaped_name(name)[:60]!r} is not UTF-8")
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
