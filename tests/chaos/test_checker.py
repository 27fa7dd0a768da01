"""The checker finds what was planted, and nothing in a clean history. On a real Kafka."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from consumer.kafka.done_map import encode_done
from schemas import parse_outcome
from tests.chaos.checker import Lane, Verdict, decode_done, judge, observe
from tests.integration.conftest import MakeLane
from tests.support.lane import tick
from tests.support.results import complete, missed

pytestmark = pytest.mark.kafka

TIMEOUT_S = 20.0
LOOK_S = 10.0
RECORD_GAP_S = 0.05


@dataclass
class Planter:
    """Writes ticks, outcomes and offsets as a worker would, one by one and in any combination."""

    lane: Lane
    directory: Path
    ticks: int = 0
    done: set[int] = field(default_factory=set)
    done_hops: set[int] = field(default_factory=set)

    def tick(self) -> int:
        """Write a tick and return its offset."""
        producer = Producer({"bootstrap.servers": self.lane.bootstrap_servers})
        producer.produce(self.lane.ticks, tick(self.ticks).model_dump_json(), partition=0)
        assert producer.flush(TIMEOUT_S) == 0
        self.ticks += 1
        return self.ticks - 1

    @contextmanager
    def transaction(self, name: str = "planter") -> Iterator[Producer]:
        """Commit at the end of the context what is produced in it."""
        producer = Producer(
            {"bootstrap.servers": self.lane.bootstrap_servers, "transactional.id": name}
        )
        producer.init_transactions(TIMEOUT_S)
        producer.begin_transaction()
        yield producer
        producer.commit_transaction(TIMEOUT_S)

    def answer(self, producer: Producer, event: Mapping[str, Any]) -> None:
        """Produce an outcome."""
        producer.produce(self.lane.results, json.dumps(event))

    def commit(self, producer: Producer, *offsets: int) -> None:
        """Send offsets of ticks as finished, on top of those that are."""
        self.done |= set(offsets)
        self._commit(producer, self.lane.ticks, self.done)

    def commit_hop(self, producer: Producer, *offsets: int) -> None:
        """Send offsets of handovers as finished, on top of those that are."""
        self.done_hops |= set(offsets)
        assert self.lane.handover is not None
        self._commit(producer, self.lane.handover, self.done_hops)

    def _commit(self, producer: Producer, topic: str, done: set[int]) -> None:
        lowest = next(offset for offset in range(len(done) + 1) if offset not in done)
        metadata = encode_done(lowest, {offset for offset in done if offset > lowest})
        at = TopicPartition(topic, 0, lowest, metadata)
        group = Consumer(
            {"bootstrap.servers": self.lane.bootstrap_servers, "group.id": self.lane.group}
        )
        producer.send_offsets_to_transaction([at], group.consumer_group_metadata(), TIMEOUT_S)
        group.close()

    def complete(self, offset: int, content: bytes = b"film") -> dict[str, Any]:
        """Return a slot-complete whose artifact is on the disk."""
        path = self.directory / f"{offset}.mp4"
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        stored = {"uri": path.as_uri(), "bytes": len(content), "sha256": sha256}
        now = datetime.now(UTC)
        event = complete(offset).model_dump(mode="json")
        event["artifact"] |= stored
        event |= {
            "source": self._source(offset),
            "decided_at": now.isoformat(),
            "deadline": (now + timedelta(seconds=5)).isoformat(),
            "slack_ms": 5000.0,
        }
        parse_outcome(json.dumps(event))
        return event

    def missed(self, offset: int) -> dict[str, Any]:
        """Return a deadline-missed."""
        return missed(offset).model_dump(mode="json") | {"source": self._source(offset)}

    def write_hop(self, producer: Producer, offset: int) -> int:
        """Produce the record that hands a tick over, and return its offset."""
        assert self.lane.handover is not None
        told = self._source(offset) | {"worker": "donor"}
        places: list[int | None] = []
        producer.produce(
            self.lane.handover,
            tick(offset).model_dump_json(),
            partition=0,
            headers=[(f"vortex-handover-{name}", str(value)) for name, value in told.items()],
            on_delivery=lambda _error, message: places.append(message.offset()),
        )
        assert producer.flush(TIMEOUT_S) == 0
        [place] = places
        assert place is not None
        return place

    def hand_over(self, offset: int) -> int:
        """Hand a tick over as it should be, and return the offset of the handover."""
        with self.transaction("donor") as producer:
            hop = self.write_hop(producer, offset)
            self.commit(producer, offset)
        return hop

    def receive(self, event: Mapping[str, Any], hop: int) -> None:
        """Answer a tick that was handed over as it should be."""
        with self.transaction("receiver") as producer:
            self.answer(producer, received(event))
            self.commit_hop(producer, hop)

    def serve(self, *events: Mapping[str, Any]) -> None:
        """Write outcomes with their offsets in one transaction, as it should be."""
        with self.transaction() as producer:
            for event in events:
                self.answer(producer, event)
            self.commit(producer, *(event["source"]["offset"] for event in events))

    def verdict(self) -> Verdict:
        return judge(observe(self.lane))

    def _source(self, offset: int) -> dict[str, Any]:
        return {"topic": self.lane.ticks, "partition": 0, "offset": offset}


def received(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an outcome as the receiver of a handover writes it."""
    return {**event, "handed_over": {"worker": "donor", "at": event["decided_at"]}}


