"""What Kafka and the disk say in the end, judged by readers that share no code with the worker.

Everything is read with librdkafka, isolation level `read_committed`. The encoding of the done map,
the layout of the events and the headers of a handover are written down here a second time, on
purpose.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

ANSWER_TIMEOUT_S = 20.0
END_MS = 50
"""Without a record, after which a partition counts as read to its end."""
SILENT = 2
"""Of librdkafka's levels: no line for every broker that is down."""
OFFSETS_TOPIC = "__consumer_offsets"
OFFSET_KEY_MAX_VERSION, OFFSET_VALUE_VERSION = 1, 4
DONE_MAP_PREFIX = "vortex-done-1:"
HOP_PREFIX = "vortex-handover-"


class Source(NamedTuple):
    """The partition and the offset of a record: of a tick, if nothing else is said."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset}"


NOWHERE = Source(-1, -1)
"""Where no tick is: what names another topic than that of the ticks comes from here."""


@dataclass(frozen=True)
class Lane:
    """What is read: brokers, topics and the group of the workers."""

    bootstrap_servers: str
    ticks: str
    results: str
    dead_letter: str
    group: str
    handover: str | None = None
    """None: ticks are not handed over."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The topics whose offsets the group commits."""
        return (self.ticks,) if self.handover is None else (self.ticks, self.handover)


@dataclass(frozen=True)
class Outcome:
    """A committed record that answers a tick."""

    kind: str
    """`slot-complete`, `deadline-missed` or `dead-letter`."""
    source: Source
    at: str
    """Where the record is: topic, partition and offset."""
    written_s: float
    """Its timestamp, seconds since the epoch."""
    event: Mapping[str, Any]
    """The JSON value; empty for a dead letter."""

    @property
    def worker(self) -> str | None:
        """Who decided, if the record says so."""
        return self.event["worker"]["id"] if self.event else None

    @property
    def is_receivers(self) -> bool:
        """Whether it may come from a receiver of the tick; a dead letter does not say."""
        return not self.event or self.event.get("handed_over") is not None


@dataclass(frozen=True)
class Hop:
    """A committed record among the handovers: a tick on its way to another worker."""

    source: Source | None
    """Of the tick; None if the record does not say, or names another topic."""
    place: Source
    """Of this record, in the topic of handovers."""
    at: str
    """Where that is: topic, partition and offset."""
    worker: str
    """Who handed the tick over."""
    written_s: float


@dataclass(frozen=True)
class Committed:
    """What is committed for one partition."""

    offset: int
    done: frozenset[int]

    def covers(self, offset: int) -> bool:
        """Whether the tick at this offset counts as finished."""
        return offset < self.offset or offset in self.done


@dataclass(frozen=True)
class Observation:
    """Everything that a run has left behind in Kafka."""

    ticks: Mapping[Source, float]
    """Every tick, with its timestamp in seconds since the epoch."""
    outcomes: Sequence[Outcome]
    committed: Mapping[int, Committed]
    """By partition of the ticks."""
    open_transactions: Sequence[str]
    """Partitions that a transaction keeps open, in words."""
    hops: Sequence[Hop] = ()
    committed_hops: Mapping[int, Committed] = field(default_factory=dict)
    """By partition of the handovers."""
    hops_end: Mapping[int, int] = field(default_factory=dict)
    """Where the log of handovers ends, by partition: behind the last record or marker."""


@dataclass(frozen=True)
class Finding:
    """One thing that must not be."""

    kind: str
    source: Source | None
    detail: str


KINDS = {
    "lost": "its offset is committed, and there is no outcome",
    "unanswered": "no outcome, and its offset is not committed",
    "doubled": "more than one outcome, or an outcome of the worker that has handed the tick over",
    "handed over twice": "more than one record among the handovers",
    "stray": "an outcome, a handover or a committed offset of a tick that does not exist",
    "late": "slot-complete that was decided after its deadline",
    "artifact": "slot-complete whose artifact is missing or torn",
    "no offset": "an outcome or a handover whose offset is not committed",
    "open": "a transaction that was neither committed nor aborted",
}


@dataclass
class Verdict:
    """The findings of a whole history."""

    findings: list[Finding] = field(default_factory=list)

    def of(self, kind: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == kind]

    @property
    def settled(self) -> bool:
        """Whether nothing is under way any more: waiting longer would change nothing."""
        return not any(map(self.of, ("unanswered", "no offset", "open")))


