"""A group coordinator that was frozen past its session, on thaw, answers from old memory.

On three real brokers: claims that wait on such a coordinator must not believe it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest

from consumer.config import KafkaConfig
from consumer.embedded_kafka.cluster import EmbeddedKafka
from consumer.kafka.clients import make_reader
from consumer.kafka.ledger import CommitPoint
from consumer.kafka.publisher import OutgoingRecord, StaleClaimError, TransactionalPublisher
from consumer.kafka.topics import create_topics
from tests.support.lane import Lane

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

ATTEMPTS = 3
PLAIN_READS = 20
FREEZE_TIMEOUT_S = 40.0
CLAIM_TIMEOUT_S = 90.0
THAW_TIMEOUT_S = 20.0
OUTCOME_POINT = CommitPoint(1, frozenset())

Lookup = Callable[..., Awaitable[int]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(nodes=3) as cluster:
        yield cluster


@asynccontextmanager
async def client_of(servers: str) -> AsyncIterator[AIOKafkaClient]:
    client = AIOKafkaClient(bootstrap_servers=servers, request_timeout_ms=30_000)
    await client.bootstrap()
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def stopped(cluster: EmbeddedKafka, *nodes: int) -> Iterator[Callable[[], None]]:
    """Stop the processes of nodes; give what lets them go on, as the end of the block does."""

    def go_on() -> None:
        for node in nodes:
            os.kill(cluster._nodes[node].pid, signal.SIGCONT)

    try:
        for node in nodes:
            os.kill(cluster._nodes[node].pid, signal.SIGSTOP)
        yield go_on
    finally:
        go_on()


async def find_coordinator(client: AIOKafkaClient, node: int, group: str) -> int:
    answer = await client.send(node, FindCoordinatorRequest(group, CoordinationType.GROUP))
    return int(answer.coordinator_id) if answer.error_code == 0 else -1


async def settled_coordinator(client: AIOKafkaClient, group: str) -> int:
    """Return a group's coordinator once all brokers agree; its log is created by the question.

    One that the others have left behind, as on a busy machine, hears of it as soon as it is thawed.
    """
    end_s = time.monotonic() + FREEZE_TIMEOUT_S
    while True:
        named = {await find_coordinator(client, node, group) for node in range(3)}
        if len(named) == 1 and (coordinator := named.pop()) >= 0:
            return coordinator
        assert time.monotonic() < end_s, "the group has no coordinator"
        await asyncio.sleep(0.2)


async def lane_of(cluster: EmbeddedKafka, claims: int, attempt: int) -> Lane:
    names = tuple(
        f"frozen-{claims}-{attempt}.{name}" for name in ("ticks", "results", "dead-letter")
    )
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
    await create_topics(
        admin,
        dict(zip(names, (claims, 3, 1), strict=True)),
        replication_factor=3,
        configs={"min.insync.replicas": "2"},
        timeout_s=60,
    )
    return Lane.of(cluster.bootstrap_servers, *names)


async def claim(publisher: TransactionalPublisher) -> CommitPoint | None:
    """Claim as a partition does: start over until it works."""
    end_s = time.monotonic() + CLAIM_TIMEOUT_S
    while True:
        try:
            return await publisher.start(20)
        except (KafkaError, StaleClaimError, TimeoutError):
            assert time.monotonic() < end_s, "the claim did not succeed in time"
            await asyncio.sleep(0.1)


async def answer_unless_committed(config: KafkaConfig, number: int, owner: str) -> bool:
    """Claim a partition, and publish the outcome of its tick 0 if none is; return whether so."""
    partition = TopicPartition(config.topics.ticks, number)
    publisher = TransactionalPublisher(config, partition, client_id=owner)
    try:
        if await claim(publisher) is not None:
            return False
        outcome = OutgoingRecord(config.topics.results, b"%d" % number, owner.encode(), [])
        await publisher.publish([outcome], OUTCOME_POINT, 20)
        return True
    finally:
        await publisher.stop()


async def plain_read(client: AIOKafkaClient, config: KafkaConfig, node: int, number: int) -> int:
    """Read a committed offset at a broker, as a client that knows its coordinator does."""
    request = OffsetFetchRequest(config.group_id, [(config.topics.ticks, [number])])
    answer = await client.send(node, request)
    if not answer.topics:  # it has learned that it is not the coordinator
        return OUTCOME_POINT.offset
    [(_, [(_, offset, _, error)])] = answer.topics
    return int(offset) if error == 0 else OUTCOME_POINT.offset


@pytest.mark.parametrize("claims", [30, pytest.param(200, marks=pytest.mark.slow)])
async def test_claims_that_wait_on_a_frozen_coordinator_never_read_a_stale_offset(
    claims: int, cluster: EmbeddedKafka
) -> None:
    for attempt in range(ATTEMPTS):
        lane = await lane_of(cluster, claims, attempt)
        with pytest.MonkeyPatch.context() as monkeypatch:
            stale = await stale_reads_while_claims_wait(claims, lane, cluster, monkeypatch)
        assert await outcomes_of(lane) == {b"%d" % number: 1 for number in range(claims)}
        # The trap works: who does without the barrier reads what was committed before the freeze.
        # It does not where the coordinator happens to move before it is frozen.
        if stale:
            return
    pytest.fail("no coordinator answered from old memory, so there was nothing to fear")


async def stale_reads_while_claims_wait(
    claims: int, lane: Lane, cluster: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Claim each partition at a frozen coordinator; return how many plain reads it misleads."""
    config = lane.config
    async with client_of(cluster.bootstrap_servers) as old_friend:
        frozen = await settled_coordinator(old_friend, config.group_id)
        others = [node for node in range(3) if node != frozen]
        addresses = [cluster._nodes[node].address for node in others]
        awake = config.model_copy(update={"bootstrap_servers": ",".join(addresses)})

        with stopped(cluster, frozen) as thaw:
            async with client_of(awake.bootstrap_servers) as client:
                end_s = time.monotonic() + FREEZE_TIMEOUT_S
                while await find_coordinator(client, others[0], config.group_id) not in others:
                    assert time.monotonic() < end_s, "the group has no new coordinator"
                    await asyncio.sleep(0.2)
            # The rightful owner of each partition answers its tick, at the new coordinator.
            answered = [
                await answer_unless_committed(awake, number, "owner") for number in range(claims)
            ]
            assert all(answered)

            _ask_for_groups_at(frozen, cluster, old_friend, monkeypatch)
            plain = [
                asyncio.create_task(plain_read(old_friend, config, frozen, number))
                for number in range(PLAIN_READS)
            ]
            claiming = [
                asyncio.create_task(answer_unless_committed(awake, number, "claimer"))
                for number in range(claims)
            ]
            await asyncio.sleep(5)  # until all of them wait on the frozen one
            assert not any(task.done() for task in [*plain, *claiming])
            # Nobody tells it the news before it has answered from old memory.
            with stopped(cluster, *others):
                thaw()
                offsets = await asyncio.wait_for(asyncio.gather(*plain), THAW_TIMEOUT_S)
        second = await asyncio.gather(*claiming)

    assert not any(second)
    return offsets.count(-1)


def _ask_for_groups_at(
    node: int, cluster: EmbeddedKafka, friend: AIOKafkaClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have every client ask this node where a group's coordinator is, as chance may have it."""
    lookup: Lookup = AIOKafkaClient.coordinator_lookup
    broker = friend.cluster.broker_metadata(node)

    async def ask(self: AIOKafkaClient, kind: CoordinationType, key: str) -> int:
        if kind is not CoordinationType.GROUP:
            return await lookup(self, kind, key)
        self.cluster._brokers.setdefault(node, broker)
        return await find_coordinator(friend, node, key)

    monkeypatch.setattr(AIOKafkaClient, "coordinator_lookup", ask)


async def outcomes_of(lane: Lane) -> Counter[bytes]:
    """Count the committed outcomes by key."""
    reader = make_reader(lane.config, lane.config.topics.results, client_id="test")
    await reader.start()
    counted: Counter[bytes] = Counter()
    try:
        end_s = time.monotonic() + 3
        while time.monotonic() < end_s:
            for records in (await reader.getmany(timeout_ms=500)).values():
                counted.update(record.key for record in records)
    finally:
        await reader.stop()
    return counted
