"""Many workers serve one trace in virtual time: the production dispatchers and their handover.

Ticks belong to partitions, and partitions to workers, as Kafka has it. What Kafka does between
workers is simulated: how long a handover and an announcement take.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import accumulate

from consumer.dispatcher import Dispatcher
from consumer.engine.base import EngineResult, SlotMade
from consumer.handover.announcing import Announcer, Standing
from consumer.handover.neighbours import Announced, Announcements, Neighbours
from consumer.job import Hop, Job
from consumer.simulation.engine import SimulatedEngine, recipe_of
from consumer.simulation.served import job_of
from consumer.simulation.traces import SimulatedSlot
from consumer.simulation.virtual_time import run_in_virtual_time
from vortex.utils.clock import now_s

# On loopback a transaction takes 5 to 10 ms, and the receiver's poll at most 50 ms more.
HOP_S = 0.06
ANNOUNCED_LATE_S = 0.03
_PROFILE = "simulated"


@dataclass(frozen=True)
class Fleet:
    """Workers, and how the ticks come to them."""

    workers: int
    partitions: int
    handover: bool = True
    busier: float = 1.0
    """Every second partition is so many times as busy as the others."""
    dies: tuple[tuple[float, int], ...] = ()
    """When which workers die; their partitions go to the next one, with all that waits there."""
    scale: float = 1.0
    """Seconds of all times for each second of the trace, so that runs on a real Kafka are short."""

    def owner(self, partition: int) -> int:
        """Return the worker that reads a partition; they are assigned in ranges."""
        return partition * self.workers // self.partitions

    def drawn(self, slots: int, seed: int) -> list[int]:
        """Return the partition of each slot's tick."""
        draws = random.Random(f"owners/{seed}")  # noqa: S311 - not a secret
        weights = [self.busier if number % 2 else 1.0 for number in range(self.partitions)]
        ends = list(accumulate(weights))
        return [bisect(ends, draws.random() * ends[-1]) for _ in range(slots)]


@dataclass
class FleetRun:
    """What came of a trace."""

    slots: int
    on_time: int = 0
    handed_over: int = 0
    handed_over_on_time: int = 0
    announced: int = 0
    worked_s: list[float] = field(default_factory=list)
    """By worker."""


def serve_fleet(trace: Sequence[SimulatedSlot], fleet: Fleet, seed: int = 0) -> FleetRun:
    """Serve a whole trace, and return what came of it."""

    async def serve() -> FleetRun:
        return await _Serving(scaled(trace, fleet.scale), fleet, seed).serve()

    return run_in_virtual_time(serve()) if trace else FleetRun(0)


def scaled(trace: Sequence[SimulatedSlot], scale: float) -> list[SimulatedSlot]:
    """Return the trace with other moments; how long slots take is the engine's to scale."""
    return [
        replace(
            slot,
            arrived_s=slot.arrived_s * scale,
            deadline_s=slot.deadline_s * scale,
            emitted_s=slot.emitted_s * scale,
        )
        for slot in trace
    ]


class _Member:
    """One worker without Kafka."""

    def __init__(self, serving: _Serving, number: int, fleet: Fleet) -> None:
        self._serving = serving
        self._name = f"worker-{number}"
        self._number = number
        self._engine = SimulatedEngine(serving.trace, fleet.scale)
        self._neighbours = Neighbours(self._name, _PROFILE, serving.announcements)
        self._announcer = Announcer(self._standing)
        self._dispatcher = Dispatcher(
            self._engine,
            self._on_result,
            lambda _job, _stage: self._announcer.note_change(),
            self._hand_over if fleet.handover else None,
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._dispatcher.run())
            group.create_task(self._announce())

    def submit(self, job: Job) -> None:
        """Take a slot in."""
        self._dispatcher.submit(job)
        self._announcer.note_change()

    async def _announce(self) -> None:
        async with aclosing(self._announcer.standings()) as standings:
            async for standing in standings:
                self._serving.announce(
                    Announced(
                        worker_id=self._name,
                        free_in_s=standing.free_in_s,
                        usual_s=standing.usual_s,
                        load=standing.load,
                        profile=_PROFILE,
                        partitions=standing.partitions,
                        heard_s=now_s(),
                    )
                )

    def _standing(self) -> Standing:
        return Standing(
            free_in_s=self._dispatcher.free_in_s,
            usual_s=self._usual_s,
            load=self._dispatcher.load,
            partitions=(self._number,),
        )

    @property
    def _usual_s(self) -> float:
        return self._engine.predict_s(recipe_of(1.0)) or 0.0

    def _hand_over(self, job: Job, seconds: float, spare_s: float, why: str) -> bool:
        latest_s = job.deadline_s - spare_s
        chosen = self._neighbours.choose(seconds, self._usual_s, latest_s, now_s())
        if chosen is None:
            return False
        now = job.arrival.to_wall(now_s())
        hop = Hop(job.key, self._name, now, why, arrived=job.arrival.wall, emitted=now)
        self._serving.hand_over(replace(job, hop=hop), self._neighbours.partition_of(chosen))
        return True

    def _on_result(self, job: Job, result: EngineResult, started_s: float | None) -> None:
        self._announcer.note_change()
        self._serving.decided(job, isinstance(result, SlotMade) and now_s() < job.deadline_s)


class _Serving:
    """A fleet at work."""

    def __init__(self, trace: Sequence[SimulatedSlot], fleet: Fleet, seed: int) -> None:
        self.trace = trace
        # Shared, as all hear the same; a worker leaves itself out.
        self.announcements = Announcements()
        self._owners = [fleet.owner(partition) for partition in fleet.drawn(len(trace), seed)]
        self._members = [_Member(self, number, fleet) for number in range(fleet.workers)]
        self._run = FleetRun(len(trace))
        self._undecided = len(trace)
        self._all_decided = asyncio.Event()

    async def serve(self) -> FleetRun:
        """Serve until all slots are decided."""
        tasks = [asyncio.create_task(member.run()) for member in self._members]
        arrivals = asyncio.create_task(self._arrive())
        await self._all_decided.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait({*tasks, arrivals})
        return self._run

    def announce(self, said: Announced) -> None:
        """Have all hear it a little later."""
        self._run.announced += 1
        asyncio.get_running_loop().call_later(ANNOUNCED_LATE_S, self.announcements.note, said)

    def hand_over(self, job: Job, worker: int) -> None:
        """Have a worker get it a little later."""
        self._run.handed_over += 1
        asyncio.get_running_loop().call_later(HOP_S, self._members[worker].submit, job)

    def decided(self, job: Job, on_time: bool) -> None:
        """Count an outcome."""
        self._run.on_time += on_time
        self._run.handed_over_on_time += on_time and job.hop is not None
        self._undecided -= 1
        if not self._undecided:
            self._all_decided.set()

    async def _arrive(self) -> None:
        for slot, owner in zip(self.trace, self._owners, strict=True):
            if slot.arrived_s > now_s():
                await asyncio.sleep(slot.arrived_s - now_s())
            self._members[owner].submit(job_of(slot))
