"""Many workers serve one trace in virtual time: the production dispatchers and their handover.

Ticks belong to partitions, and partitions to workers, as Kafka has it. What Kafka does between
workers is simulated: how long a handover and an announcement take, and who gets what a dead worker
owned.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from bisect import bisect
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from statistics import fmean

from consumer.dispatcher import Dispatcher
from consumer.engine.base import EngineResult, SlotMade
from consumer.handover.announcing import Announcer, Standing
from consumer.handover.neighbours import Announced, Announcements, Neighbours
from consumer.job import Hop, Job
from consumer.simulation.engine import SimulatedEngine, recipe_of
from consumer.simulation.served import job_of
from consumer.simulation.traces import SimulatedSlot
from consumer.simulation.virtual_time import run_in_virtual_time
from vortex.rung import FULL, Rung
from vortex.utils.clock import now_s

# On loopback a transaction takes 5 to 10 ms, and the receiver's poll at most 50 ms more.
HOP_S = 0.06
ANNOUNCED_LATE_S = 0.03
SESSION_S = 20.0
_PROFILE = "simulated"
_USUAL = recipe_of(1.0)


@dataclass(frozen=True)
class Fleet:
    """Workers, and how the ticks come to them."""

    workers: int
    partitions: int
    handover: bool = True
    busier: float = 1.0
    """Each partition of the first half is so many times as busy as one of the others."""
    dies: tuple[tuple[float, int], ...] = ()
    """When which workers die; at least one must live on."""
    session_s: float = SESSION_S
    """So long after a death its partitions go to others, as with `kafka.session_timeout_s`."""
    announced_late_s: float = ANNOUNCED_LATE_S
    """How long an announcement is on its way."""
    ladder: tuple[Rung, ...] = (FULL,)
    scale: float = 1.0
    """Seconds of all times for each second of the trace, so that runs on a real Kafka are short."""

    def __post_init__(self) -> None:
        """Refuse a fleet that cannot serve."""
        dead = {worker for _, worker in self.dies}
        if not dead < set(range(self.workers)):
            raise ValueError(
                f"dies: must name workers below {self.workers} and spare one, got {sorted(dead)}"
            )

    def read_from(self, slots: int, seed: int) -> list[int]:
        """Return the partition of each slot's tick."""
        draws = random.Random(f"owners/{seed}")  # noqa: S311 - not a secret
        busy = self.partitions // 2
        weights = [self.busier if number < busy else 1.0 for number in range(self.partitions)]
        ends = list(accumulate(weights))
        return [bisect(ends, draws.random() * ends[-1]) for _ in range(slots)]

    def owner_of(self, partition: int) -> int:
        """Return the worker that reads a partition at first; they are assigned in ranges."""
        return partition * self.workers // self.partitions


@dataclass
class FleetRun:
    """What came of a trace."""

    trace: Sequence[SimulatedSlot] = field(repr=False)
    workers: int = 1
    quality_on_time: dict[int, float] = field(default_factory=dict)
    """Quality of each slot that was on time, by number."""
    handed_over: int = 0
    handed_over_on_time: int = 0
    given_up: int = 0
    """Without any work."""
    announced: int = 0
    read_again: int = 0
    """Slots that a dead worker left to another one."""
    wasted_s: float = 0.0
    """Work on slots that then missed."""
    worked_s: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    """By worker, on slots that were decided."""

    @property
    def slots(self) -> int:
        """How many arrived."""
        return len(self.trace)

    @property
    def on_time(self) -> int:
        """How many were on time."""
        return len(self.quality_on_time)

    @property
    def quality(self) -> float:
        """Mean quality of the slots on time."""
        return fmean(self.quality_on_time.values()) if self.quality_on_time else 0.0

    @property
    def worked_by(self) -> list[float]:
        """Seconds of work of each worker."""
        return [self.worked_s[worker] for worker in range(self.workers)]

    def is_on_time(self) -> list[tuple[float, bool]]:
        """Return each slot's deadline, and whether it was on time."""
        return [(slot.deadline_s, slot.number in self.quality_on_time) for slot in self.trace]


