"""Making topics."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from consumer.kafka.clients import connecting

POLL_S = 0.05
_COMPACTED = {"cleanup.policy": "compact"}


async def create_topics(
    admin: AIOKafkaAdminClient,
    partitions: Mapping[str, int],
    *,
    replication_factor: int = 1,
    configs: Mapping[str, str] | None = None,
    compacted: Collection[str] = (),
    timeout_s: float = 15.0,
) -> None:
    """Create the topics that do not exist yet, and wait until all their partitions have a leader.

    Args:
        admin: a client, not yet started; it is closed at the end.
        partitions: a topic's name to its number of partitions; topics that exist are left as
            they are.
        replication_factor: copies of each partition.
        configs: topic settings such as `min.insync.replicas`, the same for all.
        compacted: the topics that keep only the last record of each key.
        timeout_s: for all of it.

    Raises:
        KafkaError: Kafka refuses a topic.
        KafkaUnreachableError: no broker answers.
        TimeoutError: the topics are not ready after `timeout_s`.
    """
    topics = [
        NewTopic(
            name,
            count,
            replication_factor,
            topic_configs={**(configs or {}), **(_COMPACTED if name in compacted else {})},
        )
        for name, count in partitions.items()
    ]
    try:
        async with asyncio.timeout(timeout_s):
            with connecting():
                await admin.start()
            answer = await admin.create_topics(topics)
            for name, code, reason in answer.topic_errors:
                error = for_code(code)
                if code != 0 and error is not TopicAlreadyExistsError:
                    raise error(f"{name}: {reason}")
            while not _all_led(await admin.describe_topics(list(partitions))):
                await asyncio.sleep(POLL_S)
    finally:
        await admin.close()


def _all_led(topics: list[dict[str, Any]]) -> bool:  # Any: aiokafka's answer, as it came
    return all(
        topic["error_code"] == 0
        and all(partition["leader"] >= 0 for partition in topic["partitions"])
        for topic in topics
    )