# --- observing ------------------------------------------------------------------------------


def observe(lane: Lane) -> Observation:
    """Read everything; blocks.

    Raises:
        KafkaException: the brokers do not answer.
        TimeoutError: a topic could not be read to its end.
    """
    admin = AdminClient({"bootstrap.servers": lane.bootstrap_servers, "log_level": SILENT})
    # In this order, so that an outcome written meanwhile is never taken for one too few offsets.
    outcomes = [
        *(_outcome(lane, message) for message in _read(lane, lane.results)),
        *(_dead_letter(lane, message) for message in _read(lane, lane.dead_letter)),
    ]
    handed_over = () if lane.handover is None else _read(lane, lane.handover)
    hops = [_hop(lane, message) for message in handed_over]
    committed = _committed(lane)
    ticks = {
        Source(message.partition(), message.offset()): message.timestamp()[1] / 1000
        for message in _read(lane, lane.ticks)
    }
    # Transactions put markers between the records, and offsets are committed beyond these.
    hops_end = {} if lane.handover is None else _ends(admin, lane.handover)
    written = [lane.results, lane.dead_letter, *lane.inputs[1:]]
    open_transactions = [
        *_undecided_offsets(admin, lane),
        *(place for topic in written for place in _left_open(admin, topic)),
    ]
    return Observation(
        ticks,
        outcomes,
        committed[lane.ticks],
        open_transactions,
        hops,
        {} if lane.handover is None else committed[lane.handover],
        hops_end,
    )


def decode_done(committed: int, metadata: str) -> frozenset[int]:
    """Return the finished offsets above the committed one: bit i is offset committed + 1 + i."""
    if not metadata:
        return frozenset()
    if not metadata.startswith(DONE_MAP_PREFIX):
        raise ValueError(f"offset metadata {metadata[:80]!r} does not start with {DONE_MAP_PREFIX}")
    bits = int.from_bytes(
        base64.b64decode(metadata.removeprefix(DONE_MAP_PREFIX), validate=True), "little"
    )
    return frozenset(committed + 1 + i for i in range(bits.bit_length()) if bits >> i & 1)


def _read(lane: Lane, topic: str) -> Iterator[Message]:
    reader = Consumer(
        {
            "bootstrap.servers": lane.bootstrap_servers,
            "group.id": "chaos-checker",  # librdkafka wants one; nothing is committed with it
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": END_MS,
            "auto.offset.reset": "earliest",
            "check.crcs": True,
            "log_level": SILENT,
        }
    )
    # librdkafka tells the end of a partition only after `END_MS` without a record, which where the
    # group commits may not come for minutes.
    began_ms = 1000 * time.time()
    try:
        count = len(reader.list_topics(topic, ANSWER_TIMEOUT_S).topics[topic].partitions)
        reader.assign([TopicPartition(topic, number, 0) for number in range(count)])
        unread = set(range(count))
        while unread:
            message = reader.poll(ANSWER_TIMEOUT_S)
            if message is None:
                raise TimeoutError(f"{topic} partitions {sorted(unread)} have no end")
            if message.error() is None:
                if message.timestamp()[1] > began_ms:
                    unread.discard(message.partition())
                yield message
            elif message.error().code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
            else:
                raise KafkaException(message.error())
    finally:
        reader.close()


def _outcome(lane: Lane, message: Message) -> Outcome:
    event = json.loads(message.value())
    source = _source(lane, event["source"]) or NOWHERE
    return Outcome(event["type"], source, _place(message), message.timestamp()[1] / 1000, event)


def _dead_letter(lane: Lane, message: Message) -> Outcome:
    source = _source(lane, _headers(message, "__dlq.errors.")) or NOWHERE
    return Outcome("dead-letter", source, _place(message), message.timestamp()[1] / 1000, {})


def _hop(lane: Lane, message: Message) -> Hop:
    told = _headers(message, HOP_PREFIX)
    return Hop(
        source=_source(lane, told),
        place=Source(message.partition(), message.offset()),
        at=_place(message),
        worker=told.get("worker", "nobody"),
        written_s=message.timestamp()[1] / 1000,
    )