def serve_fleet(
    trace: Sequence[SimulatedSlot],
    fleet: Fleet,
    seed: int = 0,
    partitions: Sequence[int] | None = None,
) -> FleetRun:
    """Serve a whole trace, and return what came of it.

    Args:
        trace: in the order of arrival; each slot's number is its place.
        fleet: who serves it.
        seed: of the partitions that ticks are drawn for.
        partitions: the partition of each slot's tick, if that is known.
    """

    async def serve() -> FleetRun:
        drawn = partitions or fleet.read_from(len(trace), seed)
        return await _Serving(scaled(trace, fleet.scale), fleet, drawn).serve()

    return run_in_virtual_time(serve()) if trace else FleetRun(trace, fleet.workers)


def serve_from_one_queue(trace: Sequence[SimulatedSlot], workers: int) -> FleetRun:
    """Return what machines would come to that share one queue, earliest deadline first.

    No such fleet exists with Kafka: a reference for what binding ticks to workers costs. A slot
    that could not be finished, as predicted, is given up; all predictions are those of the trace.
    """
    run = FleetRun(trace, workers)
    waiting: list[tuple[float, int]] = []
    machines = [(0.0, worker) for worker in range(workers)]
    coming = 0
    while coming < len(trace) or waiting:
        free_s, worker = machines[0]
        if not waiting:
            free_s = max(free_s, trace[coming].arrived_s)
        while coming < len(trace) and trace[coming].arrived_s <= free_s:
            heapq.heappush(waiting, (trace[coming].deadline_s, coming))
            coming += 1
        slot = trace[heapq.heappop(waiting)[1]]
        if free_s + slot.predicted_s > slot.deadline_s:
            run.given_up += 1
            continue
        end_s = min(free_s + slot.seconds, slot.deadline_s)
        heapq.heapreplace(machines, (end_s, worker))
        run.worked_s[worker] += end_s - free_s
        if free_s + slot.seconds < slot.deadline_s:
            run.quality_on_time[slot.number] = 1.0
        else:
            run.wasted_s += end_s - free_s
    return run


