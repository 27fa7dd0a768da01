"""Keeps the classes of a whole broker parsed, for the dozens of brokers that the tests start.

Run as `python -m tests.support.broker_archive`. Otherwise those are kept that formatting a node
needs, which costs little; a broker loads twice as many.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from consumer.embedded_kafka.cluster import EmbeddedKafka, Java, stop_nodes, wait_until_ready
from consumer.kafka.topics import create_topics

TOPIC = "archived"
USE_TIMEOUT_S = 60.0
WRITE_TIMEOUT_S = 60.0


def main() -> None:
    """Run a broker that leaves an archive of what clients made it load, unless one has before."""
    java = Java.find(print)
    whole = java.archive.with_suffix(".whole")
    with suppress(FileNotFoundError):
        if whole.stat().st_mtime_ns > java.archive.stat().st_mtime_ns:
            return
    with tempfile.TemporaryDirectory() as directory, EmbeddedKafka(progress=print) as kafka:
        archive = Path(directory) / "classes.jsa"
        kafka.stop_node(0)  # and started anew, to leave the archive when it ends
        (node,) = kafka._nodes
        node.start(java, archive_to=archive)
        wait_until_ready([node])
        asyncio.run(_use(node.address))
        stop_nodes([node], WRITE_TIMEOUT_S)
        java.keep_archive(archive)
    whole.touch()


async def _use(address: str) -> None:
    """Write in a transaction, and read as a member of a group."""
    async with asyncio.timeout(USE_TIMEOUT_S):
        await create_topics(AIOKafkaAdminClient(bootstrap_servers=address), {TOPIC: 1})
        producer = AIOKafkaProducer(bootstrap_servers=address, transactional_id=TOPIC)
        consumer = AIOKafkaConsumer(
            TOPIC,
            bootstrap_servers=address,
            group_id=TOPIC,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        async with producer, consumer:
            async with producer.transaction():
                await producer.send_and_wait(TOPIC, b"a tick")
            await consumer.getone()
            await consumer.commit()


if __name__ == "__main__":
    main()
