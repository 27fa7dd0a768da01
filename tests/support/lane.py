"""Three topics and a group of a test's own, and what a test does with them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from aiokafka.structs import RecordMetadata

from consumer.config import KafkaConfig, WorkerConfig
from consumer.emitter import TickEmitter
from consumer.engine.base import Engine
from consumer.job import TickKey
from consumer.kafka.clients import make_admin
from consumer.results import DeadLetter, Result, read_results
from consumer.worker import OnProgress, Worker
from schemas import AudioTrack, Recipe, SlotParams, SlotTick, VisualTrack

if TYPE_CHECKING:
    from schemas.signing import TrustedKeys

SETTLE_S = 1.0
TIMEOUT_S = 60.0
# Short, so that a killed worker's partitions are given to others within a test.
QUICK = {
    "session_timeout_s": 2.0,
    "rebalance_timeout_s": 4.0,
    "request_timeout_s": 6.0,
    "transaction_timeout_s": 6.0,
    "shutdown_grace_s": 10.0,
}
RECIPE = Recipe(
    slot_params=SlotParams(duration_sec=1.0, fps=4, resolution="64x64"),
    audio_track=AudioTrack(script="Good evening."),
    visual_track=VisualTrack(prompt="a newsreader"),
)


def tick(slot_id: int, deadline_s: float = 60.0, **changes: Any) -> SlotTick:
    """Return a readable tick, due in so many seconds."""
    deadline = datetime.now(UTC) + timedelta(seconds=deadline_s)
    return SlotTick(slot_id=slot_id, deadline=deadline, **{"recipe": RECIPE, **changes})


@dataclass(frozen=True)
class Lane:
    """Topics and group, as one worker's configuration."""

    config: KafkaConfig

    @classmethod
    def of(
        cls, bootstrap_servers: str, ticks: str, results: str, dead_letter: str, **more: str
    ) -> Lane:
        """Return a lane over topics that exist; `more` are those that may be null."""
        topics = {"ticks": ticks, "results": results, "dead_letter": dead_letter, **more}
        packaged = WorkerConfig.load().kafka.model_dump()
        topics = packaged["topics"] | topics
        return cls(
            KafkaConfig.model_validate(
                packaged
                | QUICK
                | {"bootstrap_servers": bootstrap_servers, "topics": topics, "group_id": ticks}
            )
        )

    async def emit(self, ticks: Sequence[SlotTick]) -> list[RecordMetadata]:
        """Write ticks."""
        async with TickEmitter(self.config) as emitter:
            return [await emitter.emit(each) for each in ticks]

    @asynccontextmanager
    async def worker(
        self,
        engine: Engine,
        worker_id: str,
        trusted: TrustedKeys | None = None,
        on_progress: OnProgress = lambda _job, _step: None,
        **changes: Any,
    ) -> AsyncIterator[Worker]:
        """Run a worker in this process until the end of the context, where it must stop well."""
        config = self.config.model_copy(update=changes)
        worker = Worker(
            config, engine, worker_id=worker_id, trusted=trusted, on_progress=on_progress
        )
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.request_stop()
            await asyncio.wait_for(running, TIMEOUT_S)

    async def outcomes(
        self, count: int, *, settle_s: float = SETTLE_S, timeout_s: float = TIMEOUT_S
    ) -> list[Result]:
        """Read until there are `count` results, and a moment longer for those that must not come.

        Raises:
            TimeoutError: fewer came; says which.
        """
        seen: list[Result] = []
        end_s = time.monotonic() + timeout_s
        async with aclosing(read_results(self.config, from_start=True)) as results:
            async for result in results:
                if result is not None:
                    seen.append(result)
                if len(seen) == count:
                    end_s = min(end_s, time.monotonic() + settle_s)
                if time.monotonic() > end_s:
                    break
        if len(seen) < count:
            got = sorted(place(result) for result in seen)
            raise TimeoutError(f"{len(seen)} of {count} results came: {got}")
        return seen

    async def committed(self, partition: int = 0) -> int:
        """Return the group's committed offset of a partition; -1 if there is none."""
        at = TopicPartition(self.config.topics.ticks, partition)
        admin = make_admin(self.config, client_id="test")
        try:
            await admin.start()
            offsets = await admin.list_consumer_group_offsets(self.config.group_id, partitions=[at])
        finally:
            await admin.close()
        return int(offsets[at].offset)


def place(result: Result) -> TickKey:
    """Return the tick that a result answers."""
    at = result.source
    return TickKey(at.topic, at.partition, at.offset)


def assert_one_outcome_each(results: Sequence[Result], emitted: Sequence[RecordMetadata]) -> None:
    """Check that each tick has exactly one result, and that nothing else has any."""
    answered = Counter(place(result) for result in results)
    expected = Counter(TickKey(at.topic, at.partition, at.offset) for at in emitted)
    doubled, missing = dict(answered - expected), dict(expected - answered)
    assert (doubled, missing) == ({}, {}), f"doubled {doubled}, missing {missing}"


def slots(results: Sequence[Result], kind: str) -> set[int]:
    """Return the slot ids of all results of a kind."""
    return {
        result.slot_id
        for result in results
        if not isinstance(result, DeadLetter) and result.type == kind
    }
