"""A Kafka broker that outlives the command that started it, for `vortex kafka start|stop|status`.

It keeps its data. What is known of it stands in a file in its directory, and is believed only while
the process that it names is the very one that was started: process ids are used again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from consumer.embedded_kafka.cluster import (
    STOP_TIMEOUT_S,
    Java,
    Node,
    free_ports,
    require_free_port,
    start_nodes,
)
from consumer.embedded_kafka.jars import EmbeddedKafkaError, require_packages

if TYPE_CHECKING:
    import psutil  # type: ignore[import-untyped] # it publishes no types

DEFAULT_PORT = 9092
_LOCK_TIMEOUT_S = 120.0
_START_TIME_TOLERANCE_S = 2.0
"""How far apart two readings of one process's start time may be, the wall clock being adjusted."""


@dataclass(frozen=True)
class LocalBroker:
    """A running broker: process, address, and the file that holds its output.

    `started_at_s` is the start of the process in seconds since the epoch.
    """

    pid: int
    started_at_s: float
    bootstrap_servers: str
    log_path: str


def start_local(
    directory: Path, port: int | None = None, progress: Callable[[str], None] = lambda _: None
) -> LocalBroker:
    """Start a broker on the loopback `port` with its data below `directory`, or find it running.

    Blocks until the broker answers. One that runs already is returned as it is.
    Without a `port` that is 9092, or whichever the running one has.

    Raises:
        EmbeddedKafkaError: the broker cannot be started, for instance since the port is taken, or
            since one runs already at another port than the one asked for.
    """
    require_packages("filelock", "psutil")
    from filelock import FileLock, Timeout

    directory = directory.resolve()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / "lock", timeout=_LOCK_TIMEOUT_S):
            running = local_status(directory)
            if running is None:
                return _start(directory, port or DEFAULT_PORT, progress)
            if port is not None and not running.bootstrap_servers.endswith(f":{port}"):
                raise EmbeddedKafkaError(
                    f"--port {port}: the broker of {directory} runs already, at"
                    f" {running.bootstrap_servers}; stop it first with `vortex kafka stop`, or give"
                    " another --directory"
                )
            return running
    except Timeout as error:
        raise EmbeddedKafkaError(f"another process is starting Kafka in {directory}") from error
    except OSError as error:
        raise EmbeddedKafkaError(f"cannot run Kafka in {directory}: {error}") from error


def stop_local(directory: Path) -> bool:
    """End the broker of `directory`, by force if it lingers, and return whether one was running.

    Its data stays for the next start.
    """
    broker = local_status(directory)
    if broker is None:
        return False
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(broker.pid)
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
    _state_path(directory).unlink(missing_ok=True)
    return True


def local_status(directory: Path) -> LocalBroker | None:
    """Return the broker of `directory` if it runs."""
    try:
        broker = LocalBroker(**json.loads(_state_path(directory).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None
    process = _running_process(broker.pid)
    if process is None:
        return None
    drift_s = abs(process.create_time() - broker.started_at_s)
    return broker if drift_s <= _START_TIME_TOLERANCE_S else None


def _start(directory: Path, port: int, progress: Callable[[str], None]) -> LocalBroker:
    import psutil

    java = Java.find(progress)
    require_free_port(port)
    (controller_port,) = free_ports(1)
    node = Node(0, directory / "node-0", port, controller_port)
    try:
        start_nodes([node], java, progress)
        broker = LocalBroker(
            pid=node.pid,
            started_at_s=psutil.Process(node.pid).create_time(),
            bootstrap_servers=node.address,
            log_path=str(node.log_path),
        )
        _state_path(directory).write_text(json.dumps(asdict(broker)), encoding="utf-8")
    except BaseException:
        node.kill()
        raise
    node.detach()
    return broker


def _running_process(pid: int) -> psutil.Process | None:
    require_packages("psutil")
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


def _state_path(directory: Path) -> Path:
    return directory / "broker.json"
