"""The embedded Kafka: it is a real one, survives what a cluster survives, and leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import InvalidReplicationFactorError

from consumer.embedded_kafka import cluster as embedded
from consumer.embedded_kafka.cluster import EmbeddedKafka, EmbeddedKafkaError
from consumer.embedded_kafka.local_broker import local_status, start_local, stop_local
from consumer.kafka.topics import create_topics
from tests.integration.conftest import MakeTopic
from tests.support.shared_kafka import SharedKafka

pytestmark = pytest.mark.kafka

PROCESS_END_TIMEOUT_S = 10.0


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the directory in which temporary ones are made during this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def local_directory(tmp_path: Path) -> Iterator[Path]:
    """Give a directory whose broker is stopped at the end."""
    yield tmp_path
    stop_local(tmp_path)


def admin_of(bootstrap_servers: str) -> AIOKafkaAdminClient:
    return AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)


@asynccontextmanager
async def transactional_producer(bootstrap_servers: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap_servers, transactional_id=f"tx-{uuid.uuid4().hex}"
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def read_committed(
    bootstrap_servers: str, topic: str, count: int, timeout_s: float = 15.0
) -> list[bytes]:
    """Read the first `count` committed values of the topic's partition 0, fewer if time is over."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    consumer.assign([TopicPartition(topic, 0)])
    await consumer.start()
    values: list[bytes] = []
    deadline_s = time.monotonic() + timeout_s
    try:
        while len(values) < count and time.monotonic() < deadline_s:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                values += [record.value for record in records]
    finally:
        await consumer.stop()
    return values