@pytest.fixture
async def planter(make_lane: MakeLane, tmp_path: Path) -> Planter:
    """Give a history of three ticks of which 0 and 2 were answered, as they should be."""
    config = (await make_lane(handover=1)).config
    topics = config.topics
    lane = Lane(
        config.bootstrap_servers,
        topics.ticks,
        topics.results,
        topics.dead_letter,
        config.group_id,
        topics.handover,
    )
    planter = Planter(lane, tmp_path)
    for _ in range(3):
        planter.tick()
    planter.serve(planter.complete(0), planter.missed(2))
    return planter


def found(verdict: Verdict) -> set[tuple[str, int | None]]:
    """Return the findings by kind and offset."""
    return {(each.kind, each.source.offset if each.source else None) for each in verdict.findings}


async def test_clean_history_passes(planter: Planter) -> None:
    planter.serve(planter.complete(1))
    verdict = planter.verdict()
    assert verdict.findings == []
    assert verdict.settled


async def test_look_ends_while_records_come_all_the_time(planter: Planter) -> None:
    producer = Producer({"bootstrap.servers": planter.lane.bootstrap_servers, "linger.ms": 0})
    looked = threading.Event()

    def write() -> bool:
        """Write until looked, for some seconds at most; return whether that ended it."""
        for _ in range(round(LOOK_S / RECORD_GAP_S)):
            producer.produce(planter.lane.ticks, b"", partition=0)
            producer.poll(0)
            if looked.wait(RECORD_GAP_S):
                return True
        return False

    writing = asyncio.create_task(asyncio.to_thread(write))
    await asyncio.to_thread(observe, planter.lane)
    looked.set()
    assert await writing


async def test_tick_that_waits_is_unanswered_and_not_lost(planter: Planter) -> None:
    verdict = planter.verdict()
    assert found(verdict) == {("unanswered", 1)}
    assert not verdict.settled


async def test_committed_offset_without_an_outcome_is_a_lost_tick(planter: Planter) -> None:
    with planter.transaction() as producer:
        planter.commit(producer, 1)
    assert found(planter.verdict()) == {("lost", 1)}


async def test_finished_offset_of_the_done_map_without_an_outcome_is_a_lost_tick(
    planter: Planter,
) -> None:
    planter.tick()
    with planter.transaction() as producer:
        planter.commit(producer, 3)
    assert found(planter.verdict()) == {("unanswered", 1), ("lost", 3)}


