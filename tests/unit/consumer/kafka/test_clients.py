from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import UNKNOWN_OFFSET, Fetcher
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed
from aiokafka.structs import OffsetAndMetadata

from consumer.config import KafkaConfig, WorkerConfig
from consumer.kafka.clients import KafkaUnreachableError, connecting, make_admin, make_consumer
from tests.support.waiting import until
from vortex.config import ConfigError

ROUND_S = 0.005
"""After which the fetcher looks again for what it could do."""


def fail_to_connect(cause: Exception) -> None:
    """Fail as aiokafka does, which only logs why an address failed."""
    with connecting():
        logging.getLogger("aiokafka").error('Unable connect to "%s:%s": %s', "broker", 9092, cause)
        raise KafkaConnectionError("Unable to bootstrap")


@pytest.mark.parametrize(
    ("cause", "permanent"),
    [
        (SaslAuthenticationFailed("wrong password"), True),
        (ssl.SSLCertVerificationError("self-signed certificate"), True),
        (ssl.SSLEOFError("the broker is stopping"), False),
        (ConnectionRefusedError("nobody listens"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_a_refusal_is_permanent(cause: Exception, permanent: bool) -> None:
    with pytest.raises(KafkaUnreachableError) as caught:
        fail_to_connect(cause)
    assert str(cause) in str(caught.value)
    assert caught.value.permanent is permanent


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_unusable_ca_file_is_a_wrong_configuration(
    content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    kafka = WorkerConfig.load().kafka.model_dump()
    kafka["security"] |= {"protocol": "SSL", "ca_file": path}
    with pytest.raises(ConfigError, match=r"kafka\.security\.ca_file: .*ca\.pem cannot be used"):
        make_admin(KafkaConfig.model_validate(kafka), client_id="test")


async def test_every_assignment_is_paused_and_leaves_the_client_no_position_to_look_up() -> None:
    config = WorkerConfig.load().kafka
    ticks = {TopicPartition(config.topics.ticks, number) for number in range(3)}
    consumer = make_consumer(config, client_id="test")
    try:
        consumer.subscribe([config.topics.ticks])
        for assigned in (ticks, ticks):  # nothing is kept across a rebalance
            consumer._subscription.assign_from_subscribed(assigned)
            assignment = consumer._subscription.subscription.assignment
            assert all(assignment.state_value(each).has_valid_position for each in assigned)
            assert consumer.paused() == assigned
            consumer.resume(*assigned)
    finally:
        await consumer.stop()


async def test_fetcher_outlives_a_leader_that_moves_while_it_is_asked_what_is_committed() -> None:
    config = WorkerConfig.load().kafka
    # Two, or chance decides whether aiokafka looks at the result of the lookup that fails.
    partitions = {TopicPartition(config.topics.ticks, number) for number in range(2)}
    leaders = [1]
    asked = Counter[TopicPartition]()

    def leader_for_partition(partition: TopicPartition) -> int:
        asked[partition] += 1  # once a round
        return leaders[-1]

    async def ten_rounds() -> None:
        asked.clear()
        await until(lambda: all(asked[each] >= 10 for each in partitions))

    client = SimpleNamespace(
        _loop=asyncio.get_running_loop(),
        _metadata_max_age_ms=30_000,
        cluster=SimpleNamespace(leader_for_partition=leader_for_partition),
    )
    consumer = make_consumer(config, client_id="test")
    consumer.subscribe([config.topics.ticks])
    # As the consumer's start makes it, with a fraction of its waits.
    fetcher = Fetcher(
        client, consumer._subscription, auto_offset_reset="none", fetcher_timeout=ROUND_S
    )
    try:
        consumer._subscription.assign_from_subscribed(partitions)
        await ten_rounds()
        leaders.append(2)
        await ten_rounds()
        assignment = consumer._subscription.subscription.assignment
        for partition in assignment.requesting_committed():  # as the coordinator's answer is given
            nothing = OffsetAndMetadata(UNKNOWN_OFFSET, "")
            assignment.state_value(partition).update_committed(nothing)
        await ten_rounds()
        assert not fetcher.error_future.done()
    finally:
        await asyncio.gather(fetcher.close(), return_exceptions=True)
        await consumer.stop()