def compare(
    trace: Sequence[SimulatedSlot],
    fleet: Fleet,
    seed: int = 0,
    partitions: Sequence[int] | None = None,
) -> dict[str, FleetRun]:
    """Serve a trace by a fleet, by the same one without handover, and from one queue."""
    return {
        "bound to partitions": serve_fleet(trace, replace(fleet, handover=False), seed, partitions),
        "with handover": serve_fleet(trace, fleet, seed, partitions),
        "one queue, EDF": serve_from_one_queue(trace, fleet.workers),
    }


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
        self.number = number
        self.name = f"worker-{number}"
        self._engine = SimulatedEngine(serving.trace, fleet.scale, ladder=fleet.ladder)
        self._neighbours = Neighbours(self.name, _PROFILE, serving.announcements)
        self._announcer = Announcer(self._standing)
        self._dispatcher = Dispatcher(
            self._engine,
            self._on_result,
            lambda _job, _stage: self._announcer.note_change(),
            self._hand_over if fleet.handover else None,
        )
        self._handover = fleet.handover
        # Its slots without an outcome.
        self._jobs: dict[int, Job] = {}

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._dispatcher.run())
            if self._handover:
                group.create_task(self._announce())

    def submit(self, job: Job) -> None:
        """Take a slot in."""
        self._jobs[job.key.offset] = job
        self._dispatcher.submit(job)
        self._announcer.note_change()

    def leave_all(self) -> list[Job]:
        """Return all slots without an outcome: those that waited, and those in the making."""
        left, self._jobs = list(self._jobs.values()), {}
        return left

    async def _announce(self) -> None:
        async with aclosing(self._announcer.standings()) as standings:
            async for standing in standings:
                self._serving.announce(
                    Announced(
                        worker_id=self.name,
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
            partitions=self._serving.handovers_read_by(self.number),
        )

    @property
    def _usual_s(self) -> float:
        return self._engine.predict_s(_USUAL) or 0.0

    def _hand_over(self, job: Job, seconds: float, spare_s: float, why: str) -> bool:
        latest_s = job.deadline_s - spare_s
        chosen = self._neighbours.choose(seconds, self._usual_s, latest_s, now_s(), work={})
        if chosen is None:
            return False
        now = job.arrival.to_wall(now_s())
        hop = Hop(job.key, self.name, now, why, arrived=job.arrival.wall, written_ms=None)
        del self._jobs[job.key.offset]
        self._serving.hand_over(replace(job, hop=hop), self._neighbours.partition_of(chosen))
        return True

    def _on_result(self, job: Job, result: EngineResult, started_s: float | None) -> None:
        self._announcer.note_change()
        del self._jobs[job.key.offset]
        self._serving.decided(self.number, job, result, started_s)


class _Serving:
    """A fleet at work."""

    def __init__(
        self, trace: Sequence[SimulatedSlot], fleet: Fleet, partitions: Sequence[int]
    ) -> None:
        self.trace = trace
        # Shared, as all hear the same; a worker leaves itself out.
        self.announcements = Announcements()
        self._fleet = fleet
        self._quality = {rung.name: rung.quality for rung in fleet.ladder}
        # The partition of the ticks that each slot is read from, or of the handovers.
        self._partitions = partitions
        self._handed_to: dict[int, int] = {}
        # Who reads each partition of the ticks, and of the handovers: one for each worker.
        self._ticks_of = [fleet.owner_of(number) for number in range(fleet.partitions)]
        self._handovers_of = list(range(fleet.workers))
        self._members = [_Member(self, number, fleet) for number in range(fleet.workers)]
        # What waits in the partitions of each dead worker.
        self._unread: dict[int, list[Job]] = {}
        self._run = FleetRun(trace, fleet.workers)
        self._undecided = len(trace)
        self._all_decided = asyncio.Event()

    async def serve(self) -> FleetRun:
        """Serve until all slots are decided."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(member.run()) for member in self._members]
            happening = [group.create_task(self._arrive())]
            happening += [
                group.create_task(self._die(moment_s, worker, tasks[worker]))
                for moment_s, worker in self._fleet.dies
            ]
            await self._all_decided.wait()
            for task in (*tasks, *happening):
                task.cancel()
        return self._run

    def handovers_read_by(self, worker: int) -> tuple[int, ...]:
        """Return the partitions of the topic of handovers that a worker reads."""
        if not self._unread:
            return (worker,)
        return tuple(number for number, owner in enumerate(self._handovers_of) if owner == worker)

    def announce(self, said: Announced) -> None:
        """Have all hear it a little later."""
        self._run.announced += 1
        hear = partial(self._hear, said)
        asyncio.get_running_loop().call_later(self._fleet.announced_late_s, hear)

    def hand_over(self, job: Job, partition: int) -> None:
        """Have the worker that reads a partition of the handovers get it a little later."""
        self._run.handed_over += 1
        self._handed_to[job.key.offset] = partition
        asyncio.get_running_loop().call_later(HOP_S, self._deliver, job)

    def decided(self, worker: int, job: Job, result: EngineResult, started_s: float | None) -> None:
        """Count an outcome."""
        run, now = self._run, now_s()
        on_time = now < job.deadline_s
        if isinstance(result, SlotMade) and on_time:
            run.quality_on_time[job.key.offset] = self._quality[result.quality.rung]
            run.handed_over_on_time += job.hop is not None
        elif started_s is not None:
            run.wasted_s += now - started_s
        if started_s is None:
            run.given_up += 1
        else:
            run.worked_s[worker] += now - started_s
        self._undecided -= 1
        if not self._undecided:
            self._all_decided.set()

    def _hear(self, said: Announced) -> None:
        self.announcements.note(replace(said, heard_s=now_s()))

    async def _arrive(self) -> None:
        for slot in self.trace:
            if slot.arrived_s > now_s():
                await asyncio.sleep(slot.arrived_s - now_s())
            self._deliver(job_of(slot))

    def _deliver(self, job: Job) -> None:
        owner = self._owner_of(job.key.offset)
        if owner in self._unread:
            self._unread[owner].append(job)
        else:
            self._members[owner].submit(job)

    def _owner_of(self, number: int) -> int:
        handed_to = self._handed_to.get(number)
        if handed_to is None:
            return self._ticks_of[self._partitions[number]]
        return self._handovers_of[handed_to]

    async def _die(self, moment_s: float, worker: int, task: asyncio.Task[None]) -> None:
        """Stop a worker; what it owned goes to the others once its session has ended."""
        await asyncio.sleep(max(0.0, moment_s - now_s()))
        self._unread[worker] = []
        task.cancel()
        await asyncio.wait({task})
        self._unread[worker] += self._members[worker].leave_all()
        await asyncio.sleep(self._fleet.session_s)
        living = [number for number in range(self._fleet.workers) if number not in self._unread]
        for owners in (self._ticks_of, self._handovers_of):
            for number, owner in enumerate(owners):
                if owner == worker:
                    owners[number] = living[number % len(living)]
        for job in self._unread[worker]:
            self._run.read_again += 1
            self._deliver(replace(job_of(self.trace[job.key.offset]), hop=job.hop))
