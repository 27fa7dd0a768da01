"""One run: a cluster, workers, ticks and faults, and in the end the verdict."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka import KafkaException

from consumer.kafka.topics import create_topics
from tests.chaos import checker
from tests.chaos.checker import Observation, Verdict, judge, observe
from tests.chaos.faults import LANES, Chaos, Fault
from tests.chaos.fleet import Fleet, WorkerStopError
from tests.chaos.history import History, Recovery, Struck, clock
from tests.chaos.producer import TickProducer
from tests.support.lane import Lane
from tests.support.proxied_kafka import ProxiedKafka

NODES = 3
TICKS, RESULTS, DEAD_LETTER = "chaos.ticks", "chaos.results", "chaos.dead-letter"
HANDOVER, WORKERS = "chaos.handover", "chaos.workers"
# Longer than those of other tests: brokers that are struck take seconds to answer.
LIMITS = {
    "session_timeout_s": 3.0,
    "rebalance_timeout_s": 5.0,
    "request_timeout_s": 8.0,
    "transaction_timeout_s": 8.0,
}
PAUSE_S = (1.0, 6.0)
"""Between two faults of a lane."""
START_TIMEOUT_S = 90.0
SERVING_TIMEOUT_S = 120.0
"""After the last fault every worker serves again within this."""
SETTLE_TIMEOUT_S = 120.0
"""After the last tick everything has its outcome within this."""
ABORT_DELAY_S = 5.0
"""How long after a transaction's time limit the brokers have aborted it for certain.

They look every second (`transaction.abort.timed.out.transaction.cleanup.interval.ms`).
"""
OBSERVE_S = 1.0
SUPERVISE_S = 0.2
MAX_STORIES = 5


@dataclass
class Report:
    """What a run has shown."""

    seed: int
    minutes: float
    history: History
    seen: Observation
    verdict: Verdict
    troubles: list[str] = field(default_factory=list)
    """What went wrong beside the outcomes: workers that died by themselves, or never served."""

    @property
    def passed(self) -> bool:
        return not self.verdict.findings and not self.troubles

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(outcome.kind for outcome in self.seen.outcomes)

    @property
    def faults(self) -> Counter[str]:
        return Counter(fault.name for fault in self.history.faults)

    @property
    def odd_ticks(self) -> Counter[str]:
        return Counter(sent.kind for sent in self.history.sent if sent.kind != "good")

    @property
    def made_after_handover(self) -> int:
        """How many ticks that were handed over were made in time."""
        return sum(
            outcome.kind == "slot-complete" and outcome.event["handed_over"] is not None
            for outcome in self.seen.outcomes
        )

    @property
    def struck_on_their_way(self) -> int:
        """How many handovers a fault of workers or engines met: written or being so, not answered.

        A second before Kafka has the record counts in, as the donor's transaction is on then.
        """
        names = {fault.name for fault in LANES["workers"]}
        began_s = [each.began_s for each in self.history.faults if each.name in names]
        answered_s = {outcome.source: outcome.written_s for outcome in self.seen.outcomes}
        return sum(
            any(hop.written_s - 1.0 <= at_s <= answered_s.get(hop.source, 0.0) for at_s in began_s)
            for hop in self.seen.hops
            if hop.source is not None
        )

    @property
    def longest(self) -> Recovery | None:
        """The recovery that took longest."""
        served = [each for each in self.history.recoveries(self.seen.outcomes) if each.seconds]
        return max(served, key=lambda each: each.seconds or 0.0, default=None)

    def story(self) -> str:
        """Return every finding, and the whole history of the first ones' ticks."""
        lines = [f"seed {self.seed}, logs in {self.history.directory}", *self.troubles]
        for number, finding in enumerate(self.verdict.findings):
            what = f"{finding.kind}: {checker.KINDS[finding.kind]}; {finding.detail}"
            lines.append(f"tick {finding.source}, {what}")
            if finding.source is not None and number < MAX_STORIES:
                lines.append(self.history.of(finding.source, self.seen))
        return "\n".join(lines)