def _headers(message: Message, prefix: str) -> dict[str, str]:
    """Return the headers with a prefix, by their names without it."""
    return {
        name.removeprefix(prefix): (value or b"").decode()
        for name, value in message.headers() or ()
        if name.startswith(prefix)
    }


def _source(lane: Lane, told: Mapping[str, Any]) -> Source | None:
    """Return the tick that something says it comes from; None if it names no tick's place."""
    if told.get("topic") != lane.ticks:
        return None
    return Source(int(told["partition"]), int(told["offset"]))


def _place(message: Message) -> str:
    return f"{message.topic()}/{message.partition()}/{message.offset()}"


def _partitions(admin: AdminClient, topic: str) -> list[TopicPartition]:
    found = admin.list_topics(topic, timeout=ANSWER_TIMEOUT_S).topics[topic].partitions
    return [TopicPartition(topic, number) for number in found]


def _committed(lane: Lane) -> dict[str, dict[int, Committed]]:
    """Read the group's offsets, by topic, in Kafka's own topic: what is decided there counts.

    The admin API would answer from a coordinator's memory, and librdkafka's hands out metadata with
    stray bytes behind it.
    """
    committed: dict[str, dict[int, Committed]] = {topic: {} for topic in lane.inputs}
    for message in _read(lane, OFFSETS_TOPIC):
        key, value = message.key(), message.value()
        (version,) = struct.unpack_from(">h", key)
        if version > OFFSET_KEY_MAX_VERSION:
            continue  # about the group's members
        group, at = _string(key, 2)
        topic, at = _string(key, at)
        (partition,) = struct.unpack_from(">i", key, at)
        if group == lane.group and topic in committed:
            committed[topic][partition] = _committed_value(value)
    return committed


