"""Tests of the producer and the consumer beside this file: `pytest`, with vortex-slots[testing]."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from read_outcomes import describe, outcomes
from send_tick import make_tick, send

from vortex.testing import FakeWorker


def sent(worker: FakeWorker, slot_id: int, due_s: float = 45.0) -> None:
    """Have the producer send a tick."""
    tick = make_tick(slot_id, "Good evening.", due_s=due_s)
    asyncio.run(send(tick, worker.bootstrap_servers, worker.topics.ticks))


def next_described(worker: FakeWorker) -> str:
    """Return what the consumer says of the first outcome."""

    async def first() -> str:
        async with aclosing(outcomes(worker.bootstrap_servers, worker.topics.results)) as stream:
            async for outcome in stream:
                return describe(outcome)
        raise AssertionError

    return asyncio.run(asyncio.wait_for(first(), timeout=30))


def test_workers_can_read_what_the_producer_sends(vortex_worker: FakeWorker) -> None:
    sent(vortex_worker, 7)
    tick = vortex_worker.wait_for_tick(7)
    assert tick.recipe.audio_track.script == "Good evening."


def test_consumer_shows_where_the_video_is(vortex_worker: FakeWorker) -> None:
    vortex_worker.send(7)
    outcome = vortex_worker.wait_for_outcome(7)
    assert outcome.type == "slot-complete"
    assert outcome.artifact.uri in next_described(vortex_worker)


def test_consumer_shows_why_a_slot_was_missed(vortex_worker: FakeWorker) -> None:
    vortex_worker.miss("rejected", slot_id=7)
    vortex_worker.send(7)
    assert next_described(vortex_worker).startswith("slot 7 missed: rejected, ")


def test_tick_sent_too_late_has_expired(vortex_worker: FakeWorker) -> None:
    sent(vortex_worker, 7, due_s=-1)
    assert next_described(vortex_worker).startswith("slot 7 missed: expired, ")
