"""The programs in examples/ against a real Kafka and the fake worker: tick in, outcome out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.embedded_kafka.jars import cache_directory, class_path
from tests.support.shared_kafka import SharedKafka
from vortex.testing import FakeWorker

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TIMEOUT_S = 90.0
# Above 2^53, where a double can no longer tell neighbours apart.
LARGE_ID = 2**53 + 1

Program = tuple[str, ...]


@pytest.fixture(scope="module")
def worker(kafka: SharedKafka) -> Iterator[FakeWorker]:
    with FakeWorker(kafka.bootstrap_servers) as worker:
        yield worker


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of the JavaScript examples with what their lock file names."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    directory = tmp_path_factory.mktemp("javascript")
    for source in (EXAMPLES / "javascript").iterdir():
        if source.is_file():
            shutil.copy(source, directory)
    done = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"npm cannot fetch kafkajs: {done.stderr.strip().splitlines()[-1]}")
    return directory


@pytest.fixture(scope="module")
def java() -> Program:
    """Give the command that runs a source file of Java with Kafka's client."""
    found = shutil.which("java")
    if found is None:
        pytest.skip("java is not installed")
    modules = subprocess.run(
        [found, "--list-modules"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    ).stdout
    if "jdk.compiler@" not in modules:
        pytest.skip(f"{found} has no compiler, so it cannot run source files; install a JDK")
    jars = class_path(cache_directory(), lambda _: None)
    quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")  # for seconds, not for hours
    return (found, *quick, "-cp", jars, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")


def run(worker: FakeWorker, *command: str | Path, group: str = "playout") -> str:
    """Run a program of the examples at the worker's broker and topics; return what it prints."""
    done = subprocess.run(
        command,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KAFKA": worker.bootstrap_servers,
            "TICKS": worker.topics.ticks,
            "RESULTS": worker.topics.results,
            "GROUP": group,
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(
    worker: FakeWorker,
    producer: tuple[str | Path, ...],
    consumer: tuple[str | Path, ...],
    base: int,
) -> None:
    """Have a slot made and the next one rejected, and compare what the two programs print."""
    worker.reject(slot_id=base + 1)
    for slot_id in (base, base + 1):
        printed = run(worker, *producer, str(slot_id), "Grüß Gott.")
        at = worker.wait_for_outcome(slot_id).source
        assert printed == f"sent slot {slot_id} to {at.topic}/{at.partition}@{at.offset}\n"
        assert worker.wait_for_tick(slot_id).recipe.audio_track.script == "Grüß Gott."
    made = worker.wait_for_outcome(base)
    assert made.type == "slot-complete"
    for slot_id, words in (
        (base, f"complete: {made.artifact.uri} (6"),
        (base + 1, "missed: rejec"),
    ):
        printed = run(worker, *consumer, str(slot_id), group=f"playout-{slot_id}")
        (line,) = (each for each in printed.splitlines() if f"slot {slot_id} " in each)
        assert words in line


def test_python(worker: FakeWorker) -> None:
    programs = EXAMPLES / "python"
    python = sys.executable
    check(worker, (python, programs / "send_tick.py"), (python, programs / "read_outcomes.py"), 100)


def test_javascript(worker: FakeWorker, node_modules: Path) -> None:
    producer, consumer = node_modules / "send-tick.js", node_modules / "read-outcomes.js"
    check(worker, ("node", producer), ("node", consumer), LARGE_ID)


def test_java(worker: FakeWorker, java: Program) -> None:
    programs = EXAMPLES / "java"
    producer, consumer = programs / "SendTick.java", programs / "ReadOutcomes.java"
    check(worker, (*java, producer), (*java, consumer), LARGE_ID + 10)


@pytest.mark.slow
def test_a_slot_has_the_same_partition_in_every_language(
    worker: FakeWorker, node_modules: Path, java: Program
) -> None:
    """So that ticks sent twice by different programs are found to be duplicates."""
    programs = (
        (sys.executable, EXAMPLES / "python" / "send_tick.py"),
        ("node", node_modules / "send-tick.js"),
        (*java, EXAMPLES / "java" / "SendTick.java"),
    )
    for slot_id in ("7001", "7002"):
        places = [run(worker, *each, slot_id).split(" to ")[1].split("@")[0] for each in programs]
        assert len(set(places)) == 1
