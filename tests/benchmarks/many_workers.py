"""Outcomes per second of 1, 2, 4 and 8 workers whose engine does nothing, beside bare loops.

`make bench-workers`. Each worker is a process of its own, and so is each bare loop, which gives the
same guarantees by the shortest code that does: of every partition that it is assigned a batch, in
one transaction with its offset. All have joined before the first tick is written. How many cores
workers and broker keep busy meanwhile tells what stops the growth.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import OffsetAndMetadata
from rich.console import Console
from rich.table import Table

from consumer.config import KafkaConfig
from consumer.embedded_kafka.cluster import EmbeddedKafka
from consumer.kafka.clients import make_admin, make_plain_producer, make_reader
from consumer.kafka.topics import create_topics
from consumer.worker import Worker
from schemas import SlotComplete, SlotTick, outcome_json
from schemas.examples import example_events
from tests.benchmarks.outcomes_per_second import BARE_TRANSACTION, made
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import Lane, tick

PARTITIONS = 8
COUNTS = (1, 2, 4, 8)
TICKS = 4000
READY_TIMEOUT_S = 60.0
TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Measured:
    """One run of some processes."""

    per_s: float
    """Outcomes that a reader sees in a second, from the first one to the last."""
    cores: float
    """That the processes kept busy."""
    broker_cores: float


def measure(bootstrap_servers: str, broker: psutil.Process, kind: str, count: int) -> Measured:
    """Have so many processes of a kind answer all ticks.

    Args:
        bootstrap_servers: of a Kafka with one node.
        broker: that node.
        kind: `worker` or `bare`.
        count: a divisor of `PARTITIONS`.
    """
    name = uuid.uuid4().hex
    lane = Lane.of(bootstrap_servers, f"{name}.ticks", f"{name}.results", f"{name}.dead")
    asyncio.run(_make_topics(lane))
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_process(lane.config, kind, number, PARTITIONS // count))
            for number in range(count)
        ]
        # With fewer in the group, some already have their share, and lose it again.
        asyncio.run(_until_joined(lane.config, count))
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"all have joined\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", "a process has ended"
        ours = [psutil.Process(process.pid) for process in processes]
        seconds, busy_s, broker_s = asyncio.run(
            _answered(lane.config, lambda: _cpu_s(ours), lambda: _cpu_s([broker]))
        )
    return Measured(TICKS / seconds, busy_s / seconds, broker_s / seconds)


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


@contextmanager
def _process(
    config: KafkaConfig, kind: str, number: int, share: int
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", __spec__.name, kind, str(number), str(share)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(config.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        try:
            yield process
        finally:
            process.stdin.close()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


async def _make_topics(lane: Lane) -> None:
    topics = lane.config.topics
    admin = make_admin(lane.config, client_id="bench")
    counts = {topics.ticks: PARTITIONS, topics.results: PARTITIONS, topics.dead_letter: 1}
    await create_topics(admin, counts)


async def _until_joined(config: KafkaConfig, count: int) -> None:
    """Return when the group has so many members, and each has its partitions."""
    admin = make_admin(config, client_id="bench")
    await admin.start()
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                with suppress(GroupCoordinatorNotAvailableError):  # of the broker's first group
                    [response] = await admin.describe_consumer_groups([config.group_id])
                    [(_, _, state, _, _, members, *_)] = response.groups
                    if state == "Stable" and len(members) == count:
                        return
                await asyncio.sleep(0.1)
    finally:
        await admin.close()


async def _answered(
    config: KafkaConfig, cpu_s: Callable[[], float], broker_cpu_s: Callable[[], float]
) -> tuple[float, float, float]:
    """Write all ticks; return the seconds until all are answered, and those of both processors."""
    values = [
        tick(slot_id, deadline_s=3600).model_dump_json(exclude_none=True).encode()
        for slot_id in range(TICKS)
    ]
    reader = make_reader(config, config.topics.results, client_id="bench-reader")
    async with reader, make_plain_producer(config, client_id="bench") as producer:
        before, broker_before, began_s = cpu_s(), broker_cpu_s(), time.perf_counter()
        for number, value in enumerate(values):
            await producer.send(config.topics.ticks, value, partition=number % PARTITIONS)
        seen = 0
        deadline_s = began_s + TIMEOUT_S
        while seen < TICKS:
            if time.perf_counter() > deadline_s:
                sys.exit(f"{seen} of {TICKS} ticks were answered within {TIMEOUT_S:g} s")
            fetched = await reader.getmany(timeout_ms=50)
            seen += sum(len(records) for records in fetched.values())
        seconds = time.perf_counter() - began_s
        return seconds, cpu_s() - before, broker_cpu_s() - broker_before


# --- the processes --------------------------------------------------------------------------


async def _line() -> None:
    """Return when a line, or its end, comes from standard input."""
    await asyncio.to_thread(sys.stdin.buffer.readline)


async def _until_told(stop: Callable[[], None]) -> None:
    """Call `stop` when standard input ends."""
    await asyncio.to_thread(sys.stdin.buffer.read)
    stop()


async def _run_worker(config: KafkaConfig, number: int, share: int) -> None:
    engine = ScriptedEngine(default=Script(result=made()))
    worker = Worker(config, engine, worker_id=f"bench-{number}")
    running = asyncio.create_task(worker.run())
    await _line()
    async with asyncio.timeout(READY_TIMEOUT_S):
        while sum(each.claimed for each in worker._partitions.values()) != share:
            await asyncio.sleep(0.02)
    print("ready", flush=True)
    await _until_told(worker.request_stop)
    await running


async def _run_bare(config: KafkaConfig, number: int, share: int) -> None:
    topic = config.topics.ticks
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=config.bootstrap_servers,
        client_id=f"bench-{number}",
        group_id=config.group_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    producers: dict[TopicPartition, AIOKafkaProducer] = {}
    await consumer.start()
    try:
        await _line()
        async with asyncio.timeout(READY_TIMEOUT_S):
            while len(consumer.assignment()) != share:
                await asyncio.sleep(0.02)
        for at in consumer.assignment():
            producers[at] = AIOKafkaProducer(
                bootstrap_servers=config.bootstrap_servers,
                transactional_id=f"{topic}-{at.partition}",
            )
            await producers[at].start()
        print("ready", flush=True)
        looping = asyncio.create_task(_bare_loop(config, consumer, producers))
        await _until_told(looping.cancel)
        await asyncio.gather(looping, return_exceptions=True)
    finally:
        for producer in producers.values():
            await producer.stop()
        await consumer.stop()


async def _bare_loop(
    config: KafkaConfig,
    consumer: AIOKafkaConsumer,
    producers: dict[TopicPartition, AIOKafkaProducer],
) -> None:
    example = example_events()["slot-complete"]
    assert isinstance(example, SlotComplete)
    while True:
        fetched = await consumer.getmany(timeout_ms=200, max_records=BARE_TRANSACTION)
        for at, records in fetched.items():
            producer = producers[at]
            async with producer.transaction():
                deliveries = []
                for record in records:
                    asked = SlotTick.model_validate_json(record.value)
                    outcome = example.model_copy(update={"slot_id": asked.slot_id})
                    value, key = outcome_json(outcome), str(asked.slot_id).encode()
                    deliveries.append(await producer.send(config.topics.results, value, key))
                await asyncio.gather(*deliveries)
                offset = OffsetAndMetadata(records[-1].offset + 1, "")
                await producer.send_offsets_to_transaction({at: offset}, config.group_id)


RUNS = {"worker": _run_worker, "bare": _run_bare}


def main() -> None:
    table = Table("processes", "workers", "bare loops", "ratio", box=None)
    with EmbeddedKafka() as kafka:
        broker = psutil.Process(kafka._nodes[0].pid)
        for count in COUNTS:
            runs = {kind: measure(kafka.bootstrap_servers, broker, kind, count) for kind in RUNS}
            cells = [
                f"{run.per_s:.0f}/s, {run.cores:.2f} cores and the broker {run.broker_cores:.2f}"
                for run in runs.values()
            ]
            ratio = runs["worker"].per_s / runs["bare"].per_s
            table.add_row(str(count), *cells, f"{ratio:.2f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        kafka_section = KafkaConfig.model_validate_json(sys.stdin.buffer.readline())
        asyncio.run(RUNS[sys.argv[1]](kafka_section, int(sys.argv[2]), int(sys.argv[3])))