async def test_second_outcome_is_found(planter: Planter) -> None:
    planter.serve(planter.complete(1))
    with planter.transaction("zombie") as producer:
        planter.answer(producer, planter.missed(1))
    assert found(planter.verdict()) == {("doubled", 1)}


async def test_outcome_without_its_offset_is_found(planter: Planter) -> None:
    with planter.transaction() as producer:
        planter.answer(producer, planter.complete(1))
    verdict = planter.verdict()
    assert found(verdict) == {("no offset", 1)}
    assert not verdict.settled


async def test_aborted_outcome_is_none_and_its_committed_offset_a_lost_tick(
    planter: Planter,
) -> None:
    with planter.transaction() as producer:
        planter.answer(producer, planter.complete(1))
        assert producer.flush(TIMEOUT_S) == 0
        producer.abort_transaction(TIMEOUT_S)
        producer.begin_transaction()
        planter.commit(producer, 1)
    assert found(planter.verdict()) == {("lost", 1)}


async def test_handed_over_tick_with_one_outcome_passes(planter: Planter) -> None:
    planter.receive(planter.complete(1), planter.hand_over(1))
    verdict = planter.verdict()
    assert verdict.findings == []
    assert verdict.settled


async def test_handed_over_tick_that_waits_is_unanswered_and_not_lost(planter: Planter) -> None:
    planter.hand_over(1)
    verdict = planter.verdict()
    assert found(verdict) == {("unanswered", 1)}
    assert not verdict.settled


async def test_tick_that_was_handed_over_twice_is_found(planter: Planter) -> None:
    hop = planter.hand_over(1)
    with planter.transaction("zombie") as producer:
        again = planter.write_hop(producer, 1)
    with planter.transaction("receiver") as producer:
        planter.answer(producer, received(planter.missed(1)))
        planter.commit_hop(producer, hop, again)
    assert found(planter.verdict()) == {("handed over twice", 1)}


async def test_handover_without_the_donors_offset_is_found(planter: Planter) -> None:
    with planter.transaction("donor") as producer:
        hop = planter.write_hop(producer, 1)
    planter.receive(planter.missed(1), hop)
    verdict = planter.verdict()
    assert found(verdict) == {("no offset", 1)}
    assert not verdict.settled


async def test_handover_whose_outcome_is_lost_is_found(planter: Planter) -> None:
    hop = planter.hand_over(1)
    with planter.transaction("receiver") as producer:
        planter.commit_hop(producer, hop)
    assert found(planter.verdict()) == {("lost", 1)}


async def test_outcome_without_the_offset_of_its_handover_is_found(planter: Planter) -> None:
    planter.hand_over(1)
    with planter.transaction("receiver") as producer:
        planter.answer(producer, received(planter.missed(1)))
    verdict = planter.verdict()
    assert found(verdict) == {("no offset", 1)}
    assert not verdict.settled


async def test_outcomes_of_donor_and_receiver_are_found(planter: Planter) -> None:
    planter.receive(planter.missed(1), planter.hand_over(1))
    with planter.transaction("zombie") as producer:
        planter.answer(producer, planter.missed(1))
    assert found(planter.verdict()) == {("doubled", 1)}


async def test_donors_own_outcome_of_what_it_handed_over_is_found(planter: Planter) -> None:
    hop = planter.hand_over(1)
    with planter.transaction("zombie") as producer:
        planter.answer(producer, planter.missed(1))
        planter.commit_hop(producer, hop)  # hides the handover, as nobody answers it
    assert found(planter.verdict()) == {("doubled", 1), ("lost", 1)}


async def test_outcome_that_tells_of_a_handover_that_is_none_is_found(planter: Planter) -> None:
    planter.serve(received(planter.missed(1)))
    assert found(planter.verdict()) == {("stray", 1)}


