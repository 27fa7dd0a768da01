"""Ticks, records and jobs for the tests of the worker."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka.structs import ConsumerRecord
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, set_span_in_context

from consumer.job import Arrival, Job, TickKey
from schemas import AudioTrack, Recipe, SlotTick, VisualTrack

TOPIC = "slot.ticks"


def tick(
    slot_id: int = 1,
    *,
    deadline: datetime | None = None,
    seed: int | None = None,
    recipe: Recipe | None = None,
) -> SlotTick:
    """Return a tick with a deadline in 45 seconds and a recipe with the seed, if not given."""
    return SlotTick(
        slot_id=slot_id,
        deadline=deadline or datetime.now(UTC) + timedelta(seconds=45),
        recipe=recipe
        or Recipe(
            audio_track=AudioTrack(script="Good evening."),
            visual_track=VisualTrack(prompt="A news presenter"),
            seed=seed,
        ),
    )


def job(
    slot_id: int,
    *,
    deadline_in_s: float = 45.0,
    arrived_s: float | None = None,
    offset: int | None = None,
    partition: int = 0,
    span: Span = INVALID_SPAN,
    recipe: Recipe | None = None,
) -> Job:
    """Return the job of a tick that arrived just now, or at a monotonic second.

    Its offset is its slot id, if no other is given; a span that records is its trace.
    """
    arrival = Arrival(datetime.now(UTC), time.monotonic() if arrived_s is None else arrived_s)
    deadline = arrival.wall + timedelta(seconds=deadline_in_s)
    key = TickKey(TOPIC, partition, slot_id if offset is None else offset)
    context = set_span_in_context(span, Context())
    return Job.of(key, tick(slot_id, deadline=deadline, recipe=recipe), arrival, span, context)


def tick_json(**changes: Any) -> bytes:
    """Return the JSON value of a tick, some of its fields changed."""
    return json.dumps({**tick().model_dump(mode="json"), **changes}).encode()


def record(
    value: bytes | None,
    *,
    key: bytes | None = b"1",
    headers: Sequence[tuple[str, bytes | None]] = (),
) -> ConsumerRecord:
    """Return a record as aiokafka hands it out."""
    return ConsumerRecord(
        topic=TOPIC,
        partition=3,
        offset=1842,
        timestamp=0,
        timestamp_type=0,
        key=key,
        value=value,
        checksum=None,
        serialized_key_size=len(key or b""),
        serialized_value_size=len(value or b""),
        headers=tuple(headers),
    )
