from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from consumer.kafka.broker_version import find_too_old, is_too_old

# A part of what brokers answered: API key to lowest and highest version.
KAFKA_3_9_1 = {0: (0, 11), 1: (0, 17), 22: (0, 5), 24: (0, 5), 26: (0, 4), 28: (0, 4)}
KAFKA_4_3_1 = {0: (0, 13), 1: (4, 18), 22: (0, 5), 24: (0, 5), 26: (0, 5), 28: (0, 5)}


def test_kafka_3_9_is_too_old_and_4_is_not() -> None:
    assert is_too_old(KAFKA_3_9_1)
    assert not is_too_old(KAFKA_4_3_1)


def test_broker_without_transactions_is_too_old() -> None:
    assert is_too_old({0: (0, 13)})


async def test_each_old_broker_is_named_and_one_that_does_not_answer_is_not_judged() -> None:
    versions = {1: KAFKA_4_3_1, 2: KAFKA_3_9_1, 3: None, 4: KAFKA_3_9_1}
    brokers = [SimpleNamespace(nodeId=each, host="b", port=each) for each in versions]

    async def connection(node: int) -> Any:
        known = versions[node]
        return None if known is None else SimpleNamespace(_versions=known)

    client: Any = SimpleNamespace(
        cluster=SimpleNamespace(brokers=lambda: brokers), _get_conn=connection
    )
    assert await find_too_old(client) == ["b:2", "b:4"]
