"""Outcomes per second with an engine that does nothing, beside a bare aiokafka loop.

The bare loop gives the same guarantees, outcome and offset in one transaction, by the shortest
code that does: poll, begin, send, send the offsets, commit. It parses each tick and writes an
outcome of the same size, with as many ticks in a transaction as `kafka.queue_limit` was when the
bound was set; how fast it is with all that it can fetch in one is measured too. Each runs in
a process of its own, so that none takes the others' time.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from consumer.config import KafkaConfig
from consumer.embedded_kafka.cluster import EmbeddedKafka
from consumer.engine.base import SlotMade
from consumer.kafka.clients import make_admin, make_plain_producer, make_reader
from consumer.kafka.topics import create_topics
from consumer.worker import Worker
from schemas import SlotComplete, SlotTick, outcome_json
from schemas.examples import example_events
from tests.benchmarks.side_by_side import Comparison
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import Lane, tick

TICKS = 4000
ROUNDS = 5
BARE_TRANSACTION = 64
TIMEOUT_S = 120.0


def measure_throughput() -> tuple[Comparison, Comparison]:
    """Compare outcomes per second over one partition, the ticks waiting there already.

    Returns:
        The worker beside the bare loop with small transactions, and with large ones.
    """
    bounded, unbounded = [], []
    with EmbeddedKafka() as kafka:
        for _ in range(ROUNDS):
            ours, bare, greedy = (
                _outcomes_per_second(kafka.bootstrap_servers, kind) for kind in RUNS
            )
            bounded.append((ours, bare))
            unbounded.append((ours, greedy))
    return Comparison(tuple(bounded)), Comparison(tuple(unbounded))


def _outcomes_per_second(bootstrap_servers: str, kind: str) -> float:
    name = uuid.uuid4().hex
    lane = Lane.of(bootstrap_servers, f"{name}.ticks", f"{name}.results", f"{name}.dead")
    asyncio.run(_prepare(lane))
    command = [sys.executable, "-m", __spec__.name, kind]
    done = subprocess.run(
        command,
        input=lane.config.model_dump_json().encode(),
        stdout=subprocess.PIPE,
        timeout=TIMEOUT_S,
        check=True,
    )
    return float(done.stdout)


async def _prepare(lane: Lane) -> None:
    topics = lane.config.topics
    admin = make_admin(lane.config, client_id="bench")
    await create_topics(admin, {topics.ticks: 1, topics.results: 1, topics.dead_letter: 1})
    producer = make_plain_producer(lane.config, client_id="bench")
    await producer.start()
    for slot_id in range(TICKS):
        value = tick(slot_id, deadline_s=3600).model_dump_json(exclude_none=True).encode()
        await producer.send(topics.ticks, value, key=str(slot_id).encode())
    await producer.stop()


async def _run_worker(config: KafkaConfig) -> float:
    engine = ScriptedEngine(default=Script(result=made()))
    worker = Worker(config, engine, worker_id="bench")
    running = asyncio.create_task(worker.run())
    rate = await _rate(config)
    worker.request_stop()
    await running
    return rate


def made() -> SlotMade:
    """Return what a slot that was made consists of, as large as a real one."""
    example = example_events()["slot-complete"]
    assert isinstance(example, SlotComplete)
    return SlotMade(
        artifact=example.artifact,
        verification=example.verification,
        quality=example.quality,
        seed=example.seed,
        models=example.models,
        times_ms={},
    )


async def _run_bare(config: KafkaConfig) -> float:
    return await _run_loop(config, max_records=BARE_TRANSACTION)


async def _run_greedy(config: KafkaConfig) -> float:
    return await _run_loop(config, max_records=None)


async def _run_loop(config: KafkaConfig, max_records: int | None) -> float:
    looping = asyncio.create_task(_bare_loop(config, max_records))
    rate = await _rate(config)
    looping.cancel()
    await asyncio.gather(looping, return_exceptions=True)
    return rate


async def _bare_loop(config: KafkaConfig, max_records: int | None) -> None:
    at = TopicPartition(config.topics.ticks, 0)
    producer = AIOKafkaProducer(
        bootstrap_servers=config.bootstrap_servers, transactional_id=f"{at.topic}-0"
    )
    consumer = AIOKafkaConsumer(
        at.topic,
        bootstrap_servers=config.bootstrap_servers,
        group_id=config.group_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    example = example_events()["slot-complete"]
    await consumer.start()
    await producer.start()
    try:
        while True:
            fetched = await consumer.getmany(timeout_ms=200, max_records=max_records)
            for records in fetched.values():
                async with producer.transaction():
                    deliveries = []
                    for record in records:
                        asked = SlotTick.model_validate_json(record.value)
                        outcome = example.model_copy(update={"slot_id": asked.slot_id})
                        deliveries.append(
                            await producer.send(
                                config.topics.results,
                                outcome_json(outcome),  # type: ignore[arg-type]
                                str(asked.slot_id).encode(),
                            )
                        )
                    await asyncio.gather(*deliveries)
                    await producer.send_offsets_to_transaction(
                        {at: OffsetAndMetadata(records[-1].offset + 1, "")}, config.group_id
                    )
    finally:
        await producer.stop()
        await consumer.stop()


async def _rate(config: KafkaConfig) -> float:
    """Return outcomes per second that a reader sees, from those that come first to the last."""
    reader = make_reader(config, config.topics.results, client_id="bench-reader")
    await reader.start()
    seen, first, started_s = 0, 0, 0.0
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while seen < TICKS:
                fetched = await reader.getmany(timeout_ms=50)
                if fetched and not seen:
                    first = sum(len(records) for records in fetched.values())
                    started_s = time.perf_counter()
                seen += sum(len(records) for records in fetched.values())
    finally:
        await reader.stop()
    return (TICKS - first) / (time.perf_counter() - started_s)


RUNS = {"worker": _run_worker, "bare": _run_bare, "greedy": _run_greedy}

if __name__ == "__main__":
    kafka_section = KafkaConfig.model_validate_json(sys.stdin.buffer.read())
    sys.stdout.write(f"{asyncio.run(RUNS[sys.argv[1]](kafka_section))}\n")
