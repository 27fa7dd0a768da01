"""One Kafka for all processes of a test run: a JVM of each one's own would warm up four times.

Whoever needs it first has `python -m tests.support.shared_kafka DIRECTORY LOCK_FILE` started. That
process runs Kafka until nobody holds the lock on `DIRECTORY/users`: the system takes it from a test
process however it ends.
"""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from consumer.embedded_kafka import jars
from consumer.embedded_kafka.cluster import EmbeddedKafka

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class SharedKafka:
    """What a test process knows of the only node."""

    bootstrap_servers: str
    pid: int
    data_directory: str


@contextmanager
def shared_kafka(directory: Path) -> Iterator[SharedKafka]:
    """Give the Kafka of all processes that use `directory`; the last one's end is its end."""
    with (directory / "users").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for one that is ending
        with FileLock(directory / "starting"):
            state = directory / "kafka.json"
            if not state.exists():
                _start(directory)
            kafka = SharedKafka(**json.loads(state.read_text(encoding="utf-8")))
        yield kafka


def _start(directory: Path) -> None:
    """Return when it runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, directory, jars.LOCK_PATH],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the tests, whose end it waits for
    )
    assert process.stdout
    with process.stdout as told:
        if told.readline() != b"running\n":
            raise RuntimeError(f"Kafka did not start, exit code {process.wait()}")
    process.returncode = 0  # so that Popen does not warn that nobody waits for it


def _run(directory: Path, lock: Path) -> None:
    jars.LOCK_PATH = lock
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    state = directory / "kafka.json"
    with (directory / "users").open("w") as users, EmbeddedKafka() as kafka:
        (node,) = kafka._nodes
        found = SharedKafka(kafka.bootstrap_servers, node.pid, str(node._data_directory))
        state.write_text(json.dumps(asdict(found)), encoding="utf-8")
        print("running", flush=True)
        fcntl.flock(users, fcntl.LOCK_EX)
        state.unlink(missing_ok=True)


if __name__ == "__main__":
    _run(Path(sys.argv[1]), Path(sys.argv[2]))
