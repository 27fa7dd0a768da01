"""What the size of the fleet costs each worker: to choose a receiver, and to hear the others."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from consumer.handover.neighbours import Announced, Announcements, Neighbours
from schemas import WorkerAnnouncement, WorkerInfo

SIZES = (8, 32, 1000)
ROUNDS = 4000


@dataclass(frozen=True)
class Cost:
    """CPU microseconds."""

    choose_us: float
    """To ask for a receiver of one slot."""
    hear_us: float
    """To take in one announcement."""


def measure_cost() -> dict[int, Cost]:
    """Return the costs by number of workers."""
    return {size: Cost(_choose_us(size), _hear_us(size)) for size in SIZES}


def _choose_us(size: int) -> float:
    announcements = Announcements()
    for number in range(size):
        announcements.note(_announced(number))
    neighbours = Neighbours("worker-0", "simulated", announcements)
    began_s = time.thread_time()
    for _ in range(ROUNDS):
        neighbours.choose(12.0, 12.0, 10.0, 0.0, {})  # nobody is free so early: no promise piles up
    return 1e6 * (time.thread_time() - began_s) / ROUNDS


def _hear_us(size: int) -> float:
    announcements = Announcements()
    values = [_said(number % size) for number in range(ROUNDS)]
    began_s = time.thread_time()
    for value in values:
        event = WorkerAnnouncement.model_validate_json(value)
        announcements.note(
            Announced(
                worker_id=event.worker.id,
                free_in_s=event.free_in_s,
                usual_s=event.usual_slot_s,
                load=event.load,
                profile=event.profile,
                partitions=event.handover_partitions,
                heard_s=0.0,
            )
        )
    return 1e6 * (time.thread_time() - began_s) / ROUNDS


def _announced(number: int) -> Announced:
    return Announced(f"worker-{number}", 20.0, 12.0, 0.9, "simulated", (number,), 0.0)


def _said(number: int) -> bytes:
    event = WorkerAnnouncement(
        worker=WorkerInfo(id=f"worker-{number}", version="0", delivery="exactly-once"),
        at=datetime.now(UTC),
        free_in_s=20.0,
        usual_slot_s=12.0,
        load=0.9,
        profile="simulated",
        handover_partitions=(number,),
    )
    return event.model_dump_json().encode()
