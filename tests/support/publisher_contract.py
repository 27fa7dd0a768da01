"""What a publisher promises its partition, at real brokers and at those in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest
from aiokafka.errors import KafkaError

from consumer.kafka.ledger import CommitPoint
from consumer.kafka.publisher import OutgoingRecord, TransactionalPublisher

TIMEOUT_S = 20.0
POINT = CommitPoint(5, frozenset({7, 9}))


class Ground(ABC):
    """Brokers with an input partition and a topic for results."""

    results: str

    @abstractmethod
    def publisher(self) -> TransactionalPublisher:
        """Return one more publisher of the same partition."""

    @abstractmethod
    async def values(self) -> list[bytes]:
        """Return the committed values of the results."""


class PublisherContract:
    """Its tests take a fixture `ground`."""

    async def test_partition_without_a_commit_has_none_after_any_number_of_claims(
        self, ground: Ground
    ) -> None:
        publisher = ground.publisher()
        assert [await publisher.start(TIMEOUT_S) for _ in range(3)] == [None, None, None]
        await publisher.stop()

    async def test_next_owner_finds_what_was_published_with_it(self, ground: Ground) -> None:
        first, second = ground.publisher(), ground.publisher()
        await first.start(TIMEOUT_S)
        await first.publish([record(ground, b"a"), record(ground, b"b")], POINT, TIMEOUT_S)
        await first.stop()
        assert await second.start(TIMEOUT_S) == POINT
        assert await ground.values() == [b"a", b"b"]
        await second.stop()

    async def test_owner_that_was_replaced_can_publish_nothing(self, ground: Ground) -> None:
        old, new = ground.publisher(), ground.publisher()
        await old.start(TIMEOUT_S)
        assert await new.start(TIMEOUT_S) is None
        with pytest.raises(KafkaError):
            await old.publish([record(ground, b"late")], POINT, TIMEOUT_S)
        await old.stop()
        await new.publish([record(ground, b"in time")], CommitPoint(1, frozenset()), TIMEOUT_S)
        assert await new.start(TIMEOUT_S) == CommitPoint(1, frozenset())
        assert await ground.values() == [b"in time"]
        await new.stop()


def record(ground: Ground, value: bytes) -> OutgoingRecord:
    return OutgoingRecord(ground.results, b"1", value, [])
