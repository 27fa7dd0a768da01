"""The classical traps of exactly-once publishing, one by one, on three real brokers.

`tests/chaos` at large strikes at random; here each blow falls at the one moment that matters.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.protocol.coordination import FindCoordinatorRequest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from consumer.embedded_kafka.cluster import EmbeddedKafka
from consumer.emitter import TickEmitter
from consumer.kafka.topics import create_topics
from tests.support.engines import ScriptedEngine
from tests.support.lane import Lane, assert_one_outcome_each, slots, tick
from tests.support.proxied_kafka import ProxiedKafka
from tests.support.proxy import (
    END_TXN,
    INIT_PRODUCER_ID,
    OFFSET_FETCH,
    PRODUCE,
    TXN_OFFSET_COMMIT,
)
from tests.support.waiting import until
from tests.support.worker_process import worker_process

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

ANSWER_TIMEOUT_S = 30.0
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
PATIENT = {"request_timeout_s": 40.0, "transaction_timeout_s": 40.0}
"""Limits of a worker that does not give up what a test holds back."""
MUST_NOT_COME_S = 4.0
"""How long to wait for a second outcome."""
LEADER = 0
LOOKUP_S = 1.0
"""Some rounds of aiokafka's fetcher, which looks every 0.2 s for what it could do."""


@pytest.fixture(scope="module")
def brokers() -> Iterator[ProxiedKafka]:
    brokers = ProxiedKafka(nodes=3)
    with brokers.kafka:
        yield brokers


@asynccontextmanager
async def through_proxies(
    brokers: ProxiedKafka, name: str, partitions: int = 1, replicas: int = 3
) -> AsyncIterator[Lane]:
    """Give a lane whose clients come through the proxies, with topics of its own."""
    async with brokers:
        lane = await lane_of(brokers.kafka.bootstrap_servers, name, partitions, replicas)
        servers = {"bootstrap_servers": brokers.bootstrap_servers}
        try:
            yield Lane(lane.config.model_copy(update=servers))
        finally:
            for proxy in brokers.proxies:
                proxy.reset()


async def lane_of(servers: str, name: str, partitions: int = 1, replicas: int = 1) -> Lane:
    names = [f"{name}.{topic}" for topic in ("ticks", "results", "dead-letter")]
    await create_topics(
        AIOKafkaAdminClient(bootstrap_servers=servers),
        dict(zip(names, (partitions, 1, 1), strict=True)),
        replication_factor=replicas,
        timeout_s=60,
    )
    return Lane.of(servers, *names)


async def test_zombie_that_thaws_after_its_ticks_were_answered_publishes_nothing(
    brokers: ProxiedKafka,
) -> None:
    lane = await lane_of(brokers.kafka.bootstrap_servers, "zombie", replicas=3)
    with worker_process(lane.config, "zombie", seconds=1.0) as zombie:
        emitted = await lane.emit([tick(slot_id) for slot_id in range(4)])
        await lane.outcomes(1, settle_s=0.0)
        zombie.send_signal(signal.SIGSTOP)  # in the middle of a slot
        async with lane.worker(ScriptedEngine(), "heir"):
            await lane.outcomes(4)
            zombie.send_signal(signal.SIGCONT)
            results = await lane.outcomes(4, settle_s=MUST_NOT_COME_S)
    assert_one_outcome_each(results, emitted)


async def test_commit_in_doubt_whose_answer_was_lost_is_not_published_again(
    brokers: ProxiedKafka,
) -> None:
    lost = asyncio.Event()

    async def lose_the_first_end(api_key: int) -> bool:
        if api_key != END_TXN or lost.is_set():
            return True
        lost.set()
        return False

    engine = ScriptedEngine()
    async with through_proxies(brokers, "in-doubt") as lane, lane.worker(engine, "a") as worker:
        await until(lambda: worker.accepting)
        for proxy in brokers.proxies:
            proxy.before_answer = lose_the_first_end
        emitted = await lane.emit([tick(1)])
        await asyncio.wait_for(lost.wait(), 30)
        await until(lambda: not worker.accepting, 30)  # in doubt: the partition is claimed again
        await until(lambda: worker.accepting, 30)
        results = await lane.outcomes(1, settle_s=MUST_NOT_COME_S)
        committed = await lane.committed()
    assert_one_outcome_each(results, emitted)
    assert committed == 1
    assert engine.finished == [1]


