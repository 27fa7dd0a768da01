"""Everything that happens to workers, brokers, connections and the group.

A fault is an asynchronous context: entering it does the damage, leaving it heals that. Faults are
sorted into lanes. Those of one lane come one after the other, since two of them at once would prove
nothing (two of three brokers down is an outage); the lanes run in parallel.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from random import Random

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError
from aiokafka.protocol.coordination import FindCoordinatorRequest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewPartitions

from consumer.config import KafkaConfig
from consumer.kafka.clients import make_consumer
from tests.chaos.checker import SILENT
from tests.chaos.fleet import Fleet
from tests.chaos.producer import TickProducer
from tests.support.odd_records import flip_a_bit
from tests.support.proxied_kafka import ProxiedKafka

ANSWER_TIMEOUT_S = 20.0
IN_SYNC_TIMEOUT_S = 90.0
POLL_S = 0.25
MAX_ADDED_PARTITIONS = 4
GROUP_ROLE = "the group's"
MARKER = 7_000_000_000
"""Slot ids from here on are of ticks that are damaged."""


@dataclass(frozen=True)
class Chaos:
    """All that can be struck."""

    kafka: ProxiedKafka
    fleet: Fleet
    producer: TickProducer
    config: KafkaConfig
    """The workers'; its brokers are the proxies."""

    @property
    def nodes(self) -> int:
        return len(self.kafka.proxies)

    @cached_property
    def admin(self) -> AdminClient:
        # One for all: librdkafka aborts the process if a client's last reference goes in its own
        # thread, as it may when an answer comes while the asker lets go.
        servers = self.kafka.kafka.bootstrap_servers
        return AdminClient({"bootstrap.servers": servers, "log_level": SILENT})


@dataclass(frozen=True)
class Hit:
    """What a fault has struck."""

    detail: str
    workers: tuple[str, ...] = ()
    """Whose service it interrupts."""


Strike = Callable[[Chaos, Random], AbstractAsyncContextManager[Hit | None]]
"""Yields None if there is nothing to strike."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault, and for how long it may last before it is healed."""

    name: str
    strike: Strike
    hold_s: tuple[float, float] = (0.0, 0.0)


# --- workers and their engines --------------------------------------------------------------


