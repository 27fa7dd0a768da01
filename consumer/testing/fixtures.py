"""The fake worker and its broker as fixtures of pytest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from consumer.config import TopicsConfig
from consumer.embedded_kafka.cluster import EmbeddedKafka, EmbeddedKafkaError
from consumer.testing.worker import FakeWorker, fresh_topics


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the address of a broker that runs."""
    parser.getgroup("vortex").addoption(
        "--vortex-kafka",
        metavar="HOST:PORT",
        help="a broker for the fake worker; by default one is started, with Java of its own",
    )


@pytest.fixture(scope="session")
def vortex_kafka(pytestconfig: pytest.Config) -> Iterator[str]:
    """Give the address of a broker: that of `--vortex-kafka`, else of one for this session."""
    if address := pytestconfig.getoption("--vortex-kafka", default=None):
        yield str(address)
        return
    kafka = EmbeddedKafka()
    try:
        kafka.start()
    except EmbeddedKafkaError as error:
        pytest.fail(str(error), pytrace=False)
    try:
        yield kafka.bootstrap_servers
    finally:
        kafka.stop()


@pytest.fixture
def vortex_topics(pytestconfig: pytest.Config, vortex_kafka: str) -> Iterator[TopicsConfig]:
    """Give names of topics that no other test uses; override it where the names are fixed."""
    topics = fresh_topics()
    yield topics
    if pytestconfig.getoption("--vortex-kafka", default=None):  # else they go with the broker
        asyncio.run(_delete(vortex_kafka, topics))


@pytest.fixture
def vortex_worker(vortex_kafka: str, vortex_topics: TopicsConfig) -> Iterator[FakeWorker]:
    """Give a worker that answers every tick with slot-complete, unless it is told otherwise."""
    with FakeWorker(vortex_kafka, vortex_topics) as worker:
        yield worker


async def _delete(bootstrap_servers: str, topics: TopicsConfig) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        await admin.start()
        await admin.delete_topics([name for name in topics.model_dump().values() if name])
    finally:
        await admin.close()
