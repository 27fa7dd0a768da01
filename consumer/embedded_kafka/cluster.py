"""A real Apache Kafka on loopback, for the demo and the tests.

Each node is a Java process, broker and KRaft controller in one. No node outlives the Python process
that started it, however that one ends.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from consumer.embedded_kafka.jars import (
    EmbeddedKafkaError,
    cache_directory,
    class_path,
    find_java,
)

__all__ = ["EmbeddedKafka", "EmbeddedKafkaError"]

HOST = "127.0.0.1"
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0

_FORMAT_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 5.0
_POLL_S = 0.05
_START_ATTEMPTS = 3
_PORT_IN_USE = "Address already in use"
_META_PROPERTIES = "meta.properties"  # whose a formatted directory is: the node's and its cluster's

_JVM_FLAGS = (
    "-Xms64m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
    # All its settings, again and again: over half of the log. Ours are in server.properties.
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)

# What a start of its own process watches over: the parent's end, however it comes. A signal on
# parent death (Linux only) would come too early, when the *thread* that started the node ends.
_GUARD = """
import os, pathlib, shutil, signal, sys, time
parent, directory, temporary = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3] == "True"
while os.getppid() == parent:
    time.sleep(0.2)
for pid_file in directory.glob("node-*/pid"):
    try:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
    except (OSError, ValueError):
        pass
if temporary:
    time.sleep(0.2)
    shutil.rmtree(directory, ignore_errors=True)
"""

Settings = Mapping[str, object]
"""A broker's settings by name."""

_EXCEPTION_LINE = re.compile(r"^(?:Caused by: )?(?P<cause>[\w.$]+(?:Exception|Error): .+)")


@dataclass(frozen=True)
class Security:
    """What every node of a cluster has in addition to its open listener."""

    listeners: Mapping[str, str] = field(default_factory=dict)
    """Name of a listener, in capitals, to its security protocol."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Further lines of `server.properties`."""
    scram_users: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Users of SCRAM-SHA-512 to their passwords; both without commas and brackets."""


OPEN = Security()
"""Whoever reaches the loopback interface may do anything."""


@dataclass(frozen=True)
class Java:
    """How Kafka's main classes are run."""

    path: Path
    class_path: str
    archive: Path
    """Where classes lie parsed, once a node was formatted: later ones start in half the time."""
    formatted: Path
    """A directory with what formatting leaves and any node may have; later ones are given it."""

    @classmethod
    def find(cls, progress: Callable[[str], None]) -> Self:
        """Return it, having fetched what is missing.

        Raises:
            EmbeddedKafkaError: Java or the artifacts cannot be had.
        """
        path, directory = find_java(), cache_directory()
        jars = class_path(directory, progress)
        # A JVM takes an archive of its own making alone, for the class path that it was made with.
        made_by = f"{path.resolve()} {path.stat().st_mtime_ns} {jars}"
        digest = hashlib.sha256(made_by.encode()).hexdigest()
        return cls(
            path,
            jars,
            archive=directory / f"classes-{digest[:12]}.jsa",
            formatted=directory / f"formatted-{digest[:12]}",
        )

    def keep_archive(self, archive: Path) -> None:
        """Use an archive that Java has made, in this process and in later ones."""
        partial = self.archive.with_name(f"{self.archive.name}.{uuid.uuid4().hex}")
        with suppress(OSError):  # a cache that may only be read costs no more than time
            shutil.move(archive, partial)
            partial.replace(self.archive)

    def keep_formatted(self, data_directory: Path) -> None:
        """Use what formatting has left in a data directory, in this process and in later ones."""
        partial = self.formatted.with_name(f"{self.formatted.name}.{uuid.uuid4().hex}")
        of_its_own = shutil.ignore_patterns(_META_PROPERTIES)
        with suppress(OSError):
            shutil.copytree(data_directory, partial, ignore=of_its_own)
            partial.rename(self.formatted)
        shutil.rmtree(partial, ignore_errors=True)  # where another process was first

    def command(self, *arguments: str | Path, archive_to: Path | None = None) -> list[str | Path]:
        """Return how to run a main class; with `archive_to` the JVM leaves an archive there."""
        flags = [*_JVM_FLAGS]
        if archive_to is not None:
            flags.append(f"-XX:ArchiveClassesAtExit={archive_to}")
        elif self.archive.exists():
            flags.append(f"-XX:SharedArchiveFile={self.archive}")
        return [self.path, *flags, "-cp", self.class_path, *arguments]