@asynccontextmanager
async def worker_killed(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    worker = random.choice(chaos.fleet.workers)
    worker.kill()
    yield Hit(worker.id, (worker.id,))
    worker.start()


@asynccontextmanager
async def all_workers_killed(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    for worker in chaos.fleet:
        worker.kill()
    yield Hit("all of them", chaos.fleet.ids)
    for worker in chaos.fleet:
        worker.start()


@asynccontextmanager
async def worker_frozen(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    worker = random.choice(chaos.fleet.workers)
    worker.freeze()
    yield Hit(worker.id, (worker.id,))
    worker.thaw()


@asynccontextmanager
async def worker_restarted(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    worker = random.choice(chaos.fleet.workers)
    await worker.stop()
    yield Hit(worker.id, (worker.id,))
    worker.start()


@asynccontextmanager
async def workers_rolled(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    for worker in chaos.fleet:
        await worker.stop()
        worker.start()
    yield Hit("one after the other", chaos.fleet.ids)


@asynccontextmanager
async def engine_killed(chaos: Chaos, random: Random) -> AsyncIterator[Hit | None]:
    worker = random.choice(chaos.fleet.workers)
    engines = worker.children()
    for engine in engines:
        engine.kill()
    yield Hit(f"of {worker.id}", (worker.id,)) if engines else None


@asynccontextmanager
async def engine_frozen(chaos: Chaos, random: Random) -> AsyncIterator[Hit | None]:
    worker = random.choice(chaos.fleet.workers)
    engines = worker.children()
    for engine in engines:
        engine.suspend()
    yield Hit(f"of {worker.id}", (worker.id,)) if engines else None
    for engine in engines:
        if engine.is_running():  # the worker may have replaced it
            engine.resume()


# --- brokers --------------------------------------------------------------------------------


@asynccontextmanager
async def broker_killed(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    node, role = await _choose_node(chaos, random)
    await asyncio.to_thread(chaos.kafka.kafka.kill_node, node)
    yield Hit(f"node {node}, {role}", chaos.fleet.ids)
    await asyncio.to_thread(chaos.kafka.kafka.restart_node, node)
    await _in_sync(chaos)


@asynccontextmanager
async def group_coordinator_frozen(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    async with _frozen(chaos, await _group_coordinator(chaos), GROUP_ROLE) as hit:
        yield hit


@asynccontextmanager
async def broker_frozen(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    async with _frozen(chaos, *await _choose_node(chaos, random)) as hit:
        yield hit


@asynccontextmanager
async def _frozen(chaos: Chaos, node: int, role: str) -> AsyncIterator[Hit]:
    pid = chaos.kafka.kafka._nodes[node].pid
    os.kill(pid, signal.SIGSTOP)
    yield Hit(f"node {node}, {role}", chaos.fleet.ids)
    os.kill(pid, signal.SIGCONT)
    await _in_sync(chaos)


@asynccontextmanager
async def broker_restarted(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    node, role = await _choose_node(chaos, random)
    await asyncio.to_thread(chaos.kafka.kafka.stop_node, node)
    yield Hit(f"node {node}, {role}", chaos.fleet.ids)
    await asyncio.to_thread(chaos.kafka.kafka.restart_node, node)
    await _in_sync(chaos)


@asynccontextmanager
async def brokers_rolled(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    for node in random.sample(range(chaos.nodes), chaos.nodes):
        await asyncio.to_thread(chaos.kafka.kafka.stop_node, node)
        await asyncio.to_thread(chaos.kafka.kafka.restart_node, node)
        await _in_sync(chaos)
    yield Hit("one after the other", chaos.fleet.ids)


@asynccontextmanager
async def batch_damaged(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    """Flip a bit of a tick on all brokers' disks, before any worker has read it; flip it back."""
    partition = random.randrange(chaos.producer.partitions)
    slot_id = MARKER + random.getrandbits(30)
    topic, marker = chaos.config.topics.ticks, str(slot_id).encode()
    value = chaos.producer.good_tick(slot_id)
    for proxy in chaos.kafka.proxies:
        await proxy.refuse()
    try:
        await chaos.producer.emit_to(partition, "damaged", slot_id, value)
        flip_a_bit(chaos.kafka.kafka, topic, partition, marker)
    finally:
        for proxy in chaos.kafka.proxies:
            proxy.accept()
    yield Hit(f"slot {slot_id} in partition {partition}", chaos.fleet.ids)
    damaged = bytes([marker[0] ^ 1]) + marker[1:]
    flip_a_bit(chaos.kafka.kafka, topic, partition, damaged)


# --- connections, group and topic -----------------------------------------------------------


@asynccontextmanager
async def connections_cut(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    proxies = random.sample(chaos.kafka.proxies, random.randint(1, chaos.nodes))
    for proxy in proxies:
        await proxy.cut()
    yield Hit(f"to {len(proxies)} brokers", chaos.fleet.ids)


@asynccontextmanager
async def connections_stalled(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    """Hold all bytes back, then deliver them: late requests and late answers."""
    proxies = random.sample(chaos.kafka.proxies, random.randint(1, chaos.nodes))
    for proxy in proxies:
        proxy.stall()
    yield Hit(f"to {len(proxies)} brokers", chaos.fleet.ids)
    for proxy in proxies:
        proxy.resume()


@asynccontextmanager
async def rebalance_storm(chaos: Chaos, random: Random) -> AsyncIterator[Hit]:
    stays_s = [random.uniform(0.2, 1.5) for _ in range(random.randint(3, 6))]
    for number, seconds in enumerate(stays_s):
        with suppress(KafkaError, TimeoutError):  # the brokers may be struck as well
            await _visit(chaos.config, f"guest-{number}", seconds)
    yield Hit(f"{len(stays_s)} guests", chaos.fleet.ids)


@asynccontextmanager
async def partitions_added(chaos: Chaos, random: Random) -> AsyncIterator[Hit | None]:
    topic, wanted = chaos.config.topics.ticks, chaos.producer.partitions + random.randint(1, 2)
    if wanted > 2 * len(chaos.fleet.workers) + MAX_ADDED_PARTITIONS:
        yield None
        return
    try:
        await asyncio.wrap_future(
            chaos.admin.create_partitions([NewPartitions(topic, wanted)])[topic]
        )
    except KafkaException:  # too few brokers, as one is struck
        yield None
        return
    await _in_sync(chaos)
    await chaos.producer.grow(wanted)
    yield Hit(f"now {wanted}")


LANES: dict[str, tuple[Fault, ...]] = {
    "workers": (
        Fault("worker killed", worker_killed, (0.0, 6.0)),
        Fault("all workers killed", all_workers_killed, (0.0, 3.0)),
        Fault("worker frozen", worker_frozen, (1.0, 9.0)),
        Fault("worker restarted", worker_restarted, (0.0, 2.0)),
        Fault("workers rolled", workers_rolled),
        Fault("engine killed", engine_killed),
        Fault("engine frozen", engine_frozen, (1.0, 6.0)),
    ),
    "brokers": (
        Fault("broker killed", broker_killed, (0.0, 6.0)),
        # Twice, as this is what doubled slots most often while offsets were read without a fence.
        Fault("group coordinator frozen", group_coordinator_frozen, (5.0, 9.0)),
        Fault("group coordinator frozen", group_coordinator_frozen, (5.0, 9.0)),
        Fault("broker frozen", broker_frozen, (5.0, 9.0)),
        Fault("broker restarted", broker_restarted, (0.0, 3.0)),
        Fault("brokers rolled", brokers_rolled),
        Fault("batch damaged", batch_damaged, (2.0, 6.0)),
    ),
    "network": (
        Fault("connections cut", connections_cut),
        Fault("connections stalled", connections_stalled, (0.5, 8.0)),
    ),
    "group": (
        Fault("rebalance storm", rebalance_storm),
        Fault("partitions added", partitions_added),
    ),
}


async def _choose_node(chaos: Chaos, random: Random) -> tuple[int, str]:
    """Return a node that matters, and why it does."""
    partition = random.randrange(chaos.producer.partitions)
    match random.randrange(3):
        case 0:
            return await _group_coordinator(chaos), GROUP_ROLE
        case 1:
            topic = random.choice(chaos.config.topics.inputs)
            if topic == chaos.config.topics.handover:
                partition = random.randrange(len(chaos.fleet.workers))
            key = f"{chaos.config.group_id}/{topic}/{partition}"
            node = await _coordinator(chaos, CoordinationType.TRANSACTION, key)
            return node, f"the transactions' of {topic}/{partition}"
        case _:
            return random.randrange(chaos.nodes), "any"


async def _group_coordinator(chaos: Chaos) -> int:
    return await _coordinator(chaos, CoordinationType.GROUP, chaos.config.group_id)


async def _coordinator(chaos: Chaos, kind: CoordinationType, key: str) -> int:
    client = AIOKafkaClient(bootstrap_servers=chaos.kafka.kafka.bootstrap_servers)
    await client.bootstrap()

    async def found() -> int:
        answer = await client.send(client.get_random_node(), FindCoordinatorRequest(key, kind))
        return int(answer.coordinator_id) if answer.error_code == 0 else -1

    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while (node := await found()) < 0:
                await asyncio.sleep(POLL_S)
            return node
    finally:
        await client.close()


async def _in_sync(chaos: Chaos) -> None:
    """Wait until every partition has all its replicas: the next broker may go then."""
    end_s = time.monotonic() + IN_SYNC_TIMEOUT_S
    while True:
        topics = (await asyncio.to_thread(chaos.admin.list_topics, timeout=ANSWER_TIMEOUT_S)).topics
        behind = {
            f"{topic.topic}/{each.id}"
            for topic in topics.values()
            for each in topic.partitions.values()
            if len(each.isrs) < len(each.replicas) or each.leader < 0
        }
        if topics and not behind:
            return
        if time.monotonic() > end_s:
            raise TimeoutError(f"replicas still not in sync: {sorted(behind)}")
        await asyncio.sleep(POLL_S)


async def _visit(config: KafkaConfig, name: str, seconds: float) -> None:
    """Be a member of the group for a moment, one that reads nothing."""
    guest = make_consumer(config, client_id=name)
    try:
        async with asyncio.timeout(seconds + ANSWER_TIMEOUT_S):
            await guest.start()
            guest.subscribe([config.topics.ticks])
            await asyncio.sleep(seconds)
    finally:
        await asyncio.wait_for(guest.stop(), ANSWER_TIMEOUT_S)