@pytest.mark.parametrize("coordinator", ["transaction", "group"])
async def test_coordinator_that_moves_in_mid_transaction_costs_no_outcome_and_doubles_none(
    coordinator: str, brokers: ProxiedKafka
) -> None:
    killed: list[int] = []

    async with through_proxies(brokers, f"moved-{coordinator}") as lane:
        config, direct = lane.config, brokers.kafka.bootstrap_servers
        if coordinator == "group":
            kind, key, moment = CoordinationType.GROUP, config.group_id, TXN_OFFSET_COMMIT
        else:
            kind, moment = CoordinationType.TRANSACTION, END_TXN
            key = f"{config.group_id}/{config.topics.ticks}/0"

        async def kill_at_the_moment(api_key: int) -> bool:
            if api_key == moment and not killed:
                killed.append(node)
                await asyncio.to_thread(brokers.kafka.kill_node, node)
            return True

        try:
            async with lane.worker(ScriptedEngine(), "a") as worker:
                await until(lambda: worker.accepting)
                node = await coordinator_of(direct, kind, key)
                for proxy in brokers.proxies:
                    proxy.before_request = kill_at_the_moment
                emitted = await Lane(config.model_copy(update={"bootstrap_servers": direct})).emit(
                    [tick(slot_id) for slot_id in range(3)]
                )
                results = await lane.outcomes(3, settle_s=MUST_NOT_COME_S)
                await until(lambda: worker.accepting)
        finally:
            for node in killed:
                await asyncio.to_thread(brokers.kafka.restart_node, node)
        assert killed
        assert_one_outcome_each(results, emitted)
        assert await lane.committed() == 3


async def test_slots_finished_out_of_order_before_a_crash_are_not_made_again(
    brokers: ProxiedKafka,
) -> None:
    lane = await lane_of(brokers.kafka.bootstrap_servers, "out-of-order", replicas=3)
    emitted = await lane.emit([tick(slot_id, deadline_s=600 - slot_id) for slot_id in range(8)])
    with worker_process(lane.config, "crashed", seconds=0.5) as process:
        await lane.outcomes(3, settle_s=0.0)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    before = await lane.outcomes(3)
    assert slots(before, "slot-complete") == set(range(8 - len(before), 8))  # last deadline first
    second = ScriptedEngine()
    async with lane.worker(second, "second"):
        results = await lane.outcomes(8)
    assert sorted(second.started) == list(range(8 - len(before)))
    assert_one_outcome_each(results, emitted)
    assert await lane.committed() == 8


async def test_rebalance_during_publishing_gives_one_outcome_each_and_holds_up_no_reader(
    brokers: ProxiedKafka,
) -> None:
    publishing, go_on = asyncio.Event(), asyncio.Event()

    async def hold_outcomes(api_key: int) -> bool:
        if api_key == PRODUCE:
            publishing.set()
            await go_on.wait()
        return True

    async with through_proxies(brokers, "rebalanced", partitions=2) as lane:
        direct = {"bootstrap_servers": brokers.kafka.bootstrap_servers}
        async with lane.worker(ScriptedEngine(), "first", **PATIENT) as first:
            await until(lambda: first.accepting and len(first._partitions) == 2)
            for proxy in brokers.proxies:
                proxy.before_request = hold_outcomes
            emitted = await Lane(lane.config.model_copy(update=direct)).emit(
                [tick(slot_id) for slot_id in range(16)]
            )
            assert {at.partition for at in emitted} == {0, 1}
            await asyncio.wait_for(publishing.wait(), 30)
            async with lane.worker(ScriptedEngine(), "second", **direct) as second:
                await until(lambda: second.accepting)
                go_on.set()
                # Well before the abandoned transaction's own time limit: the new owner ends it.
                async with asyncio.timeout(PATIENT["transaction_timeout_s"] / 2):
                    results = await lane.outcomes(16, settle_s=MUST_NOT_COME_S)
                assert len(first._partitions) == len(second._partitions) == 1
    assert_one_outcome_each(results, emitted)


async def test_leader_that_moves_while_nobody_says_what_is_committed_does_not_end_the_worker(
    brokers: ProxiedKafka,
) -> None:
    claiming, lookups, claims = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hold(api_key: int) -> bool:
        if api_key == OFFSET_FETCH:
            await lookups.wait()
        elif api_key == INIT_PRODUCER_ID:
            claiming.set()
            await claims.wait()
        return True

    async with through_proxies(brokers, "unclaimed") as lane:
        direct = brokers.kafka.bootstrap_servers
        ticks = await asyncio.to_thread(create_ticks_led_by, direct, [LEADER, 1, 2])
        topics = lane.config.topics.model_copy(update={"ticks": ticks})
        lane = Lane(lane.config.model_copy(update={"topics": topics}))
        group = await group_coordinated_elsewhere(direct, LEADER)
        # What comes behind a held request waits as well, heartbeats among it.
        limits = PATIENT | {"session_timeout_s": 40.0, "group_id": group}
        for proxy in brokers.proxies:
            proxy.before_request = hold
        async with lane.worker(ScriptedEngine(), "a", **limits) as worker:
            await asyncio.wait_for(claiming.wait(), 30)
            await asyncio.to_thread(brokers.kafka.kill_node, LEADER)
            try:
                await moved(worker._consumer._client, ticks)
                lookups.set()
                await asyncio.sleep(LOOKUP_S)
                claims.set()
                await until(lambda: worker.accepting, 30)
            finally:
                await asyncio.to_thread(brokers.kafka.restart_node, LEADER)
            config = lane.config.model_copy(update={"bootstrap_servers": direct})
            emitted = await Lane(config).emit([tick(1)])
            results = await lane.outcomes(1)
    assert_one_outcome_each(results, emitted)