async def test_aborted_handover_with_its_committed_offset_is_a_lost_tick(planter: Planter) -> None:
    with planter.transaction("donor") as producer:
        planter.write_hop(producer, 1)
        assert producer.flush(TIMEOUT_S) == 0
        producer.abort_transaction(TIMEOUT_S)
        producer.begin_transaction()
        planter.commit(producer, 1)
    assert found(planter.verdict()) == {("lost", 1)}


async def test_handover_of_a_tick_that_does_not_exist_is_found(planter: Planter) -> None:
    planter.serve(planter.complete(1))
    with planter.transaction("donor") as producer:
        planter.write_hop(producer, 9)
    assert found(planter.verdict()) == {("stray", 9)}


async def test_offset_that_is_committed_beyond_the_handovers_is_found(planter: Planter) -> None:
    planter.serve(planter.complete(1))
    with planter.transaction("receiver") as producer:
        planter.commit_hop(producer, 0)
    assert found(planter.verdict()) == {("stray", None)}


@pytest.mark.parametrize("part", ["record", "offset"])
async def test_open_transaction_of_a_handover_is_found(planter: Planter, part: str) -> None:
    planter.receive(planter.missed(1), planter.hand_over(1))
    planter.tick()
    with planter.transaction("torn") as producer:
        if part == "record":
            planter.write_hop(producer, 3)
        else:
            planter.commit_hop(producer, 1)
        assert producer.flush(TIMEOUT_S) == 0
        assert found(planter.verdict()) == {("unanswered", 3), ("open", None)}


@pytest.mark.parametrize("part", ["outcome", "offset", "both"])
async def test_transaction_that_was_left_open_is_found(planter: Planter, part: str) -> None:
    with planter.transaction("torn") as producer:
        if part != "offset":
            planter.answer(producer, planter.complete(1))
        if part != "outcome":
            planter.commit(producer, 1)
        assert producer.flush(TIMEOUT_S) == 0
        verdict = planter.verdict()
        assert found(verdict) == {("unanswered", 1), ("open", None)}
        assert not verdict.settled


async def test_outcome_of_a_tick_that_does_not_exist_is_found(planter: Planter) -> None:
    planter.serve(planter.complete(1))
    with planter.transaction() as producer:
        planter.answer(producer, planter.missed(9))
    assert found(planter.verdict()) == {("stray", 9)}


async def test_offset_that_is_committed_beyond_the_log_is_found(planter: Planter) -> None:
    planter.serve(planter.complete(1))
    planter.ticks += 1
    with planter.transaction() as producer:
        planter.commit(producer, 3)
    assert found(planter.verdict()) == {("stray", 3)}


@pytest.mark.parametrize("damage", ["missing", "torn", "other bytes"])
async def test_slot_complete_without_its_whole_artifact_is_found(
    planter: Planter, damage: str
) -> None:
    planter.serve(planter.complete(1, b"a whole film"))
    path = planter.directory / "1.mp4"
    match damage:
        case "missing":
            path.unlink()
        case "torn":
            path.write_bytes(b"a whole fi")
        case "other bytes":
            path.write_bytes(b"a whole fi1m")
    assert found(planter.verdict()) == {("artifact", 1)}


async def test_slot_complete_that_was_decided_after_its_deadline_is_found(
    planter: Planter,
) -> None:
    event = planter.complete(1)
    planter.serve(event | {"deadline": event["decided_at"], "slack_ms": 0.0})
    assert found(planter.verdict()) == {("late", 1)}


@pytest.mark.parametrize("done", [set(), {11}, {12, 13, 19, 20, 27}, set(range(11, 200, 3))])
def test_done_map_is_read_as_the_worker_writes_it(done: set[int]) -> None:
    assert decode_done(10, encode_done(10, done)) == done


def test_metadata_that_is_no_done_map_is_refused() -> None:
    with pytest.raises(ValueError, match="does not start with"):
        decode_done(10, "vortex-done-2:" + base64.b64encode(b"\1").decode())
