"""Slots that a group served once, out of Kafka: the ticks, and what their outcomes say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from consumer.config import KafkaConfig
from consumer.kafka.access import SIZER, ask_for_access, require_topics
from consumer.kafka.clients import connecting
from consumer.kafka.stored import ANSWER_TIMEOUT_S, read_stored, stored_reader
from consumer.simulation.recorded import Recorded, Tick
from schemas import SlotComplete, SlotTick, parse_outcome

CLIENT_ID = "vortex-size"
MOST_TICKS = 20_000
"""So many of the latest ticks are taken, equally many of each partition."""


async def read_recorded_topic(config: KafkaConfig, topic: str) -> Recorded:
    """Return the ticks of a topic, which arrive when they were written.

    How long a slot takes is what its `slot-complete` in the topic of results says.

    Raises:
        KafkaUnreachableError: no broker answers, a topic is not there, or may not be read.
        UnreadableRecordingError: none of the ticks has a `slot-complete`.
    """
    topics = config.topics.model_copy(update={"ticks": topic})
    config = config.model_copy(update={"topics": topics})
    # Before a reader starts: it would wait for topics that it may not see.
    require_topics(config, await ask_for_access(config, SIZER, client_id=CLIENT_ID))
    worked_s = {
        (event.source.partition, event.source.offset): seconds
        async for record in _latest(config, config.topics.results, MOST_TICKS)
        if (event := _complete(record)) is not None
        and event.source.topic == topic
        and (seconds := _seconds(event)) > 0
    }
    ticks = [
        Tick(
            arrived_s=record.timestamp / 1e3,
            deadline_s=tick.deadline.timestamp(),
            worked_s=worked_s.get((record.partition, record.offset)),
            partition=record.partition,
        )
        async for record in _latest(config, topic, MOST_TICKS, in_all=True)
        if (tick := _tick(record)) is not None
    ]
    return Recorded.of(ticks, topic, f"the topic of results is {config.topics.results}")


async def _latest(
    config: KafkaConfig, topic: str, most: int, *, in_all: bool = False
) -> AsyncIterator[ConsumerRecord]:
    """Yield the latest committed records, so many of each partition, or in all."""
    async with stored_reader(config, CLIENT_ID, topic) as reader:
        partitions = [TopicPartition(topic, each) for each in reader.partitions_for_topic(topic)]
        with connecting():
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                starts = await reader.beginning_offsets(partitions)
                ends = await reader.end_offsets(partitions)
        each_most = max(1, most // len(partitions)) if in_all else most
        for partition in partitions:
            start = max(starts[partition], ends[partition] - each_most)
            async for stored in read_stored(reader._client, partition, start, ends[partition]):
                if stored.record is not None:
                    yield stored.record


def _complete(record: ConsumerRecord) -> SlotComplete | None:
    try:
        event = parse_outcome(record.value or b"")
    except ValueError:
        return None
    return event if isinstance(event, SlotComplete) else None


def _seconds(event: SlotComplete) -> float:
    return (event.breakdown.total_ms - (event.breakdown.queue_ms or 0.0)) / 1e3


def _tick(record: ConsumerRecord) -> SlotTick | None:
    try:
        return SlotTick.model_validate_json(record.value or b"")
    except ValueError:  # it is among the dead letters, and takes no time
        return None