async def test_topic_that_refuses_in_mid_transaction_costs_no_outcome_and_doubles_none() -> None:
    brokers = ProxiedKafka(settings=AUTHORIZER)
    produced = itertools.count(1)
    refusing = ExitStack()

    async def refuse_in_the_second_transaction(api_key: int) -> bool:
        if api_key == PRODUCE:
            number = next(produced)
            if number == 1:
                await until(lambda: len(owner._decided) == 3)  # two more wait for the second
            elif number == 2:
                refusal = written_to_by_nobody(brokers.kafka, lane.config.topics.results)
                await asyncio.to_thread(refusing.enter_context, refusal)
        return True

    with brokers.kafka, refusing:
        async with through_proxies(brokers, "refused", replicas=1) as lane:
            direct = {"bootstrap_servers": brokers.kafka.bootstrap_servers}
            engine = ScriptedEngine()
            async with lane.worker(engine, "a", **PATIENT) as worker:
                await until(lambda: worker.accepting)
                (owner,) = worker._partitions.values()
                brokers.proxies[0].before_request = refuse_in_the_second_transaction
                async with TickEmitter(lane.config.model_copy(update=direct)) as emitter:
                    emitted = [await emitter.emit(tick(1))]
                    await until(lambda: bool(owner._decided))
                    emitted += [await emitter.emit_raw(b"no tick"), await emitter.emit(tick(2))]
                await until(lambda: owner._failures >= 3)
                assert len(await lane.outcomes(1)) == 1
                refusing.close()
                results = await lane.outcomes(3, settle_s=MUST_NOT_COME_S)
                assert await lane.committed() == 3
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == set(engine.finished) == {1, 2}


@contextmanager
def written_to_by_nobody(kafka: EmbeddedKafka, topic: str) -> Iterator[None]:
    """While the context is open, nobody may write to a topic."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    who = ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:*", "*"
    rules = (
        (*who, AclOperation.ALL, AclPermissionType.ALLOW),
        (*who, AclOperation.WRITE, AclPermissionType.DENY),  # goes before
    )
    for created in admin.create_acls([AclBinding(*rule) for rule in rules]).values():
        created.result(ANSWER_TIMEOUT_S)
    # The answer comes from the controller; the broker hears of it a moment later.
    end_s = time.monotonic() + ANSWER_TIMEOUT_S
    while not admin.describe_acls(AclBindingFilter(*rules[-1])).result(ANSWER_TIMEOUT_S):
        assert time.monotonic() < end_s, "the broker does not follow the access list"
        time.sleep(0.02)
    try:
        yield
    finally:
        deletions = admin.delete_acls([AclBindingFilter(*rule) for rule in rules])
        for deleted in deletions.values():
            deleted.result(ANSWER_TIMEOUT_S)


def create_ticks_led_by(servers: str, replicas: list[int]) -> str:
    """Create a topic of two partitions, both led by the first of these nodes that lives."""
    admin = AdminClient({"bootstrap.servers": servers})
    topic = NewTopic("unclaimed.led", 2, replica_assignment=[replicas, replicas])
    admin.create_topics([topic])[topic.topic].result(ANSWER_TIMEOUT_S)
    return str(topic.topic)


async def moved(client: AIOKafkaClient, topic: str) -> None:
    """Wait until a client knows other leaders, and aiokafka's fetcher has seen to that."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        leaders = {LEADER}
        while leaders & {LEADER, -1, None}:
            await client.force_metadata_update()
            await asyncio.sleep(0.1)
            at = [TopicPartition(topic, number) for number in range(2)]
            leaders = {client.cluster.leader_for_partition(each) for each in at}
    await asyncio.sleep(LOOKUP_S)


async def group_coordinated_elsewhere(servers: str, node: int) -> str:
    """Return the name of a group that another node coordinates."""
    for attempt in range(100):
        group = f"elsewhere-{attempt}"
        if await coordinator_of(servers, CoordinationType.GROUP, group) != node:
            return group
    raise AssertionError("one node coordinates every group")


async def coordinator_of(servers: str, kind: CoordinationType, key: str) -> int:
    client = AIOKafkaClient(bootstrap_servers=servers)
    await client.bootstrap()
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                node = client.get_random_node()
                answer = await client.send(node, FindCoordinatorRequest(key, kind))
                if answer.error_code == 0:
                    return int(answer.coordinator_id)
                await asyncio.sleep(0.2)  # its log is being created
    finally:
        await client.close()