def _committed_value(value: bytes) -> Committed:
    """Parse version 4 of OffsetCommitValue, which brokers of 4.0 and later write."""
    version, offset = struct.unpack_from(">hq", value)
    if version != OFFSET_VALUE_VERSION:
        raise ValueError(f"offset commit of version {version}, not {OFFSET_VALUE_VERSION}")
    size, at, shift = 0, 14, 0
    while True:  # the size as a varint
        size |= (value[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not value[at - 1] & 0x80:
            break
    metadata = value[at : at + size - 1].decode()
    return Committed(offset, decode_done(offset, metadata.rstrip("\0")))  # of librdkafka's making


def _string(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", data, at)
    return data[at + 2 : at + 2 + size].decode(), at + 2 + size


def _undecided_offsets(admin: AdminClient, lane: Lane) -> Iterator[str]:
    """Yield the partitions whose offset a transaction has written and not yet decided."""
    partitions = [each for topic in lane.inputs for each in _partitions(admin, topic)]
    request = ConsumerGroupTopicPartitions(lane.group, partitions)
    answer = admin.list_consumer_group_offsets(
        [request], require_stable=True, request_timeout=ANSWER_TIMEOUT_S
    )
    try:
        found = answer[lane.group].result().topic_partitions
    except KafkaException as error:
        yield f"offsets of {lane.group}: {error.args[0].str()}"
    else:
        for at in found:
            if at.error:
                yield f"offset of {at.topic}/{at.partition}: {at.error.str()}"


def _left_open(admin: AdminClient, topic: str) -> Iterator[str]:
    stable = _ends(admin, topic, IsolationLevel.READ_COMMITTED)
    for number, end in _ends(admin, topic).items():
        if stable[number] < end:
            yield f"{topic}/{number} ends at {end}, but for its readers at {stable[number]}"


def _ends(
    admin: AdminClient, topic: str, level: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
) -> dict[int, int]:
    query = dict.fromkeys(_partitions(admin, topic), OffsetSpec.latest())
    answer = admin.list_offsets(query, isolation_level=level, request_timeout=ANSWER_TIMEOUT_S)
    return {at.partition: each.result().offset for at, each in answer.items()}


# --- judging --------------------------------------------------------------------------------


def judge(seen: Observation) -> Verdict:
    """Hold every tick against what must be true of it."""
    outcomes: dict[Source, list[Outcome]] = {}
    for outcome in seen.outcomes:
        outcomes.setdefault(outcome.source, []).append(outcome)
    hops: dict[Source, list[Hop]] = {}
    for hop in seen.hops:
        hops.setdefault(hop.source or NOWHERE, []).append(hop)
    verdict = Verdict()
    add = verdict.findings.append
    for source in seen.ticks:
        mine = outcomes.get(source, []), hops.get(source, [])
        for kind, detail in _judge_tick(source, *mine, seen):
            add(Finding(kind, source, detail))
    for source in outcomes.keys() - seen.ticks.keys():
        add(Finding("stray", source, f"answered at {outcomes[source][0].at}"))
    for source in hops.keys() - seen.ticks.keys():
        add(Finding("stray", source, f"handed over at {hops[source][0].at}"))
    ends: dict[int, int] = {}
    for source in seen.ticks:
        ends[source.partition] = max(ends.get(source.partition, 0), source.offset + 1)
    for place in _beyond(seen.committed, ends):
        add(Finding("stray", place, f"committed, but the log ends at {ends.get(place.partition)}"))
    for place in _beyond(seen.committed_hops, seen.hops_end):
        add(Finding("stray", None, f"handover {place} is committed, which is beyond their log"))
    for where in seen.open_transactions:
        add(Finding("open", None, where))
    return verdict


def _beyond(committed: Mapping[int, Committed], ends: Mapping[int, int]) -> Iterator[Source]:
    """Yield the highest offset that is committed, where the log does not reach so far."""
    for number, each in committed.items():
        highest = max([each.offset, *(offset + 1 for offset in each.done)])
        if highest > ends.get(number, 0):
            yield Source(number, highest - 1)


def _judge_tick(
    source: Source, outcomes: Sequence[Outcome], hops: Sequence[Hop], seen: Observation
) -> Iterator[tuple[str, str]]:
    owner = seen.committed.get(source.partition)
    done = _covers(owner, source)
    if len(hops) > 1:
        yield "handed over twice", ", ".join(hop.at for hop in hops)
    # What became of it where it was read: an outcome, or a handover.
    first = [each for each in outcomes if not (hops and each.is_receivers)]
    if (first or hops) and not done:
        where = f"answered at {first[0].at}" if first else f"handed over at {hops[0].at}"
        yield "no offset", f"{where}, committed: {_words(owner)}"
    if not outcomes and not hops:
        yield ("lost" if done else "unanswered"), f"committed: {_words(owner)}"
    for hop in hops:
        yield from _judge_hop(hop, outcomes, seen)
    if len(outcomes) > 1 or (first and hops):
        yield "doubled", ", ".join(each.at for each in (*outcomes, *hops))
    for outcome in outcomes:
        if not hops and outcome.event.get("handed_over") is not None:
            yield "stray", f"answered at {outcome.at} as handed over, which it was not"
        if outcome.kind == "slot-complete":
            yield from _judge_complete(outcome)


def _judge_hop(
    hop: Hop, outcomes: Sequence[Outcome], seen: Observation
) -> Iterator[tuple[str, str]]:
    """Judge what became of a tick where it was handed over to."""
    owner = seen.committed_hops.get(hop.place.partition)
    done = _covers(owner, hop.place)
    received = [each for each in outcomes if each.is_receivers]
    words = f"handed over at {hop.at}, committed there: {_words(owner)}"
    if not received:
        yield ("lost" if done else "unanswered"), words
    elif not done:
        yield "no offset", f"answered at {received[0].at}, {words}"


def _covers(committed: Committed | None, place: Source) -> bool:
    return committed is not None and committed.covers(place.offset)


def _judge_complete(outcome: Outcome) -> Iterator[tuple[str, str]]:
    event = outcome.event
    deadline, decided = map(datetime.fromisoformat, (event["deadline"], event["decided_at"]))
    if decided >= deadline or event["slack_ms"] <= 0:
        yield "late", f"decided {decided}, deadline {deadline}"
    artifact = event["artifact"]
    path = Path(unquote(urlparse(artifact["uri"]).path))
    if not path.is_file():
        yield "artifact", f"{artifact['uri']} is missing"
        return
    content = path.read_bytes()
    if (len(content), hashlib.sha256(content).hexdigest()) != (
        artifact["bytes"],
        artifact["sha256"],
    ):
        yield "artifact", f"{artifact['uri']} has {len(content)} bytes, and not the event's sha256"


def _words(committed: Committed | None) -> str:
    if committed is None:
        return "nothing"
    return f"{committed.offset}, and above it {sorted(committed.done)}"
