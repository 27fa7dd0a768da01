"""Emits ticks of every kind, good and bad, as a seed says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from random import Random

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from consumer.config import KafkaConfig
from consumer.kafka.clients import make_plain_producer
from schemas import AudioTrack
from tests.chaos.maker import script
from tests.support.lane import RECIPE, tick
from tests.support.odd_records import emit_with_header_name

TICKS_PER_S = 8.0
STOP_TIMEOUT_S = 60.0
KINDS = {
    "good": 60,
    "tight": 10,
    "hopeless": 4,
    "late": 6,
    "failing": 5,
    "losing": 3,
    "duplicate": 6,
    "malformed": 4,
    "bad header": 2,
}
"""Kinds of ticks by weight."""
BURST_WEIGHT = 4
BURST_TICKS = 10
BURST_WORK_S = (0.3, 0.5)
BURST_DEADLINE_S = (2.5, 4.0)
"""A burst is more than the worker that reads it can make, and not more than all can."""
MALFORMED = (b"\xff\xfe no JSON", b"{}", b'{"slot_id": -1}', b"", b"\x00\x00\x00\x00\x07{}", None)


@dataclass
class Sent:
    """A tick that was emitted, and where it stands if Kafka has said so."""

    kind: str
    slot_id: int
    at_s: float
    partition: int
    offset: int | None = None
    error: str | None = None


class TickProducer:
    """Emits ticks until told to stop; goes to the brokers directly, not through the proxies."""

    def __init__(
        self,
        config: KafkaConfig,
        partitions: int,
        random: Random,
        leave_out: Collection[str] = (),
        bursts: bool = False,
    ) -> None:
        """Emit nothing yet.

        Args:
            config: brokers and topic.
            partitions: of the topic of ticks; may grow by `grow`.
            random: decides everything.
            leave_out: kinds of ticks that are not emitted.
            bursts: whether several ticks at once come to one partition now and then, to the first
                ones more often: so that one worker has too much to do while others have time.
        """
        self.sent: list[Sent] = []
        self.partitions = partitions
        self._config = config
        self._random = random
        kinds = KINDS | ({"burst": BURST_WEIGHT} if bursts else {})
        self._kinds = {kind: weight for kind, weight in kinds.items() if kind not in leave_out}
        self._last: bytes | None = None
        self._producer: AIOKafkaProducer | None = None
        self._stop = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Emit until `stop`, then wait for what is on its way."""
        self._producer = make_plain_producer(self._config, client_id="chaos-producer")
        await self._producer.start()
        try:
            while not self._stop.is_set():
                self._emit_some()
                try:
                    async with asyncio.timeout(self._random.expovariate(TICKS_PER_S)):
                        await self._stop.wait()
                except TimeoutError:
                    pass
            if self._sending:
                await asyncio.wait(self._sending, timeout=STOP_TIMEOUT_S)
        finally:
            for task in self._sending:
                task.cancel()
            await self._producer.stop()

    def stop(self) -> None:
        """Have `run` end."""
        self._stop.set()

    async def grow(self, partitions: int) -> None:
        """Emit to partitions that were added, too."""
        assert self._producer is not None
        await self._producer.client.force_metadata_update()
        self.partitions = partitions

    async def emit_to(self, partition: int, kind: str, slot_id: int, value: bytes) -> Sent:
        """Emit a value now, and wait until it is stored."""
        sent = self._note(kind, slot_id, partition)
        await self._deliver(sent, lambda: self._send(value, partition))
        return sent

    def good_tick(self, slot_id: int) -> bytes:
        """Return the JSON of a tick that can be made in time."""
        value = self._value("good", slot_id)
        assert value is not None
        return value

    def _emit_some(self) -> None:
        random = self._random
        (kind,) = random.choices(list(self._kinds), list(self._kinds.values()))
        if kind == "burst":
            partition = int(self.partitions * random.random() ** 2)
            for _ in range(BURST_TICKS):
                self._emit_one(kind, partition)
        else:
            self._emit_one(kind, random.randrange(self.partitions))

    def _emit_one(self, kind: str, partition: int) -> None:
        sent = self._note(kind, len(self.sent) + 1, partition)
        deliver: Callable[[], Awaitable[RecordMetadata]]
        if kind == "bad header":
            servers, topic = self._config.bootstrap_servers, self._config.topics.ticks
            name, value = b"\xff\xfe", self._value("good", sent.slot_id)

            def deliver() -> Awaitable[RecordMetadata]:
                return emit_with_header_name(servers, topic, sent.partition, name, value)
        else:
            content = self._value(kind, sent.slot_id)

            def deliver() -> Awaitable[RecordMetadata]:
                return self._send(content, sent.partition)

        task = asyncio.create_task(self._deliver(sent, deliver))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _value(self, kind: str, slot_id: int) -> bytes | None:
        random = self._random
        if kind == "malformed":
            return random.choice(MALFORMED)
        if kind == "duplicate" and self._last is not None:
            return self._last
        seconds, deadline_s, ending = random.uniform(0.0, 0.3), random.uniform(10, 40), "made"
        match kind:
            case "burst":
                seconds, deadline_s = (
                    random.uniform(*BURST_WORK_S),
                    random.uniform(*BURST_DEADLINE_S),
                )
            case "tight":
                deadline_s = seconds + random.uniform(0.0, 1.0)
            case "hopeless":
                seconds = deadline_s + 5
            case "late":
                deadline_s = -random.uniform(0.0, 5.0)
            case "failing":
                ending = "failed"
            case "losing":
                ending = "lost"
        track = AudioTrack(script=script(seconds, ending))
        recipe = RECIPE.model_copy(update={"audio_track": track})
        value = tick(slot_id, deadline_s, recipe=recipe).model_dump_json().encode()
        if kind == "good":
            self._last = value
        return value

    def _note(self, kind: str, slot_id: int, partition: int) -> Sent:
        sent = Sent(kind, slot_id, time.time(), partition)
        self.sent.append(sent)
        return sent

    async def _send(self, value: bytes | None, partition: int) -> RecordMetadata:
        assert self._producer is not None
        topic = self._config.topics.ticks
        # A record without a value needs a key.
        return await self._producer.send_and_wait(topic, value, key=b"k", partition=partition)

    async def _deliver(self, sent: Sent, deliver: Callable[[], Awaitable[RecordMetadata]]) -> None:
        try:
            sent.offset = (await deliver()).offset
        except KafkaError as error:  # it may be stored all the same; the topic will show
            sent.error = repr(error)
