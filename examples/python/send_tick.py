"""Sends a slot tick: `python send_tick.py SLOT_ID [SCRIPT]`."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta

from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from vortex.contract import AudioTrack, Recipe, SlotParams, SlotTick, VisualTrack

KAFKA = os.environ.get("KAFKA", "localhost:9092")
TICKS = os.environ.get("TICKS", "slot.ticks")


def make_tick(slot_id: int, script: str, *, due_s: float = 45.0) -> SlotTick:
    """Return a tick that is due in so many seconds; a wrong field is refused here already."""
    now = datetime.now(UTC)
    return SlotTick(
        slot_id=slot_id,
        emitted_at=now,
        deadline=now + timedelta(seconds=due_s),
        recipe=Recipe(
            slot_params=SlotParams(duration_sec=6, fps=12, resolution="128x128"),
            audio_track=AudioTrack(script=script),
            visual_track=VisualTrack(prompt="A news presenter in a blue coat"),
        ),
    )


async def send(tick: SlotTick, kafka: str = KAFKA, topic: str = TICKS) -> RecordMetadata:
    """Send a tick, and return where it stands."""
    # Idempotent, so that a retry of the client's sends no second tick.
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        # Keyed by slot, so that all ticks of a slot share a partition.
        key = str(tick.slot_id).encode()
        value = tick.model_dump_json(exclude_none=True).encode()
        return await producer.send_and_wait(topic, value, key=key)
    finally:
        await producer.stop()


if __name__ == "__main__":
    script = sys.argv[2] if len(sys.argv) > 2 else "Good evening. Here is the news."
    at = asyncio.run(send(make_tick(int(sys.argv[1]), script)))
    print(f"sent slot {sys.argv[1]} to {at.topic}/{at.partition}@{at.offset}")
