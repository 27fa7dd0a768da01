"""Records that no well-behaved client writes, and stored batches with damage."""

from __future__ import annotations

from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.structs import RecordMetadata

from consumer.embedded_kafka.cluster import EmbeddedKafka


class _Name(str):
    """A header's name of any bytes."""

    raw: bytes

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return self.raw


async def emit_with_header_name(
    bootstrap_servers: str, topic: str, partition: int, name: bytes, value: bytes
) -> RecordMetadata:
    """Write three records in one batch, the middle one with a header of this name.

    Returns:
        Where the first of the three is.
    """
    header = _Name()
    header.raw = name
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    await producer.start()
    try:
        batch = producer.create_batch()
        # aiokafka's fast writer refuses such names; other clients do not.
        batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, 16384)
        for headers in ([], [("before", b"1"), (header, b"x"), ("after", b"2")], []):
            batch.append(key=b"k", value=value, timestamp=None, headers=headers)
        sent = await producer.send_batch(batch, topic, partition=partition)
        return await sent
    finally:
        await producer.stop()


def flip_a_bit(kafka: EmbeddedKafka, topic: str, partition: int, marker: bytes) -> None:
    """Damage the stored batch that holds `marker`, in every replica on the brokers' disks."""
    for node in kafka._nodes:
        (log,) = Path(node._data_directory, f"{topic}-{partition}").glob("*.log")
        content = log.read_bytes()
        at = content.index(marker)
        with log.open("r+b") as file:
            file.seek(at)
            file.write(bytes([content[at] ^ 1]))
