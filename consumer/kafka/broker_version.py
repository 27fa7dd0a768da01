"""Which brokers are too old for exactly-once."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka.client import AIOKafkaClient

MIN_BROKER = "4.0"
"""From here on a group coordinator applies transactional offsets in the order of its log. Before,
it did so some time after the marker: a claim could read an offset that was committed already."""

# A broker does not tell its version, but which versions of each request it knows. This one came
# with transactions of version 2 (KIP-890) in 4.0; brokers of 3.9 know it up to 4.
_END_TXN = 26
_MIN_END_TXN_VERSION = 5


def is_too_old(versions: Mapping[int, tuple[int, int]]) -> bool:
    """Whether a broker that knows these versions, lowest and highest of each request, is too old.

    Args:
        versions: by the number (API key) of the request.
    """
    _, highest = versions.get(_END_TXN, (0, -1))
    return highest < _MIN_END_TXN_VERSION


async def find_too_old(client: AIOKafkaClient) -> list[str]:
    """Return the addresses of the brokers that answer and are too old."""
    found = []
    for broker in client.cluster.brokers():
        connection = await client._get_conn(broker.nodeId)
        if connection is not None and is_too_old(connection._versions):
            found.append(f"{broker.host}:{broker.port}")
    return sorted(found)
