"""`vortex.testing`, as an application's team uses it: in a test run of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import ConsumerRecord

from schemas import DeadlineMissed, SlotComplete, outcome_json
from tests.integration.conftest import MakeLane
from tests.support.engines import ScriptedEngine
from tests.support.lane import tick
from tests.support.shared_kafka import SharedKafka
from vortex.testing import FakeWorker, FakeWorkerError

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 150.0
CONFTEST = 'pytest_plugins = ["vortex.testing"]\n'
SAMPLE = ROOT / "examples" / "python"

pytestmark = pytest.mark.kafka


def run_tests(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of another project, which turns warnings into errors."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *options],
        cwd=project,
        # Of other plugins, some warn unless they are configured.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture
def worker(kafka: SharedKafka) -> Iterator[FakeWorker]:
    with FakeWorker(kafka.bootstrap_servers) as worker:
        yield worker


def test_applications_tests_run_on_a_broker_of_their_own(tmp_path: Path) -> None:
    for source in SAMPLE.glob("*.py"):
        (tmp_path / source.name).write_text(source.read_text("utf-8"))
    done = run_tests(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_broker_may_be_one_that_runs_and_topics_are_removed(
    kafka: SharedKafka, tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(
        "from pathlib import Path\n"
        "def test_it(vortex_kafka, vortex_worker):\n"
        "    Path('seen').write_text(f'{vortex_kafka} {vortex_worker.topics.ticks}')\n"
        "    vortex_worker.send(1)\n"
        "    assert vortex_worker.wait_for_outcome(1).type == 'slot-complete'\n"
    )
    done = run_tests(tmp_path, "--vortex-kafka", kafka.bootstrap_servers)
    assert done.returncode == 0, done.stdout + done.stderr
    address, topic = (tmp_path / "seen").read_text().split()
    assert address == kafka.bootstrap_servers
    assert topic not in _topics(kafka)


def test_every_tick_is_completed_by_default_with_a_file_as_announced(worker: FakeWorker) -> None:
    source = worker.send(7)
    outcome = worker.wait_for_outcome(7)
    assert isinstance(outcome, SlotComplete)
    assert outcome.source == source
    assert worker.wait_for_outcome(source) == outcome
    content = Path(outcome.artifact.uri.removeprefix("file://")).read_bytes()
    assert len(content) == outcome.artifact.bytes
    assert worker.wait_for_tick(7).slot_id == 7


def test_misses_are_those_that_were_ordered(worker: FakeWorker) -> None:
    worker.miss("timeout", channel="sport")
    worker.reject(slot_id=3)
    sent = {
        "sport": worker.send(1, channel="sport"),
        "rejected": worker.send(3),
        "expired": worker.send(4, deadline_s=-5),
        "made": worker.send(5),
    }
    outcomes = {name: worker.wait_for_outcome(source) for name, source in sent.items()}
    found = {
        name: outcome.reason.value if isinstance(outcome, DeadlineMissed) else "made"
        for name, outcome in outcomes.items()
    }
    assert found == {
        "sport": "timeout",
        "rejected": "rejected",
        "expired": "expired",
        "made": "made",
    }


def test_late_slot_is_decided_after_its_deadline(worker: FakeWorker) -> None:
    worker.miss("late")
    outcome = worker.wait_for_outcome(worker.send(1, deadline_s=1.0))
    assert isinstance(outcome, DeadlineMissed)
    assert outcome.reason == "late"
    assert outcome.slack_ms < 0


def test_slot_with_less_time_than_its_delay_is_predicted_to_miss(worker: FakeWorker) -> None:
    worker.delay(30.0, slot_id=1)
    outcome = worker.wait_for_outcome(worker.send(1, deadline_s=10.0))
    assert isinstance(outcome, DeadlineMissed)
    assert outcome.reason == "predicted"
    assert outcome.slack_ms > 5_000


def test_unreadable_tick_becomes_a_dead_letter_that_says_why(worker: FakeWorker) -> None:
    source = worker.send_raw(b'{"slot_id": 1}')
    letter = worker.wait_for_dead_letter(source)
    assert "deadline" in letter.reason
    assert worker.dead_letters == [letter]


def test_waiting_in_vain_says_what_came_instead(worker: FakeWorker) -> None:
    worker.wait_for_outcome(worker.send(1))
    with pytest.raises(TimeoutError, match=r"outcome of slot 2 .* ticks read .*: main/1;"):
        worker.wait_for_outcome(2, timeout_s=0.1)


def test_broker_that_is_not_there_is_told_at_the_start() -> None:
    with pytest.raises(FakeWorkerError, match="Kafka cannot be reached"), FakeWorker("127.0.0.1:9"):
        pytest.fail("it started")


def test_context_ends_its_thread_and_refuses_further_use(kafka: SharedKafka) -> None:
    with FakeWorker(kafka.bootstrap_servers) as worker:
        pass
    assert "fake-worker" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(FakeWorkerError, match="use it as a context manager"):
        worker.send(1)


async def test_records_are_those_of_a_real_worker(kafka: SharedKafka, make_lane: MakeLane) -> None:
    """The key, the names of the headers, and the form of the value."""
    lane = await make_lane()
    async with lane.worker(ScriptedEngine(), "real"):
        await lane.emit([tick(1)])
        await lane.outcomes(1)
    real = await _records(kafka, lane.config.topics.results)
    with FakeWorker(kafka.bootstrap_servers) as fake:
        outcome = await _in_thread(fake, 1)
        faked = await _records(kafka, fake.topics.results)
    (mine,), (theirs,) = faked, real
    assert mine.key == theirs.key == b"1"
    assert [name for name, _ in mine.headers] == [name for name, _ in theirs.headers]
    assert dict(mine.headers)["ce_type"] == b"vortex.slot-complete.v1"
    assert mine.value == outcome_json(outcome)


async def _in_thread(fake: FakeWorker, slot_id: int) -> SlotComplete | DeadlineMissed:
    source = await asyncio.to_thread(fake.send, slot_id)
    return await asyncio.to_thread(fake.wait_for_outcome, source)


async def _records(kafka: SharedKafka, topic: str) -> list[ConsumerRecord]:
    reader = AIOKafkaConsumer(
        topic,
        bootstrap_servers=kafka.bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    await reader.start()
    try:
        fetched = await reader.getmany(timeout_ms=10_000)
        return [record for records in fetched.values() for record in records]
    finally:
        await reader.stop()


def _topics(kafka: SharedKafka) -> set[str]:
    async def ask() -> set[str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
        try:
            await admin.start()
            return set(await admin.list_topics())
        finally:
            await admin.close()

    return asyncio.run(ask())
