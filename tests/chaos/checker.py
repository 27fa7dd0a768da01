"""What Kafka and the disk say in the end, judged by readers that share no code with the worker.

Everything is read with librdkafka, isolation level `read_committed`. The encoding of the done map
and the layout of the events are written down here a second time, on purpose.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
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
SILENT = 2
"""Of librdkafka's levels: no line for every broker that is down."""
OFFSETS_TOPIC = "__consumer_offsets"
OFFSET_KEY_MAX_VERSION, OFFSET_VALUE_VERSION = 1, 4
DONE_MAP_PREFIX = "vortex-done-1:"


class Source(NamedTuple):
    """The partition and the offset of a tick."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset}"


@dataclass(frozen=True)
class Lane:
    """What is read: brokers, topics and the group of the workers."""

    bootstrap_servers: str
    ticks: str
    results: str
    dead_letter: str
    group: str


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


@dataclass(frozen=True)
class Committed:
    """What is committed for one partition of ticks."""

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
    open_transactions: Sequence[str]
    """Partitions that a transaction keeps open, in words."""


@dataclass(frozen=True)
class Finding:
    """One thing that must not be."""

    kind: str
    source: Source | None
    detail: str


KINDS = {
    "lost": "its offset is committed, and there is no outcome",
    "unanswered": "no outcome, and its offset is not committed",
    "doubled": "more than one outcome",
    "stray": "an outcome, or a committed offset, of a tick that does not exist",
    "late": "slot-complete that was decided after its deadline",
    "artifact": "slot-complete whose artifact is missing or torn",
    "no offset": "an outcome whose offset is not committed",
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
        *(_outcome(message) for message in _read(lane, lane.results)),
        *(_dead_letter(message) for message in _read(lane, lane.dead_letter)),
    ]
    committed = _committed(lane)
    ticks = {
        Source(message.partition(), message.offset()): message.timestamp()[1] / 1000
        for message in _read(lane, lane.ticks)
    }
    open_transactions = [
        *_undecided_offsets(admin, lane),
        *_left_open(admin, lane.results),
        *_left_open(admin, lane.dead_letter),
    ]
    return Observation(ticks, outcomes, committed, open_transactions)


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
            "auto.offset.reset": "earliest",
            "check.crcs": True,
            "log_level": SILENT,
        }
    )
    try:
        count = len(reader.list_topics(topic, ANSWER_TIMEOUT_S).topics[topic].partitions)
        reader.assign([TopicPartition(topic, number, 0) for number in range(count)])
        unread = set(range(count))
        while unread:
            message = reader.poll(ANSWER_TIMEOUT_S)
            if message is None:
                raise TimeoutError(f"{topic} partitions {sorted(unread)} have no end")
            if message.error() is None:
                yield message
            elif message.error().code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
            else:
                raise KafkaException(message.error())
    finally:
        reader.close()


def _outcome(message: Message) -> Outcome:
    event = json.loads(message.value())
    source = Source(event["source"]["partition"], event["source"]["offset"])
    return Outcome(event["type"], source, _place(message), message.timestamp()[1] / 1000, event)


def _dead_letter(message: Message) -> Outcome:
    errors = {name: value for name, value in message.headers() if name.startswith("__dlq.errors.")}
    source = Source(
        int(errors["__dlq.errors.partition"] or -1), int(errors["__dlq.errors.offset"] or -1)
    )
    return Outcome("dead-letter", source, _place(message), message.timestamp()[1] / 1000, {})


def _place(message: Message) -> str:
    return f"{message.topic()}/{message.partition()}/{message.offset()}"


def _partitions(admin: AdminClient, topic: str) -> list[TopicPartition]:
    found = admin.list_topics(topic, timeout=ANSWER_TIMEOUT_S).topics[topic].partitions
    return [TopicPartition(topic, number) for number in found]


def _committed(lane: Lane) -> dict[int, Committed]:
    """Read the group's offsets in Kafka's own topic: what is decided there is what counts.

    The admin API would answer from a coordinator's memory, and librdkafka's hands out metadata with
    stray bytes behind it.
    """
    committed = {}
    for message in _read(lane, OFFSETS_TOPIC):
        key, value = message.key(), message.value()
        (version,) = struct.unpack_from(">h", key)
        if version > OFFSET_KEY_MAX_VERSION:
            continue  # about the group's members
        group, at = _string(key, 2)
        topic, at = _string(key, at)
        (partition,) = struct.unpack_from(">i", key, at)
        if (group, topic) == (lane.group, lane.ticks):
            committed[partition] = _committed_value(value)
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
    request = ConsumerGroupTopicPartitions(lane.group, _partitions(admin, lane.ticks))
    answer = admin.list_consumer_group_offsets(
        [request], require_stable=True, request_timeout=ANSWER_TIMEOUT_S
    )
    try:
        found = answer[lane.group].result().topic_partitions
    except KafkaException as error:
        yield f"offsets of {lane.group}: {error.args[0].str()}"
    else:
        yield from (f"offset of {at.partition}: {at.error.str()}" for at in found if at.error)


def _left_open(admin: AdminClient, topic: str) -> Iterator[str]:
    partitions = _partitions(admin, topic)

    def ends(level: IsolationLevel) -> dict[int, int]:
        query = dict.fromkeys(partitions, OffsetSpec.latest())
        answer = admin.list_offsets(query, isolation_level=level, request_timeout=ANSWER_TIMEOUT_S)
        return {at.partition: each.result().offset for at, each in answer.items()}

    stable = ends(IsolationLevel.READ_COMMITTED)
    for number, end in ends(IsolationLevel.READ_UNCOMMITTED).items():
        if stable[number] < end:
            yield f"{topic}/{number} ends at {end}, but for its readers at {stable[number]}"


# --- judging --------------------------------------------------------------------------------


def judge(seen: Observation) -> Verdict:
    """Hold every tick against what must be true of it."""
    by_source: dict[Source, list[Outcome]] = {}
    for outcome in seen.outcomes:
        by_source.setdefault(outcome.source, []).append(outcome)
    verdict = Verdict()
    add = verdict.findings.append
    for source in seen.ticks:
        for kind, detail in _judge_tick(source, by_source.get(source, []), seen.committed):
            add(Finding(kind, source, detail))
    for source in by_source.keys() - seen.ticks.keys():
        add(Finding("stray", source, f"answered at {by_source[source][0].at}"))
    ends: dict[int, int] = {}
    for source in seen.ticks:
        ends[source.partition] = max(ends.get(source.partition, 0), source.offset + 1)
    for number, committed in seen.committed.items():
        highest = max([committed.offset, *(offset + 1 for offset in committed.done)])
        if highest > ends.get(number, 0):
            place = Source(number, highest - 1)
            add(Finding("stray", place, f"committed to {highest}, log to {ends.get(number, 0)}"))
    for where in seen.open_transactions:
        add(Finding("open", None, where))
    return verdict


def _judge_tick(
    source: Source, outcomes: Sequence[Outcome], committed: Mapping[int, Committed]
) -> Iterator[tuple[str, str]]:
    owner = committed.get(source.partition)
    done = owner is not None and owner.covers(source.offset)
    if not outcomes:
        yield ("lost" if done else "unanswered"), f"committed: {_words(owner)}"
    elif not done:
        yield "no offset", f"answered at {outcomes[0].at}, committed: {_words(owner)}"
    if len(outcomes) > 1:
        yield "doubled", ", ".join(outcome.at for outcome in outcomes)
    for outcome in outcomes:
        if outcome.kind == "slot-complete":
            yield from _judge_complete(outcome)


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
