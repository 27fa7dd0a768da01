"""A broker that hangs holds up what it leads, and nothing else for long. On three real brokers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.protocol.coordination import FindCoordinatorRequest

from consumer.config import WorkerConfig
from consumer.embedded_kafka.cluster import EmbeddedKafka
from consumer.kafka.clients import make_plain_producer
from consumer.kafka.topics import create_topics
from consumer.worker import Worker
from tests.support.engines import ScriptedEngine
from tests.support.lane import Lane, tick
from tests.support.waiting import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

TOPICS = ("ticks", "results", "dead")
NODES = range(3)
CLAIMS = 4
BROKER_SESSION_S = 4.0
"""How long the embedded brokers take to notice that one of them hangs."""
BOUND_S = BROKER_SESSION_S + 10.0
"""As config.yaml states it at kafka.request_timeout_s."""


@asynccontextmanager
async def client_of(cluster: EmbeddedKafka) -> AsyncIterator[AIOKafkaClient]:
    client = AIOKafkaClient(bootstrap_servers=cluster.bootstrap_servers)
    await client.bootstrap()
    try:
        await client.set_topics(TOPICS)
        async with asyncio.timeout(60):
            while not all(has_leaders(client, topic) for topic in TOPICS):
                await client.force_metadata_update()
                await asyncio.sleep(0.2)
        yield client
    finally:
        await client.close()


def has_leaders(client: AIOKafkaClient, topic: str) -> bool:
    known = client.cluster.partitions_for_topic(topic)
    return bool(known) and client.cluster.available_partitions_for_topic(topic) == known


@contextmanager
def frozen(cluster: EmbeddedKafka, node: int) -> Iterator[None]:
    os.kill(cluster._nodes[node].pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(cluster._nodes[node].pid, signal.SIGCONT)


async def coordinator(client: AIOKafkaClient, kind: CoordinationType, key: str) -> int:
    async with asyncio.timeout(60):
        while True:
            answer = await client.send(0, FindCoordinatorRequest(key, kind))
            if answer.error_code == 0:
                return int(answer.coordinator_id)
            await asyncio.sleep(0.2)  # its log is being created


async def bystander(client: AIOKafkaClient) -> tuple[int, str, list[int]]:
    """Return a broker, a group and the partitions of ticks in whose publishing it has no part."""

    def leader(topic: str, number: int) -> int:
        return int(client.cluster.leader_for_partition(TopicPartition(topic, number)))

    for attempt in range(100):
        group = f"group-{attempt}"
        busy = {leader("results", 0), await coordinator(client, CoordinationType.GROUP, group)}
        for node in set(NODES) - busy:
            elsewhere = [number for number in NODES if leader("ticks", number) != node]
            ids = [f"{group}/ticks/{number}" for number in elsewhere]
            kind = CoordinationType.TRANSACTION
            if elsewhere and node not in {await coordinator(client, kind, each) for each in ids}:
                return node, group, elsewhere
    raise AssertionError("every broker has a part in everything")


async def emit(producer: AIOKafkaProducer, partitions: list[int], first: int) -> int:
    """Emit one tick to each partition; return the next slot id."""
    for slot_id, number in enumerate(partitions, first):
        value = tick(slot_id).model_dump_json().encode()
        await producer.send("ticks", value, partition=number)
    return first + len(partitions)


async def published_up_to(worker: Worker, lane: Lane, partitions: list[int], count: int) -> None:
    """Wait until the worker knows that so many outcomes of each partition are committed."""
    owners = [worker._partitions[TopicPartition("ticks", number)] for number in partitions]
    await until(lambda: all(owner._committed_seen >= count for owner in owners), BOUND_S)


@pytest.mark.slow
async def test_broker_that_hangs_delays_outcomes_led_elsewhere_no_longer_than_stated() -> None:
    with EmbeddedKafka(nodes=3) as cluster:
        admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
        await create_topics(
            admin,
            dict(zip(TOPICS, (3, 1, 1), strict=True)),
            replication_factor=3,
            configs={"min.insync.replicas": "2"},
            timeout_s=60,
        )
        async with client_of(cluster) as client:
            node, group, elsewhere = await bystander(client)
        # The time limits of the packaged configuration, not the tests' shorter ones.
        packaged = WorkerConfig.load().kafka.model_dump()
        lane = Lane.of(cluster.bootstrap_servers, *TOPICS)
        limits = {name: packaged[name] for name in packaged if name.endswith("timeout_s")}
        producer = make_plain_producer(lane.config, client_id="test")
        async with lane.worker(ScriptedEngine(), "a", group_id=group, **limits) as worker:
            await until(lambda: sum(each.claimed for each in worker._partitions.values()) == 3)
            await producer.start()
            try:
                with frozen(cluster, node):
                    end_s = time.monotonic() + BOUND_S
                    sent = rounds = 0
                    while time.monotonic() < end_s:
                        sent = await emit(producer, elsewhere, sent)
                        rounds += 1
                        await published_up_to(worker, lane, elsewhere, rounds)
                    # Claims too, though chance leads some of them to the broker that hangs.
                    owners = [worker._partitions[TopicPartition("ticks", n)] for n in elsewhere]
                    for _ in range(CLAIMS):
                        for owner in owners:
                            owner.claim_again()
                        await until(lambda: all(owner.claimed for owner in owners), BOUND_S)
            finally:
                await producer.stop()
            assert len(await lane.outcomes(sent)) == sent
