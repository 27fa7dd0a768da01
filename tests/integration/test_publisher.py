"""The publisher's contract at a real Kafka."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition

from consumer.kafka.publisher import TransactionalPublisher
from tests.integration.conftest import MakeLane
from tests.integration.test_exactly_one_outcome import values_of
from tests.support.lane import Lane
from tests.support.publisher_contract import Ground, PublisherContract


class KafkaGround(Ground):
    def __init__(self, lane: Lane) -> None:
        self.results = lane.config.topics.results
        self._lane = lane

    def publisher(self) -> TransactionalPublisher:
        config = self._lane.config
        at = TopicPartition(config.topics.ticks, 0)
        return TransactionalPublisher(config, at, client_id="test")

    async def values(self) -> list[bytes]:
        return await values_of(self._lane, self.results, "read_committed")


@pytest.fixture
async def ground(make_lane: MakeLane) -> KafkaGround:
    return KafkaGround(await make_lane())


@pytest.mark.kafka
class TestKafka(PublisherContract):
    pass
