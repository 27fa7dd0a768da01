"""Records that no well-behaved client writes, and stored batches with damage."""

from __future__ import annotations

from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.structs import RecordMetadata

from consumer.embedded_kafka.cluster import EmbeddedKafka
from tests.support.shared_kafka import SharedKafka


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


def flip_a_bit(
    kafka: EmbeddedKafka | SharedKafka, topic: str, partition: int, marker: bytes
) -> None:
    """Damage the stored batch that holds `marker`, in every replica on the brokers' disks."""
    for log in _stored_logs(kafka, topic, partition):
        content = log.read_bytes()
        at = content.index(marker)
        overwrite(log, at, bytes([content[at] ^ 1]))


def set_length(
    kafka: SharedKafka, topic: str, partition: int, marker: bytes, length: int
) -> tuple[Path, int, bytes]:
    """Overwrite the length field of the batch that holds `marker`, stored on the only node.

    Returns:
        The file, the field's place in it and what was there, for `overwrite`.
    """
    (log,) = _stored_logs(kafka, topic, partition)
    content = log.read_bytes()
    at, end = 0, 0
    while marker not in content[at:end]:
        at = end
        end = at + 12 + int.from_bytes(content[at + 8 : at + 12], "big")
    overwrite(log, at + 8, length.to_bytes(4, "big", signed=True))
    return log, at + 8, content[at + 8 : at + 12]


def overwrite(file: Path, at: int, content: bytes) -> None:
    """Write over a file's bytes from a place in it on."""
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(content)


def _stored_logs(kafka: EmbeddedKafka | SharedKafka, topic: str, partition: int) -> list[Path]:
    if isinstance(kafka, SharedKafka):
        directories = [Path(kafka.data_directory)]
    else:
        directories = [node._data_directory for node in kafka._nodes]
    found = [list((each / f"{topic}-{partition}").glob("*.log")) for each in directories]
    return [log for (log,) in found]
