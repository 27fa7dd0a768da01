"""A tick on its way from the worker that read it to another one: the headers that it travels with.

Key, value and headers go as they came. The trace context is the sender's own, of the same trace.
"""

from __future__ import annotations

from collections.abc import Callable

from aiokafka.structs import ConsumerRecord
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from consumer.intake import UnreadableTickError
from consumer.job import Decision, Hop, Job, TickKey
from schemas.describe import describe_validation_error

PREFIX = "vortex-handover-"
MAX_WHY_CHARS = 500
MAX_NAME_CHARS = 200


class _Headers(BaseModel):
    """The headers of a hop, by their names without the prefix."""

    model_config = ConfigDict(frozen=True)

    topic: str = Field(min_length=1, max_length=249)
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)
    arrived: AwareDatetime
    worker: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    at: AwareDatetime
    why: str = Field(max_length=MAX_WHY_CHARS)
    written: int | None = None


def hand_over(
    job: Job, hop: Hop, *, topic: str, partition: int, instead: Callable[[], Decision]
) -> Decision:
    """Return the decision to hand a slot over: what becomes of its tick here.

    Args:
        job: the slot, with its record.
        hop: who hands it over, and why.
        topic: of handovers.
        partition: in it; one that is gone by then gives way to any other.
        instead: makes what is published if the topic takes no record of this size.
    """
    if job.record is None:
        raise ValueError(f"record: the job of {job.key} has none to hand over")
    headers = _Headers(
        **hop.source._asdict(),
        arrived=hop.arrived,
        written=hop.written_ms,
        worker=hop.worker[:MAX_NAME_CHARS],
        at=hop.at,
        why=hop.why[:MAX_WHY_CHARS],
    )
    return Decision(
        key=job.key,
        topic=topic,
        partition=partition,
        record_key=job.record.key,
        value=job.record.value,
        headers=[
            *((name, value) for name, value in job.record.headers if not name.startswith(PREFIX)),
            *(
                (f"{PREFIX}{name}", str(value).encode())
                for name, value in headers.model_dump(mode="json", exclude_none=True).items()
            ),
        ],
        span=job.span,
        context=job.context,
        smaller=instead,
        outcome=hop,
    )


def read_hop(record: ConsumerRecord) -> Hop:
    """Return how a record of the topic of handovers came there.

    Raises:
        UnreadableTickError: no worker has written it.
    """
    found = {
        name.removeprefix(PREFIX): value.decode("utf-8", "replace")
        for name, value in record.headers
        if name.startswith(PREFIX) and value is not None
    }
    try:
        headers = _Headers.model_validate(found)
    except ValidationError as error:
        raise UnreadableTickError(
            f"not handed over by a worker: headers {PREFIX}*: {describe_validation_error(error)}"
        ) from error
    return Hop(
        source=TickKey(headers.topic, headers.partition, headers.offset),
        worker=headers.worker,
        at=headers.at,
        why=headers.why,
        arrived=headers.arrived,
        written_ms=headers.written,
    )
