"""Slots that one worker has no time for are made by another, and have one outcome all the same."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.handover.announcing import Announcing, Standing
from consumer.kafka.clients import make_plain_producer
from consumer.kafka.topics import create_topics
from consumer.results import DeadLetter, Result
from consumer.worker import Worker
from schemas import DeadlineMissed, SlotComplete, WorkerAnnouncement, WorkerInfo
from tests.integration.conftest import MakeLane
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import RECIPE, Lane, assert_one_outcome_each, tick
from tests.support.proxied_kafka import ProxiedKafka
from vortex.orchestration.estimates import work_units

pytestmark = pytest.mark.kafka

JOIN_TIMEOUT_S = 30.0
# Long enough for two workers to hear of each other.
HEARD_S = 1.0
# For the last announcement, the producer and the reader of announcements.
SILENT_TIMEOUT_S = 15.0


def engine(work_s: float = 1.0) -> ScriptedEngine:
    return ScriptedEngine(default=Script(work_s=work_s), predicted_s=work_s)


@asynccontextmanager
async def two_workers(lane: Lane, work_s: float = 1.0) -> AsyncIterator[tuple[Worker, Worker]]:
    """Run two workers that know of each other; the second one joins first."""
    async with lane.worker(engine(work_s), "b") as b, lane.worker(engine(work_s), "a") as a:
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            while not (reads_handover(a) and reads_handover(b)):
                await asyncio.sleep(0.05)
        await asyncio.sleep(HEARD_S)
        yield a, b


def reads_handover(worker: Worker) -> bool:
    return worker.accepting and bool(worker._standing_now().partitions)


def hears_of(worker: Worker, other: str) -> bool:
    """Return whether a worker reads handovers, and has heard that another one does."""
    assert worker._handover is not None
    heard = worker._handover._announcing.heard._by_id.get(other)
    return reads_handover(worker) and heard is not None and bool(heard.partitions)


def answered(results: list[Result]) -> list[SlotComplete | DeadlineMissed]:
    return [result for result in results if not isinstance(result, DeadLetter)]


async def test_slots_beyond_one_workers_time_are_made_by_another(make_lane: MakeLane) -> None:
    lane = await make_lane(handover=2)
    async with two_workers(lane):
        emitted = await lane.emit([tick(number, deadline_s=5.0) for number in range(7)])
        results = await lane.outcomes(7)
    assert_one_outcome_each(results, emitted)
    outcomes = answered(results)
    assert all(isinstance(outcome, SlotComplete) for outcome in outcomes)
    handed = [outcome for outcome in outcomes if outcome.handed_over is not None]
    assert 2 <= len(handed) <= 5
    for outcome in handed:
        assert outcome.handed_over is not None
        assert outcome.handed_over.worker != outcome.worker.id
        assert outcome.source.topic == lane.config.topics.ticks


async def test_slot_goes_only_to_a_machine_whose_limits_leave_room_for_it(
    make_lane: MakeLane,
) -> None:
    """Neither `a` nor `small` can make a long one, `large` alone; `small` would be free sooner."""
    lane = await make_lane(handover=3)
    a, small, large = engine(), engine(work_s=0.1), engine()
    a.ruled_out = small.ruled_out = "the video would take too long"
    needed = work_units(RECIPE)
    small.most = {"audio": needed["audio"], "video": needed["video"] - 1}
    large.most = {"audio": needed["audio"], "video": needed["video"]}
    async with (
        lane.worker(large, "large") as w1,
        lane.worker(small, "small") as w2,
        lane.worker(a, "a") as w3,
    ):
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            while not all(
                hears_of(one, other) for one in (w1, w2, w3) for other in ("large", "small")
            ):
                await asyncio.sleep(0.05)
        emitted = await lane.emit([tick(number, deadline_s=20.0) for number in range(3)])
        results = await lane.outcomes(3)
    assert_one_outcome_each(results, emitted)
    assert [each.worker.id for each in answered(results)] == ["large"] * 3
    assert all(isinstance(each, SlotComplete) for each in answered(results))


async def test_slot_that_nobody_has_time_for_is_answered_where_it_was_read(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane(handover=2)
    async with two_workers(lane):
        emitted = await lane.emit([tick(1, deadline_s=0.9)])
        results = await lane.outcomes(1)
    assert_one_outcome_each(results, emitted)
    [outcome] = answered(results)
    assert isinstance(outcome, DeadlineMissed)
    assert (outcome.reason, outcome.handed_over) == ("predicted", None)


async def test_receiver_that_cannot_make_it_says_what_both_plans_said(make_lane: MakeLane) -> None:
    lane = await make_lane(handover=1)
    async with announced_by_nobody(lane), lane.worker(engine(), "donor") as donor:
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            while not donor.accepting:
                await asyncio.sleep(0.05)
        await asyncio.sleep(2 * HEARD_S)
        # The only reader of handovers is the donor itself: it gets back what it gave away.
        emitted = await lane.emit([tick(number, deadline_s=3.5) for number in range(5)])
        results = await lane.outcomes(5)
    assert_one_outcome_each(results, emitted)
    returned = [outcome for outcome in answered(results) if outcome.handed_over is not None]
    missed = [outcome for outcome in returned if isinstance(outcome, DeadlineMissed)]
    assert missed
    for outcome in missed:
        assert outcome.reason == "predicted"
        assert "donor handed it over: the plan" in outcome.detail


@asynccontextmanager
async def announced_by_nobody(lane: Lane, partition: int = 0) -> AsyncIterator[None]:
    """Announce a worker that is free and does not exist, and a partition for it."""
    topic = lane.config.topics.workers
    assert topic is not None
    producer = make_plain_producer(lane.config, client_id="test")
    await producer.start()

    async def announce() -> None:
        while True:
            event = WorkerAnnouncement(
                worker=WorkerInfo(id="nobody", version="0"),
                at=tick(1).deadline,
                free_in_s=0.0,
                usual_slot_s=0.0,
                load=0.0,
                profile="",
                handover_partitions=(partition,),
            )
            await producer.send_and_wait(topic, event.model_dump_json().encode(), key=b"nobody")
            await asyncio.sleep(0.3)

    announcing = asyncio.create_task(announce())
    try:
        yield
    finally:
        announcing.cancel()
        await asyncio.wait({announcing})
        await producer.stop()


async def test_announced_partition_that_does_not_exist_costs_no_outcome(
    make_lane: MakeLane,
) -> None:
    lane = await make_lane(handover=1)
    async with announced_by_nobody(lane, partition=999), lane.worker(engine(), "donor") as donor:
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            while not donor.accepting:
                await asyncio.sleep(0.05)
        await asyncio.sleep(2 * HEARD_S)
        emitted = await lane.emit([tick(number, deadline_s=3.5) for number in range(5)])
        results = await lane.outcomes(5)
    assert_one_outcome_each(results, emitted)
    assert any(outcome.handed_over is not None for outcome in answered(results))


async def test_trace_of_a_handed_over_tick_leads_over_both_workers(
    make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    for module in ("consumer.worker", "consumer.dispatcher", "consumer.kafka.partition"):
        monkeypatch.setattr(f"{module}.tracer", tracer)
    lane = await make_lane(handover=2)
    async with two_workers(lane):
        with tracer.start_as_current_span("producer"):
            await lane.emit([tick(number, deadline_s=5.0) for number in range(7)])
        results = await lane.outcomes(7)
    topics = lane.config.topics
    spans = {span.context.span_id: span for span in exporter.get_finished_spans() if span.context}
    received = [span for span in spans.values() if span.name == f"process {topics.handover}"]
    assert len(received) == sum(each.handed_over is not None for each in answered(results)) > 0
    for span in received:
        names = []
        while span.parent is not None:
            span = spans[span.parent.span_id]
            names.append(span.name)
        assert names == [f"send {topics.handover}", f"process {topics.ticks}", "producer"]


async def test_worker_without_handover_serves_in_the_same_group(make_lane: MakeLane) -> None:
    lane = await make_lane(partitions=4, handover=2)
    topics = lane.config.topics.model_copy(update={"handover": None, "workers": None})
    async with (
        lane.worker(engine(0.2), "old", topics=topics) as old,
        lane.worker(engine(0.2), "new") as new,
    ):
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            while not (old.accepting and reads_handover(new)):
                await asyncio.sleep(0.05)
        emitted = await lane.emit([tick(number) for number in range(40)])
        results = await lane.outcomes(40)
    assert_one_outcome_each(results, emitted)
    assert {outcome.worker.id for outcome in answered(results)} == {"old", "new"}


async def test_record_that_no_worker_handed_over_is_a_dead_letter(make_lane: MakeLane) -> None:
    lane = await make_lane(handover=1)
    topic = lane.config.topics.handover
    assert topic is not None
    async with lane.worker(engine(), "worker"):
        producer = make_plain_producer(lane.config, client_id="test")
        async with producer:
            await producer.send_and_wait(topic, tick(1).model_dump_json().encode(), key=b"1")
        [letter] = await lane.outcomes(1)
    assert isinstance(letter, DeadLetter)
    assert (letter.source.topic, letter.source.offset) == (topic, 0)
    assert "not handed over by a worker" in letter.reason


async def test_announcements_end_when_told_to_although_no_broker_takes_the_last_one() -> None:
    kafka = ProxiedKafka()
    with kafka.kafka:
        async with kafka:
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka.kafka.bootstrap_servers)
            await create_topics(admin, {"workers": 1})
            more = {"handover": "handover", "workers": "workers"}
            lane = Lane.of(kafka.bootstrap_servers, "ticks", "results", "dead-letter", **more)
            standing = Standing(free_in_s=0.0, usual_s=1.0, load=0.0, partitions=(0,))
            me = WorkerInfo(id="me", version="0")
            announcing = Announcing(lane.config, me, "", lambda: standing)
            running = asyncio.create_task(announcing.run())
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                while not len(announcing.heard):
                    await asyncio.sleep(0.05)
            for proxy in kafka.proxies:
                proxy.stall()
            running.cancel()
            await asyncio.wait(tasks_of(Announcing), timeout=SILENT_TIMEOUT_S)
            left = tasks_of(Announcing)
            for proxy in kafka.proxies:
                proxy.resume()
            for task in left:  # it goes on as if nothing had been said
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=SILENT_TIMEOUT_S)
    assert not left
    assert running.cancelled()


def tasks_of(kind: type) -> set[asyncio.Task[Any]]:
    """Return the tasks that run code of the module of a class."""
    file = inspect.getfile(kind)
    return {
        task
        for task in asyncio.all_tasks()
        if inspect.iscoroutine(coro := task.get_coro()) and coro.cr_code.co_filename == file
    }