async def run_chaos(
    seed: int,
    minutes: float,
    workers: int = 3,
    tell: Callable[[str], None] = lambda _: None,
    *,
    handover: bool = True,
    quiet: bool = False,
) -> Report:
    """Run, and judge.

    Args:
        seed: of ticks and faults.
        minutes: for which faults go on.
        workers: how many processes.
        tell: called with a line for everything that happens.
        handover: whether workers hand ticks over; then some come in bursts.
        quiet: without any fault.

    Raises:
        Exception: the harness itself failed; the workers have not been judged.
    """
    directory = Path(tempfile.mkdtemp(prefix="vortex-chaos-"))
    run = _Run(seed, workers, directory, tell, handover, quiet)
    report = await run.through(minutes)
    if report.passed:
        shutil.rmtree(directory)
    return report


class _Run:
    def __init__(
        self,
        seed: int,
        workers: int,
        directory: Path,
        tell: Callable[[str], None],
        handover: bool,
        quiet: bool,
    ) -> None:
        self._seed = seed
        self._workers = workers
        self._tell = tell
        self._handover = handover
        self._lanes: dict[str, tuple[Fault, ...]] = {} if quiet else LANES
        self._history = History(directory)
        self._troubles: list[str] = []

    async def through(self, minutes: float) -> Report:
        kafka = ProxiedKafka(NODES)
        await asyncio.to_thread(kafka.kafka.start)
        try:
            async with kafka:
                return await self._through(kafka, minutes)
        finally:
            await asyncio.to_thread(kafka.kafka.stop)

    async def _through(self, kafka: ProxiedKafka, minutes: float) -> Report:
        direct = kafka.kafka.bootstrap_servers
        partitions = 2 * self._workers
        await make_topics(direct, partitions, NODES, self._workers if self._handover else None)
        more = {"handover": HANDOVER, "workers": WORKERS} if self._handover else {}
        lane = Lane.of(kafka.bootstrap_servers, TICKS, RESULTS, DEAD_LETTER, **more)
        config = lane.config.model_copy(update=LIMITS)
        at_brokers = config.model_copy(update={"bootstrap_servers": direct})
        topics = config.topics
        self._lane = checker.Lane(
            direct, TICKS, RESULTS, DEAD_LETTER, config.group_id, topics.handover
        )
        self._history.lane = self._lane
        producer = TickProducer(
            at_brokers, partitions, self._random("ticks"), bursts=self._handover
        )
        self._history.sent = producer.sent
        with Fleet(self._workers, config, self._history.directory) as fleet:
            await self._storm(Chaos(kafka, fleet, producer, config), minutes)
            await self._settle()
            # Who stops well leaves no transaction open. Where the others do, the brokers end it.
            patience_s = 0.0
            try:
                await fleet.stop()
            except WorkerStopError as error:
                self._troubles.append(str(error))
                patience_s = config.transaction_timeout_s + ABORT_DELAY_S
        seen = await observe_closed(lambda: asyncio.to_thread(observe, self._lane), patience_s)
        return Report(self._seed, minutes, self._history, seen, judge(seen), self._troubles)

    async def _storm(self, chaos: Chaos, minutes: float) -> None:
        """Strike while ticks come, and go on until every worker serves again."""
        async with asyncio.TaskGroup() as tasks:
            producing = tasks.create_task(chaos.producer.run())
            supervising = tasks.create_task(self._supervise(chaos.fleet))
            await self._watch(
                "workers that never served",
                START_TIMEOUT_S,
                lambda seen: set(chaos.fleet.ids) - {outcome.worker for outcome in seen.outcomes},
            )
            end_s = time.monotonic() + 60 * minutes
            async with asyncio.TaskGroup() as striking:
                striking.create_task(asyncio.sleep(60 * minutes))
                for name, faults in self._lanes.items():
                    striking.create_task(self._strike_in_turn(name, faults, chaos, end_s))
            await self._watch("workers that do not serve again", SERVING_TIMEOUT_S, self._unserved)
            chaos.producer.stop()
            await producing
            supervising.cancel()

    async def _strike_in_turn(
        self, name: str, faults: Iterable[Fault], chaos: Chaos, end_s: float
    ) -> None:
        """Strike with every fault of a lane once, in a random order, and over again."""
        random = self._random(name)
        while time.monotonic() < end_s:
            for fault in random.sample(list(faults), len(list(faults))):
                await asyncio.sleep(random.uniform(*PAUSE_S))
                if time.monotonic() >= end_s:
                    return
                await self._strike(fault, chaos, Random(random.getrandbits(64)))

    async def _strike(self, fault: Fault, chaos: Chaos, random: Random) -> None:
        hold_s = random.uniform(*fault.hold_s)
        struck = Struck(fault.name, "begins", (), time.time())
        self._history.faults.append(struck)
        try:
            async with fault.strike(chaos, random) as hit:
                if hit is None:
                    self._history.faults.remove(struck)
                    return
                struck.detail, struck.workers = hit.detail, hit.workers
                self._tell(f"{clock(struck.began_s)} {fault.name}: {hit.detail}")
                await asyncio.sleep(hold_s)
        except WorkerStopError as error:
            self._troubles.append(f"{clock(time.time())} {error}")
            self._tell(self._troubles[-1])
            for worker in chaos.fleet:
                if worker.down:
                    worker.start()
        struck.ended_s = time.time()

    async def _supervise(self, fleet: Fleet) -> None:
        """Start again what ended by itself, as a service manager would, and take note of it."""
        while True:
            for worker in fleet:
                if (code := worker.exit_code) is not None:
                    trouble = f"{worker.id} ended by itself with exit code {code}"
                    self._troubles.append(f"{clock(time.time())} {trouble}")
                    self._tell(self._troubles[-1])
                    worker.kill()
                    worker.start()
            await asyncio.sleep(SUPERVISE_S)

    async def _settle(self) -> None:
        """Wait until every tick is answered; what is not then shows in the verdict."""
        await self._watch(
            "not settled",
            SETTLE_TIMEOUT_S,
            lambda seen: set() if (verdict := judge(seen)).settled else {len(verdict.findings)},
        )

    async def _watch(
        self, what: str, timeout_s: float, missing: Callable[[Observation], set[object]]
    ) -> None:
        """Observe until nothing is missing; take note of what is still missing in the end."""
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                found = missing(await asyncio.to_thread(observe, self._lane))
            except (KafkaException, TimeoutError) as error:
                found = {repr(error)}
            if not found:
                return
            if time.monotonic() > end_s:
                listed = ", ".join(sorted(map(str, found)))
                self._troubles.append(f"{what} after {timeout_s:.0f} s: {listed}")
                return
            await asyncio.sleep(OBSERVE_S)

    def _unserved(self, seen: Observation) -> set[object]:
        recoveries = self._history.recoveries(seen.outcomes)
        return {
            f"{each.worker} after {each.fault.name}" for each in recoveries if each.seconds is None
        }

    def _random(self, purpose: str) -> Random:
        return Random(f"{self._seed}/{purpose}")


async def observe_closed(
    look: Callable[[], Awaitable[Observation]], patience_s: float
) -> Observation:
    """Look until no transaction is open; return the last look after so many seconds in any case."""
    end_s = time.monotonic() + patience_s
    while (seen := await look()).open_transactions and time.monotonic() < end_s:
        await asyncio.sleep(OBSERVE_S)
    return seen


async def make_topics(
    bootstrap_servers: str, partitions: int, replicas: int, handover: int | None = None
) -> None:
    """Create the topics of ticks, with so many partitions, results, dead letters, and handovers.

    With None there are no handovers, and no announcements of the workers either.
    """
    more = {} if handover is None else {HANDOVER: handover, WORKERS: 1}
    await create_topics(
        AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers),
        {TICKS: partitions, RESULTS: NODES, DEAD_LETTER: 1, **more},
        replication_factor=replicas,
        configs={"min.insync.replicas": str((replicas + 1) // 2)},
        compacted=[WORKERS],
        timeout_s=60,
    )