class Node:
    """One broker and controller: its directory, its ports and, while it runs, its process.

    `directory` holds the settings, the log file `server.log` and the data.
    """

    def __init__(
        self,
        node_id: int,
        directory: Path,
        port: int,
        controller_port: int,
        security: Security = OPEN,
    ) -> None:
        self.node_id = node_id
        self.security = security
        ports = free_ports(len(security.listeners))
        self.secured = {
            name: f"{HOST}:{each}" for name, each in zip(security.listeners, ports, strict=True)
        }
        """The address of each listener of `security`."""
        self.directory = directory
        self.address = f"{HOST}:{port}"
        self.controller_address = f"{HOST}:{controller_port}"
        self.log_path = directory / "server.log"
        self.settings_path = directory / "server.properties"
        self._data_directory = directory / "data"
        self._pid_path = directory / "pid"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the process; `EmbeddedKafkaError` if there is none."""
        if self._process is None:
            raise self.error("is not running")
        return self._process.pid

    def configure(self, quorum: Sequence[Node], extra: Settings | None = None) -> None:
        """Write the settings of this node as a member of `quorum`, and begin a new log.

        Settings in `extra` replace ours.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log_path.write_bytes(b"")
        replicas = min(3, len(quorum))
        voters = ",".join(f"{node.node_id}@{node.controller_address}" for node in quorum)
        addresses = {"CLIENT": self.address, **self.secured}
        clients = ",".join(f"{name}://{address}" for name, address in addresses.items())
        protocols = ",".join(
            f"{name}:{self.security.listeners.get(name, 'PLAINTEXT')}" for name in addresses
        )
        settings = {
            "process.roles": "broker,controller",
            "node.id": self.node_id,
            "controller.quorum.voters": voters,
            "listeners": f"{clients},CONTROLLER://{self.controller_address}",
            "advertised.listeners": clients,
            "listener.security.protocol.map": f"{protocols},CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self._data_directory,
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": (replicas + 1) // 2,
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.num.partitions": 4,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": (replicas + 1) // 2,
            "group.initial.rebalance.delay.ms": 0,
            # Failures are noticed within seconds rather than tens of seconds.
            "broker.session.timeout.ms": 4000,
            "broker.heartbeat.interval.ms": 500,
            "group.min.session.timeout.ms": 1000,
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
            "metric.reporters": "",  # nobody looks at JMX here
            "metadata.max.idle.interval.ms": 0,  # no record twice a second while nothing changes
            # The default reserves a third of our heap.
            "log.cleaner.dedupe.buffer.size": 2 * 1024 * 1024,
            **self.security.settings,
            **(extra or {}),
        }
        self.settings_path.write_text(_properties(settings), encoding="utf-8")

    def format_storage(self, java: Java, cluster_id: str) -> None:
        """Prepare the data directory, unless an earlier run did.

        Java does so once, which takes as long as half of a broker's start, and later nodes are
        given what it left. Of their settings, only users of SCRAM are part of that.

        Raises:
            EmbeddedKafkaError: the directory cannot be prepared.
        """
        if (self._data_directory / _META_PROPERTIES).exists():
            return
        if self.security.scram_users:
            self._format(java, cluster_id)
        elif java.formatted.exists():
            self._copy_formatted(java, cluster_id)
        else:
            self._format(java, cluster_id)
            java.keep_formatted(self._data_directory)

    def _copy_formatted(self, java: Java, cluster_id: str) -> None:
        """Prepare the data directory as another node's was, under our own names."""
        shutil.copytree(java.formatted, self._data_directory, dirs_exist_ok=True)
        names = {
            "version": 1,
            "cluster.id": cluster_id,
            "node.id": self.node_id,
            "directory.id": random_id(),
        }
        path = self._data_directory / _META_PROPERTIES
        path.write_text(_properties(names), encoding="utf-8")

    def _format(self, java: Java, cluster_id: str) -> None:
        """Have Java format the data directory, and make its archive if there is none."""
        # The equals sign, since an id may begin with a dash.
        tool = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}")
        users = [
            f"--add-scram=SCRAM-SHA-512=[name={name},password={password}]"
            for name, password in self.security.scram_users.items()
        ]
        # In our own directory at first: others may read the archive while it is written.
        archive = None if java.archive.exists() else self.directory / java.archive.name
        try:
            with self.log_path.open("ab") as log:
                subprocess.run(  # noqa: S603 # our own command, no shell
                    java.command(*tool, *users, "--config", self.settings_path, archive_to=archive),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    timeout=_FORMAT_TIMEOUT_S,
                    check=True,
                )
        except subprocess.SubprocessError as error:
            raise self.error("cannot format its storage") from error
        if archive is not None and archive.exists():  # some Javas cannot make one
            java.keep_archive(archive)

    def start(self, java: Java, archive_to: Path | None = None) -> None:
        """Start the process in a session of its own, so that Ctrl-C in a terminal spares it.

        With `archive_to` it leaves an archive of its classes there when it ends in good order.
        """
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 # our own command, no shell
                # Native libraries are unpacked where a killed process leaves nothing behind.
                java.command(
                    f"-Djava.io.tmpdir={self.directory}",
                    "kafka.Kafka",
                    self.settings_path,
                    archive_to=archive_to,
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pid_path.write_text(str(self._process.pid), encoding="utf-8")

    def detach(self) -> None:
        """Leave the process to itself."""
        if self._process is not None:
            self._process.returncode = 0  # so that Popen does not warn that nobody waits for it
            self._process = None

    def terminate(self) -> None:
        """Ask the process to end."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End the process with SIGKILL and wait for that."""
        if self._process is not None:
            self._process.kill()
            self.wait(STOP_TIMEOUT_S)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the process, and return whether it came in time."""
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
            self._process = None
            self._pid_path.unlink(missing_ok=True)
        return True

    def error(self, problem: str) -> EmbeddedKafkaError:
        """Return an error with the log's telling line, which says where to read more."""
        return EmbeddedKafkaError(
            f"Kafka node {self.node_id} {problem}: {_telling_line(self.log_path)}"
            f" (log: {self.log_path})"
        )


class EmbeddedKafka:
    """A Kafka cluster of `nodes` nodes on free loopback ports; a context manager.

    Without a `directory` a temporary one is used, which is removed at the end (kept, for its logs,
    when the start fails). A given directory is kept with its data, which the next start finds
    again. `port` is the first node's, the next ones follow it. `progress` is told, in words, what
    is going on. `security` adds listeners to the open one; `settings` returns further broker
    settings of a node, which replace ours. All methods block; call them from a thread where an
    event loop must go on.
    """

    def __init__(
        self,
        nodes: int = 1,
        directory: Path | None = None,
        progress: Callable[[str], None] | None = None,
        port: int | None = None,
        security: Security = OPEN,
        settings: Callable[[Node], Settings] | None = None,
    ) -> None:
        if nodes < 1:
            raise ValueError(f"nodes must be at least 1, not {nodes}")
        self._node_count = nodes
        self._directory = directory
        self._temporary = directory is None
        self._progress = progress or (lambda _: None)
        self._port = port
        self._security = security
        self._settings = settings
        self._nodes: list[Node] = []
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Every node's address, separated by commas, whether it runs or not."""
        if not self._nodes:
            raise EmbeddedKafkaError("the embedded Kafka has not been started")
        return ",".join(node.address for node in self._nodes)

    def secured(self, listener: str) -> str:
        """Return every node's address of a listener of `security`, separated by commas."""
        return ",".join(node.secured[listener] for node in self._nodes)

    def start(self) -> None:
        """Start all nodes and wait until each of them answers a client.

        Raises:
            EmbeddedKafkaError: Java or the artifacts cannot be had, or a node does not start.
        """
        if self._nodes:
            raise EmbeddedKafkaError("the embedded Kafka has been started already")
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                self._start_nodes()
                break
            except EmbeddedKafkaError as error:
                # A free port may be taken between our look and the broker's.
                if attempt == _START_ATTEMPTS or self._port or _PORT_IN_USE not in str(error):
                    raise

    def stop(self) -> None:
        """End every process and remove the temporary directory; do nothing if not started."""
        self._end_processes()
        if self._temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill_node(self, index: int) -> None:
        """End a node with SIGKILL, as a crash does; `index` is its id, from 0."""
        self._nodes[index].kill()

    def stop_node(self, index: int) -> None:
        """End a node in good order, which hands its leadership over; by force after a while."""
        stop_nodes([self._nodes[index]], STOP_TIMEOUT_S)

    def restart_node(self, index: int) -> None:
        """Start a node that was killed or stopped, with its data, and wait until it answers.

        Raises:
            EmbeddedKafkaError: the node does not start.
            ValueError: it runs.
        """
        node = self._nodes[index]
        if node.running:
            raise ValueError(f"Kafka node {index} is running")
        node.start(self._java)
        wait_until_ready([node])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @cached_property
    def _java(self) -> Java:
        return Java.find(self._progress)

    def _start_nodes(self) -> None:
        java = self._java  # before a directory is made
        client_ports, controller_ports = _choose_ports(self._node_count, self._port)
        directory = self._directory or Path(tempfile.mkdtemp(prefix="vortex-kafka-"))
        self._directory = directory
        self._nodes = [
            Node(index, directory / f"node-{index}", port, controller_port, self._security)
            for index, (port, controller_port) in enumerate(
                zip(client_ports, controller_ports, strict=True)
            )
        ]
        for stale in directory.glob("node-*/pid"):
            stale.unlink()  # of a run that was killed; the guard must not take it for ours
        atexit.register(self.stop)
        try:
            self._guard = _start_guard(directory, temporary=self._temporary)
            start_nodes(self._nodes, java, self._progress, self._settings)
        except BaseException:
            self._end_processes()
            raise

    def _end_processes(self) -> None:
        atexit.unregister(self.stop)
        if self._temporary:  # their data is thrown away
            for node in self._nodes:
                node.kill()
        else:
            stop_nodes(self._nodes, STOP_TIMEOUT_S)
        self._nodes = []
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            self._guard = None


def start_nodes(
    nodes: Sequence[Node],
    java: Java,
    progress: Callable[[str], None],
    settings: Callable[[Node], Settings] | None = None,
) -> None:
    """Configure, format and start `nodes` as one cluster, and wait until all of them answer.

    Raises:
        EmbeddedKafkaError: a node does not start.
    """
    started_s = time.monotonic()
    progress("starting broker" if len(nodes) == 1 else f"starting {len(nodes)} brokers")
    cluster_id = random_id()
    for node in nodes:
        node.configure(quorum=nodes, extra=settings(node) if settings else None)
    with ThreadPoolExecutor(len(nodes)) as pool:
        for formatted in [pool.submit(node.format_storage, java, cluster_id) for node in nodes]:
            formatted.result()
    for node in nodes:
        node.start(java)
    wait_until_ready(nodes)
    progress(f"ready in {time.monotonic() - started_s:.1f} s")


def stop_nodes(nodes: Sequence[Node], timeout_s: float) -> None:
    """End `nodes`: all are asked at once, and those still there after `timeout_s` are killed."""
    for node in nodes:
        node.terminate()
    deadline_s = time.monotonic() + timeout_s
    for node in nodes:
        if not node.wait(max(0.0, deadline_s - time.monotonic())):
            node.kill()


def wait_until_ready(nodes: Sequence[Node], timeout_s: float = READY_TIMEOUT_S) -> None:
    """Wait until each of `nodes` tells a client that all of them are in the cluster.

    Raises:
        EmbeddedKafkaError: a node ends, or the time is over.
    """
    ids = {node.node_id for node in nodes}
    deadline_s = time.monotonic() + timeout_s
    # In a thread of its own, since ours may have an event loop.
    with ThreadPoolExecutor(1) as pool:
        for node in nodes:
            while True:
                if not node.running:
                    raise node.error("ended while it started")
                # Knocking first keeps aiokafka from logging every refused connection.
                if _accepts(node.address):
                    known = pool.submit(asyncio.run, _known_brokers(node.address)).result()
                    if ids <= known:
                        break
                if time.monotonic() > deadline_s:
                    raise node.error(f"is not ready after {timeout_s:.0f} s")
                time.sleep(_POLL_S)


def random_id() -> str:
    """Return an id as Kafka writes them."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


def require_free_port(port: int) -> None:
    """Raise `EmbeddedKafkaError` if something listens on the loopback port `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise EmbeddedKafkaError(
                f"port {port} on {HOST} cannot be used: {error.strerror}; choose another one"
            ) from error


def free_ports(count: int) -> list[int]:
    """Return `count` different loopback ports on which nothing listens."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _properties(values: Settings) -> str:
    return "".join(f"{key}={value}\n" for key, value in values.items())


def _choose_ports(nodes: int, first_port: int | None) -> tuple[list[int], list[int]]:
    """Return the nodes' ports for clients and for controllers."""
    if first_port is None:
        ports = free_ports(2 * nodes)
        return ports[:nodes], ports[nodes:]
    client_ports = list(range(first_port, first_port + nodes))
    for port in client_ports:
        require_free_port(port)
    return client_ports, free_ports(nodes)


def _start_guard(directory: Path, *, temporary: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 # our own command, no shell
        [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), directory, str(temporary)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _accepts(address: str) -> bool:
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0):
            return True
    except OSError:
        return False


async def _known_brokers(address: str) -> set[int]:
    """Return the ids of the brokers that the one at `address` knows, none if it does not answer."""
    admin = AIOKafkaAdminClient(
        bootstrap_servers=address, request_timeout_ms=round(_ANSWER_TIMEOUT_S * 1000)
    )
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            await admin.start()
            cluster = await admin.describe_cluster()
    except (KafkaError, TimeoutError):
        return set()
    finally:
        await admin.close()
    return {broker["node_id"] for broker in cluster["brokers"]}


def _telling_line(log: Path) -> str:
    """Return the last exception of the log, which is its root cause, else its last line."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    causes = [match["cause"] for match in map(_EXCEPTION_LINE.match, lines) if match]
    return next(filter(None, reversed(causes or lines)), "no output")
