"""Prints outcomes: `python read_outcomes.py [SLOT_ID]`; with a slot, until its outcome has come."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiokafka import AIOKafkaConsumer

from vortex.contract import DeadlineMissed, SlotComplete, parse_outcome

KAFKA = os.environ.get("KAFKA", "localhost:9092")
RESULTS = os.environ.get("RESULTS", "slot.results")
GROUP = os.environ.get("GROUP", "playout")


async def outcomes(
    kafka: str = KAFKA, topic: str = RESULTS, group: str = GROUP
) -> AsyncGenerator[SlotComplete | DeadlineMissed]:
    """Yield outcomes; one counts as handled when the next one is asked for."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=kafka,
        group_id=group,
        # Without this, outcomes would be seen that a worker has written and then taken back.
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        async for record in consumer:
            yield parse_outcome(record.value)
            await consumer.commit()  # only now, so that none is lost when this process dies
    finally:
        await consumer.stop()


def describe(outcome: SlotComplete | DeadlineMissed) -> str:
    """Return what became of a slot, in one line."""
    if isinstance(outcome, SlotComplete):
        video = outcome.artifact
        return f"slot {outcome.slot_id} complete: {video.uri} ({video.duration_s:g} s)"
    return f"slot {outcome.slot_id} missed: {outcome.reason.value}, {outcome.detail}"


async def follow(slot_id: int | None) -> None:
    """Print outcomes, up to that of a slot if there is one."""
    async with aclosing(outcomes()) as stream:
        async for outcome in stream:
            print(describe(outcome), flush=True)
            if outcome.slot_id == slot_id:
                break


if __name__ == "__main__":
    asyncio.run(follow(int(sys.argv[1]) if len(sys.argv) > 1 else None))