async def send_all(bootstrap_servers: str, topic: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, enable_idempotence=True)
    await producer.start()
    try:
        async with asyncio.timeout(30):
            for value in values:
                await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def describe(bootstrap_servers: str, topic: str) -> list[dict[str, int]]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        (description,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    partitions: list[dict[str, int]] = description["partitions"]
    return partitions


def kafka_processes(directory: Path) -> list[psutil.Process]:
    """Return the Java processes that run on settings below `directory`."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if (command := process.info["cmdline"])
        and "kafka.Kafka" in command
        and command[-1].startswith(str(directory))
    ]


def names_of(directory: Path) -> dict[str, str]:
    """Return what a data directory says of whose it is."""
    lines = (directory / "meta.properties").read_text().splitlines()
    return dict(line.split("=") for line in lines if not line.startswith("#"))


def contents_of(directory: Path) -> dict[Path, bytes]:
    """Return all else in it, by path."""
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "meta.properties"
    }


def wait_until(condition: Callable[[], bool], timeout_s: float = PROCESS_END_TIMEOUT_S) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


async def test_read_committed_sees_a_transaction_once_it_is_committed(
    kafka: SharedKafka, make_topic: MakeTopic
) -> None:
    topic = await make_topic()
    servers = kafka.bootstrap_servers
    async with transactional_producer(servers) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted")
        await producer.abort_transaction()
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"committed")
        assert await read_committed(servers, topic, 1, timeout_s=0.5) == []
        await producer.commit_transaction()
        assert await read_committed(servers, topic, 1) == [b"committed"]


async def test_topic_that_exists_is_left_as_it_is(
    kafka: SharedKafka, make_topic: MakeTopic
) -> None:
    topic = await make_topic(partitions=3)
    await create_topics(
        admin_of(kafka.bootstrap_servers),
        {topic: 1, f"{topic}.new": 2},
    )
    assert len(await describe(kafka.bootstrap_servers, topic)) == 3
    assert len(await describe(kafka.bootstrap_servers, f"{topic}.new")) == 2


async def test_topic_that_kafka_refuses_is_named(kafka: SharedKafka) -> None:
    with pytest.raises(InvalidReplicationFactorError, match="too-many-replicas"):
        await create_topics(
            admin_of(kafka.bootstrap_servers),
            {"too-many-replicas": 1},
            replication_factor=2,
        )


def test_every_port_is_bound_to_loopback(kafka: SharedKafka) -> None:
    java = psutil.Process(kafka.pid)
    listening = [each for each in java.net_connections() if each.status == psutil.CONN_LISTEN]
    assert len(listening) == 2
    assert {each.laddr.ip.removeprefix("::ffff:") for each in listening} == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nodes_share_the_classes_that_the_first_one_parsed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive, formatted = tmp_path / "classes.jsa", tmp_path / "formatted"
    java = replace(embedded.Java.find(print), archive=archive, formatted=formatted)
    if subprocess.run([java.path, "-Xshare:on", "-version"], check=False).returncode:
        pytest.skip(f"{java.path} comes without the archive on which others build")
    monkeypatch.setattr(embedded.EmbeddedKafka, "_java", java)
    written = []
    for _ in range(2):
        with EmbeddedKafka() as kafka:
            assert str(archive) in Path(f"/proc/{kafka._nodes[0].pid}/maps").read_text()
            written.append(archive.stat().st_mtime_ns)
    assert written[0] == written[1]
    assert {*tmp_path.iterdir()} == {archive, formatted}


def test_later_node_is_formatted_as_the_first_one_was_by_kafka(tmp_path: Path) -> None:
    java = replace(embedded.Java.find(print), formatted=tmp_path / "formatted")
    nodes = [embedded.Node(number, tmp_path / f"node-{number}", 1, 2) for number in range(2)]
    for node in nodes:
        node.configure(quorum=nodes)
        node.format_storage(java, "of-any-22-letters-here")
    first, second = nodes
    assert "Formatting" in first.log_path.read_text()
    assert second.log_path.read_text() == ""
    by_kafka, by_us = (node._data_directory for node in nodes)
    own = [names_of(directory) for directory in (by_kafka, by_us)]
    assert [each.pop("node.id") for each in own] == ["0", "1"]
    ids = [each.pop("directory.id") for each in own]
    assert ids[0] != ids[1]
    assert len(ids[0]) == len(ids[1])
    assert own[0] == own[1]
    assert contents_of(by_kafka) == contents_of(by_us)


@pytest.mark.slow
def test_cache_that_may_only_be_read_costs_no_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    missing = tmp_path / "file" / "missing"
    java = replace(embedded.Java.find(print), archive=missing, formatted=missing)
    monkeypatch.setattr(embedded.EmbeddedKafka, "_java", java)
    with EmbeddedKafka() as kafka:
        assert kafka._nodes[0].running


def test_stop_ends_even_a_frozen_broker_and_removes_its_directory(temporary: Path) -> None:
    messages: list[str] = []
    with EmbeddedKafka(progress=messages.append):
        (java,) = kafka_processes(temporary)
        java.suspend()
    assert not java.is_running()
    assert list(temporary.iterdir()) == []
    assert messages[-2] == "starting broker"
    assert messages[-1].startswith("ready in ")


def test_no_broker_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import sys, threading; from consumer.embedded_kafka.cluster import EmbeddedKafka\n"
        # The thread that starts the broker ends at once, the process later.
        "thread = threading.Thread(target=EmbeddedKafka().start)\n"
        "thread.start(); thread.join(); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as owner:
        try:
            assert owner.stdout
            assert owner.stdout.readline() == b"ready\n"
            time.sleep(0.5)
            assert len(kafka_processes(tmp_path)) == 1
        finally:
            owner.kill()
    assert wait_until(lambda: not kafka_processes(tmp_path))
    assert wait_until(lambda: not list(tmp_path.iterdir()))


def test_ctrl_c_in_the_terminal_does_not_reach_the_broker(kafka: SharedKafka) -> None:
    java = psutil.Process(kafka.pid)
    assert os.getpgid(java.pid) == java.pid


@pytest.mark.slow  # brokers are killed, restarted and frozen in the chaos of `make test`, too
async def test_two_of_three_nodes_accept_records_and_the_third_comes_back(
    temporary: Path,
) -> None:
    values = [str(number).encode() for number in range(20)]
    with EmbeddedKafka(nodes=3) as cluster:
        servers = cluster.bootstrap_servers
        await create_topics(
            admin_of(servers),
            {"replicated": 1},
            replication_factor=3,
            configs={"min.insync.replicas": "2"},
        )
        await send_all(servers, "replicated", values[:10])
        (partition,) = await describe(servers, "replicated")
        cluster.kill_node(partition["leader"])
        await send_all(servers, "replicated", values[10:])
        assert await read_committed(servers, "replicated", 20) == values

        async with transactional_producer(servers) as producer, producer.transaction():
            await producer.send_and_wait("replicated", b"in a transaction")
        assert (await read_committed(servers, "replicated", 21))[-1] == b"in a transaction"

        cluster.restart_node(partition["leader"])
        returned = servers.split(",")[partition["leader"]]
        assert await read_committed(returned, "replicated", 21) == [*values, b"in a transaction"]
        assert len(kafka_processes(temporary)) == 3
        cluster.stop_node((partition["leader"] + 1) % 3)
        await send_all(servers, "replicated", [b"with the returned one"])
    assert not kafka_processes(temporary)


@pytest.mark.slow
def test_port_taken_between_choice_and_start_is_replaced_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose = embedded.free_ports
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken_port = taken.getsockname()[1]
        choices = iter([[taken_port, *choose(1)]])
        monkeypatch.setattr(
            embedded, "free_ports", lambda count: next(choices, None) or choose(count)
        )
        with EmbeddedKafka() as kafka:
            assert kafka.bootstrap_servers != f"127.0.0.1:{taken_port}"


def test_failed_start_says_why_in_one_line_and_where_the_log_is(tmp_path: Path) -> None:
    data = tmp_path / "node-0" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=other\n")
    with pytest.raises(EmbeddedKafkaError) as raised:
        EmbeddedKafka(directory=tmp_path).start()
    message = str(raised.value)
    assert message.startswith("Kafka node 0 ended while it started: ")
    assert "Stored node id 7" in message
    assert message.endswith(f"(log: {tmp_path / 'node-0' / 'server.log'})")
    assert "\n" not in message
    assert not kafka_processes(tmp_path)


def test_given_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedKafkaError, match=f"port {port} .*Address already in use"):
            EmbeddedKafka(port=port).start()


async def test_local_broker_outlives_its_starter_and_keeps_its_data(local_directory: Path) -> None:
    (port,) = embedded.free_ports(1)
    script = (
        "import sys; from pathlib import Path\n"
        "from consumer.embedded_kafka.local_broker import start_local\n"
        "print(start_local(Path(sys.argv[1]), int(sys.argv[2])).pid)"
    )
    command = [sys.executable, "-c", script, str(local_directory), str(port)]
    starter = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=True
    )
    broker = local_status(local_directory)
    assert broker is not None
    assert broker.pid == int(starter.stdout)
    assert broker.bootstrap_servers == f"127.0.0.1:{port}"
    assert start_local(local_directory, port) == broker  # idempotent
    other = port % 65_535 + 1
    with pytest.raises(EmbeddedKafkaError, match=rf"--port {other}: .* runs already, at .*:{port}"):
        start_local(local_directory, other)

    await create_topics(admin_of(broker.bootstrap_servers), {"kept": 1})
    await send_all(broker.bootstrap_servers, "kept", [b"value"])
    assert stop_local(local_directory)
    assert not kafka_processes(local_directory)
    assert local_status(local_directory) is None
    assert not stop_local(local_directory)

    again = await asyncio.to_thread(start_local, local_directory, port)
    assert again.pid != broker.pid
    assert await read_committed(again.bootstrap_servers, "kept", 1) == [b"value"]


def test_process_that_has_taken_the_broker_s_id_is_neither_believed_nor_stopped(
    tmp_path: Path,
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as innocent:
        state = {
            "pid": innocent.pid,
            "started_at_s": psutil.Process(innocent.pid).create_time() - 3600,
            "bootstrap_servers": "127.0.0.1:9092",
            "log_path": "server.log",
        }
        (tmp_path / "broker.json").write_text(json.dumps(state))
        assert local_status(tmp_path) is None
        assert not stop_local(tmp_path)
        assert innocent.poll() is None
        innocent.communicate(b"\n", timeout=10)


@pytest.mark.parametrize("state", ["", "{}", "[1]", '{"pid": 1}'])
def test_unreadable_state_is_no_broker(state: str, tmp_path: Path) -> None:
    (tmp_path / "broker.json").write_text(state)
    assert local_status(tmp_path) is None
