"""`make upgrade`: a rolling upgrade from the workers of another revision to these, and back.

Both serve in one group, under load; in the end every tick must have exactly one outcome.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from consumer.config import KafkaConfig
from consumer.embedded_kafka.cluster import EmbeddedKafka
from tests.chaos import checker
from tests.chaos.checker import Verdict, judge, observe
from tests.chaos.fleet import WorkerProcess, environment_of
from tests.chaos.producer import TickProducer
from tests.chaos.run import DEAD_LETTER, LIMITS, RESULTS, TICKS, make_topics
from tests.support.lane import Lane

ROOT = Path(__file__).parents[2]
SOURCES = ("consumer", "schemas", "vortex", "tests", "config.yaml")
SERVING_TIMEOUT_S = 90.0
SETTLE_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 120.0
STEADY_S = 5.0
"""Between two replacements both revisions serve side by side for so long."""

Tell = Callable[[str], None]


class NoSuchRevisionError(Exception):
    """This is not a git repository, or it does not hold the revision."""


@dataclass(frozen=True)
class Report:
    """What an upgrade has shown."""

    verdict: Verdict
    outcomes: Counter[str]
    """By the name of the worker that decided."""
    ticks: int

    def __str__(self) -> str:
        served = ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items()))
        found = Counter(finding.kind for finding in self.verdict.findings)
        return f"{self.ticks} ticks; decided by {served}; findings: {dict(found) or 'none'}"


def check_out(revision: str, target: Path) -> Path:
    """Write a revision's sources below a directory, and return their root.

    Raises:
        NoSuchRevisionError: there is none.
    """
    archive = target / "sources.tar"
    command = ["git", "archive", "--format=tar", "-o", str(archive), revision, *SOURCES]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise NoSuchRevisionError(f"{revision}: {done.stderr.strip()}")
    with tarfile.open(archive) as sources:
        sources.extractall(target, filter="data")
    archive.unlink()
    return target


def as_read_by(root: Path, config: KafkaConfig) -> str:
    """Return a configuration as JSON, with the keys that the sources at `root` know."""
    code = "import consumer.config as c; print(c.WorkerConfig.load().kafka.model_dump_json())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=environment_of(root),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=True,
    )
    return json.dumps(_overlaid(json.loads(done.stdout), config.model_dump(mode="json")))


def _overlaid(known: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return all known keys, with the wanted values."""
    overlaid = {}
    for key, value in known.items():
        if isinstance(value, dict):
            overlaid[key] = _overlaid(value, wanted.get(key, {}))
        else:
            overlaid[key] = wanted.get(key, value)
    return overlaid


async def upgrade(revision: str, workers: int, tell: Tell = lambda _: None) -> Report:
    """Run, and judge.

    Args:
        revision: where the upgrade begins, and where it goes back to.
        workers: how many processes.
        tell: called with a line for everything that happens.

    Raises:
        NoSuchRevisionError: there is none.
        TimeoutError: a worker never served.
        WorkerStopError: a worker did not stop well.
    """
    directory = Path(tempfile.mkdtemp(prefix="vortex-upgrade-"))
    old_root = directory / "old"
    old_root.mkdir()
    check_out(revision, old_root)
    with EmbeddedKafka() as kafka:
        report = await _Upgrade(kafka.bootstrap_servers, workers, directory, old_root, tell).run()
    if report.verdict.findings:
        tell(f"logs are kept in {directory}")
    else:
        shutil.rmtree(directory)
    return report


class _Upgrade:
    def __init__(
        self, brokers: str, workers: int, directory: Path, old_root: Path, tell: Tell
    ) -> None:
        lane = Lane.of(brokers, TICKS, RESULTS, DEAD_LETTER)
        config = lane.config.model_copy(update=LIMITS)
        self._partitions = 2 * workers
        self._tell = tell
        self._brokers = brokers
        self._lane = checker.Lane(brokers, TICKS, RESULTS, DEAD_LETTER, config.group_id)
        self._producer = TickProducer(config, self._partitions, Random(1))
        old = as_read_by(old_root, config)
        self._old = [WorkerProcess(f"old-{n}", old, directory, old_root) for n in range(workers)]
        self._new = [WorkerProcess(f"new-{n}", config, directory) for n in range(workers)]

    async def run(self) -> Report:
        await make_topics(self._brokers, self._partitions, replicas=1)
        producing = asyncio.create_task(self._producer.run())
        try:
            for worker in self._old:
                worker.start()
            for worker in self._old:
                await self._until_it_serves(worker, 0.0)
            for old, new in zip(self._old, self._new, strict=True):
                await self._replace(old, new)
            for new, old in zip(self._new, self._old, strict=True):
                await self._replace(new, old)
            self._producer.stop()
            await producing
            await self._settle()
            await asyncio.gather(*(worker.stop() for worker in self._old))
        finally:
            producing.cancel()
            with suppress(asyncio.CancelledError):
                await producing
            for worker in [*self._old, *self._new]:
                worker.kill()
        seen = await asyncio.to_thread(observe, self._lane)
        outcomes = Counter(each.worker or "a dead letter" for each in seen.outcomes)
        return Report(judge(seen), outcomes, len(seen.ticks))

    async def _replace(self, one: WorkerProcess, other: WorkerProcess) -> None:
        self._tell(f"{one.id} is replaced by {other.id}")
        await one.stop()
        began_s = time.time()
        other.start()
        await self._until_it_serves(other, began_s)
        await asyncio.sleep(STEADY_S)

    async def _until_it_serves(self, worker: WorkerProcess, since_s: float) -> None:
        end_s = time.monotonic() + SERVING_TIMEOUT_S
        while True:
            seen = await asyncio.to_thread(observe, self._lane)
            if any(
                each.worker == worker.id and each.written_s >= since_s for each in seen.outcomes
            ):
                return
            if worker.exit_code is not None or time.monotonic() > end_s:
                raise TimeoutError(f"{worker.id} does not serve; log: {worker.log_path}")
            await asyncio.sleep(1.0)

    async def _settle(self) -> None:
        end_s = time.monotonic() + SETTLE_TIMEOUT_S
        while True:
            seen = await asyncio.to_thread(observe, self._lane)
            if judge(seen).settled or time.monotonic() > end_s:
                return
            await asyncio.sleep(1.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.upgrade", description=__doc__)
    parser.add_argument("--from", dest="revision", default="HEAD~1")
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    report = asyncio.run(upgrade(options.revision, options.workers, lambda line: print(line)))
    print(report)
    for finding in report.verdict.findings:
        print(finding)
    return 1 if report.verdict.findings else 0


if __name__ == "__main__":
    sys.exit(main())
