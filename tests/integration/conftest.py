"""One Kafka for all integration tests, and topics of their own for each."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from consumer.kafka.topics import create_topics
from tests.support.lane import Lane
from tests.support.shared_kafka import SharedKafka, shared_kafka

MakeTopic = Callable[..., Awaitable[str]]
MakeLane = Callable[..., Awaitable[Lane]]


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[SharedKafka]:
    """Give a running one-node Kafka, shared by all tests of all processes of the run."""
    directory = tmp_path_factory.getbasetemp()
    with shared_kafka(directory if worker_id == "master" else directory.parent) as kafka:
        yield kafka


@pytest.fixture
def make_topic(kafka: SharedKafka, request: pytest.FixtureRequest) -> MakeTopic:
    """Give `await make_topic(name="topic", partitions=1, configs=None)`.

    It creates a topic and returns its name, which begins with the test's, ends with `name` and is
    used by no other test.
    """
    prefix = f"{request.node.originalname[:150]}.{uuid.uuid4().hex[:8]}"

    async def make(
        name: str = "topic", partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> str:
        topic = f"{prefix}.{name}"
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
        await create_topics(admin, {topic: partitions}, configs=configs)
        return topic

    return make


@pytest.fixture
def make_lane(kafka: SharedKafka, make_topic: MakeTopic) -> MakeLane:
    """Give `await make_lane(partitions=1, dead_letter=None, handover=None)`.

    `dead_letter` are settings of that topic; `handover` is the number of its partitions, None has
    no handover.
    """

    async def make(
        partitions: int = 1,
        dead_letter: Mapping[str, str] | None = None,
        handover: int | None = None,
    ) -> Lane:
        more = {}
        if handover is not None:
            compacted = {"cleanup.policy": "compact"}
            more["handover"] = await make_topic("handover", handover)
            more["workers"] = await make_topic("workers", configs=compacted)
        return Lane.of(
            kafka.bootstrap_servers,
            await make_topic("ticks", partitions),
            await make_topic("results"),
            await make_topic("dead-letter", configs=dead_letter),
            **more,
        )

    return make
