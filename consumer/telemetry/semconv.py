"""Every attribute name that our spans carry, at one version of the semantic conventions.

Messaging spans are named `{operation} {topic}`: `receive T` (CLIENT), `process T` (CONSUMER),
`send T` (PRODUCER). Later conventions rename `messaging.system` and `messaging.kafka.*`: move
`SCHEMA_URL` and the names together, here.
"""

from __future__ import annotations

import traceback
from typing import Final

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv._incubating.attributes.messaging_attributes import (
    MessagingOperationTypeValues,
    MessagingSystemValues,
)
from opentelemetry.semconv.attributes import error_attributes as error_names
from opentelemetry.semconv.attributes import exception_attributes as exception_names
from opentelemetry.semconv.attributes import service_attributes as service
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import Span, StatusCode

from consumer.telemetry.redaction import shorten

SCHEMA_URL: Final = Schemas.V1_44_0.value
"""Names the version of the conventions; pass it to `get_tracer`."""

MAX_KEY_BYTES: Final = 256
"""A longer key of a record is not written into spans."""

SERVICE_NAME: Final = service.SERVICE_NAME
SERVICE_VERSION: Final = service.SERVICE_VERSION
ERROR_TYPE: Final = error_names.ERROR_TYPE
PARTITION_ID: Final = messaging.MESSAGING_DESTINATION_PARTITION_ID
"""The partition; a string."""
OFFSET: Final = messaging.MESSAGING_KAFKA_OFFSET
"""The offset in the partition; int."""
REQUEST_MODEL: Final = gen_ai.GEN_AI_REQUEST_MODEL
"""The model that a generating stage asks for, with its revision."""

SLOT_ID: Final = "slot.id"
"""The tick's slot number; int."""
SLOT_CHANNEL: Final = "slot.channel"
"""The tick's channel."""
SLOT_RECIPE_ID: Final = "slot.recipe_id"
"""The recipe's own identity, never its content."""
SLOT_SEED: Final = "slot.seed"
"""The seed that the slot was made with; int."""
SLOT_STAGE: Final = "slot.stage"
"""`audio`, `image`, `video` or `clip`."""
SLOT_ATTEMPT: Final = "slot.attempt"
"""Which try of the stage this is; int from 1."""
SLOT_AHEAD: Final = "slot.ahead"
"""True on what was done during the video of the slot before, before this one began."""
SLOT_OUTCOME: Final = "slot.outcome"
HANDED_OVER: Final = "handed-over"
"""Outcome of a tick at its first place, if another worker got it."""
"""The type of the published event: `slot-complete` or `deadline-missed`."""
SLOT_RUNG: Final = "slot.rung"
"""The quality rung at which the slot was made, as in the event."""
SLOT_RUNG_REASON: Final = "slot.rung_reason"
"""Why it is not the best rung, as in the event; absent if it is."""
SLOT_REASON: Final = "slot.reason"
"""Why the deadline was missed, as in the event."""
SLOT_DEADLINE_SLACK_MS: Final = "slot.deadline_slack_ms"
"""Milliseconds from the decision to the deadline; negative when late."""
DEAD_LETTER_REASON: Final = "dead_letter.reason"
"""Why a record was put aside: `unreadable` or `duplicate`."""
SLOT_ARTIFACT_BYTES: Final = "slot.artifact.bytes"
"""The size of the stored video."""

Attributes = dict[str, str | int]


def receive_attributes(
    *, topic: str, group: str, client_id: str, message_count: int, partition: int | None = None
) -> Attributes:
    """Describe one fetch of messages: the span `receive {topic}`, kind CLIENT.

    Name the partition only when all messages came from one.
    """
    return _messaging(
        MessagingOperationTypeValues.RECEIVE,
        topic,
        {
            PARTITION_ID: _text(partition),
            messaging.MESSAGING_CONSUMER_GROUP_NAME: group,
            messaging.MESSAGING_CLIENT_ID: client_id,
            messaging.MESSAGING_BATCH_MESSAGE_COUNT: message_count,
        },
    )


def process_attributes(
    *,
    topic: str,
    partition: int,
    offset: int,
    group: str,
    client_id: str,
    body_size_bytes: int,
    key: bytes | None = None,
) -> Attributes:
    """Describe the work on one tick: the span `process {topic}`, kind CONSUMER.

    A key that is not UTF-8 is left out, as the conventions ask, and so is an endless one.
    """
    return _messaging(
        MessagingOperationTypeValues.PROCESS,
        topic,
        {
            PARTITION_ID: str(partition),
            OFFSET: offset,
            messaging.MESSAGING_KAFKA_MESSAGE_KEY: _utf8(key),
            messaging.MESSAGING_CONSUMER_GROUP_NAME: group,
            messaging.MESSAGING_CLIENT_ID: client_id,
            messaging.MESSAGING_MESSAGE_BODY_SIZE: body_size_bytes,
        },
    )


def send_attributes(
    *,
    topic: str,
    client_id: str,
    body_size_bytes: int,
    key: bytes | None = None,
    partition: int | None = None,
    offset: int | None = None,
) -> Attributes:
    """Describe the sending of one message: the span `send {topic}`, kind PRODUCER.

    Partition and offset are known once the broker has acknowledged; set them on the span then.
    """
    return _messaging(
        MessagingOperationTypeValues.SEND,
        topic,
        {
            PARTITION_ID: _text(partition),
            OFFSET: offset,
            messaging.MESSAGING_KAFKA_MESSAGE_KEY: _utf8(key),
            messaging.MESSAGING_CLIENT_ID: client_id,
            messaging.MESSAGING_MESSAGE_BODY_SIZE: body_size_bytes,
        },
    )


def error_type(error: BaseException) -> str:
    """Name the class of an error for `error.type`: the same word on span, log and metric."""
    return type(error).__qualname__


def record_failure(span: Span, error: BaseException) -> None:
    """Mark `span` as failed by `error`: status, `error.type` and an `exception` event.

    The message is cut to 300 characters and the stack trace names code only, since a library's
    message may quote a script. `Span.record_exception`, which `start_as_current_span` calls unless
    told `record_exception=False, set_status_on_exception=False`, writes messages in full.
    """
    message = shorten(str(error))
    span.set_attribute(ERROR_TYPE, error_type(error))
    span.set_status(StatusCode.ERROR, message)
    span.add_event(
        "exception",
        {
            exception_names.EXCEPTION_TYPE: _qualified_name(type(error)),
            exception_names.EXCEPTION_MESSAGE: message,
            exception_names.EXCEPTION_STACKTRACE: "".join(traceback.format_tb(error.__traceback__)),
        },
    )


def _qualified_name(error: type[BaseException]) -> str:
    module = error.__module__
    return error.__qualname__ if module == "builtins" else f"{module}.{error.__qualname__}"


def _messaging(
    operation: MessagingOperationTypeValues, topic: str, details: dict[str, str | int | None]
) -> Attributes:
    common: Attributes = {
        messaging.MESSAGING_SYSTEM: MessagingSystemValues.KAFKA.value,
        messaging.MESSAGING_OPERATION_NAME: operation.value,
        messaging.MESSAGING_OPERATION_TYPE: operation.value,
        messaging.MESSAGING_DESTINATION_NAME: topic,
    }
    return common | {name: value for name, value in details.items() if value is not None}


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)


def _utf8(key: bytes | None) -> str | None:
    try:
        return None if key is None or len(key) > MAX_KEY_BYTES else key.decode("utf-8")
    except UnicodeDecodeError:
        return None
