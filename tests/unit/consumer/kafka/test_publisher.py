"""The order of a publisher's calls, and what it does with each error, at brokers in memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, NotCoordinatorForGroupError
from aiokafka.structs import OffsetAndMetadata

from consumer.config import KafkaConfig, WorkerConfig
from consumer.kafka.clients import MAX_BATCH_BYTES
from consumer.kafka.done_map import DoneMapError
from consumer.kafka.ledger import CommitPoint
from consumer.kafka.publisher import (
    OutgoingRecord,
    RecordsTooLargeError,
    StaleClaimError,
    TransactionalPublisher,
)
from tests.support.producers import GROUPS_AT, TRANSACTIONS_AT, Brokers, Producer
from tests.support.publisher_contract import Ground, PublisherContract

AT = TopicPartition("ticks", 3)
POINT = CommitPoint(1, frozenset())
TIMEOUT_S = 5.0
CLAIM = ["start", "begin", "offsets", "abort", f"read at {GROUPS_AT}"]


class MemoryGround(Ground):
    """Brokers in memory; `producers` are all that were made."""

    results = "results"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.brokers = Brokers()
        self.producers: list[Producer] = []
        monkeypatch.setattr("consumer.kafka.publisher.make_producer", self._make_producer)

    def publisher(self) -> TransactionalPublisher:
        config = WorkerConfig.load().kafka.model_copy(update={"group_id": "group"})
        return TransactionalPublisher(config, AT, client_id="worker")

    async def values(self) -> list[bytes]:
        return [value or b"" for _, _, value in self.brokers.records]

    def _make_producer(
        self, config: KafkaConfig, *, client_id: str, transactional_id: str
    ) -> Producer:
        self.producers.append(Producer(self.brokers, transactional_id))
        return self.producers[-1]


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch) -> MemoryGround:
    return MemoryGround(monkeypatch)


class TestMemory(PublisherContract):
    pass


def outcome(value: bytes | None = b"outcome", key: bytes | None = b"1") -> OutgoingRecord:
    return OutgoingRecord("results", key, value, [])


async def claimed(ground: MemoryGround) -> TransactionalPublisher:
    """Return a publisher that has claimed its partition, with the calls forgotten."""
    publisher = ground.publisher()
    await publisher.start(TIMEOUT_S)
    ground.brokers.calls.clear()
    return publisher


async def cancelled_at(
    call: str,
    ground: MemoryGround,
    work: Coroutine[Any, Any, object],
    reach: Callable[[Producer], Awaitable[object]] = lambda _: asyncio.Event().wait(),
) -> None:
    """Cancel what a publisher does when it waits for the answer to a call."""
    reached = asyncio.Event()

    async def wait(producer: Producer) -> None:
        del ground.brokers.before[call]
        reached.set()
        await reach(producer)

    ground.brokers.before[call] = wait
    task = asyncio.create_task(work)
    async with asyncio.timeout(TIMEOUT_S):
        await reached.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


# The claim


async def test_claim_fences_passes_the_barrier_and_reads_at_the_broker_that_appended(
    ground: MemoryGround,
) -> None:
    ground.brokers.offsets[AT] = OffsetAndMetadata(4, "")
    assert await ground.publisher().start(TIMEOUT_S) == CommitPoint(4, frozenset())
    assert ground.brokers.calls == CLAIM
    assert ground.brokers.offsets == {AT: OffsetAndMetadata(4, "")}
    assert ground.producers[0].transactional_id == "group/ticks/3"


async def test_claim_during_which_the_transaction_coordinator_changes_is_stale(
    ground: MemoryGround,
) -> None:
    moved = {CoordinationType.TRANSACTION: 7}
    ground.brokers.before["abort"] = lambda one: one._sender._coordinators.update(moved)
    with pytest.raises(StaleClaimError, match="transaction coordinator changed"):
        await ground.publisher().start(TIMEOUT_S)
    assert f"read at {GROUPS_AT}" not in ground.brokers.calls


@pytest.mark.parametrize(
    ("kind", "call"),
    [(CoordinationType.TRANSACTION, "begin"), (CoordinationType.TRANSACTION, "abort")],
)
async def test_claim_during_which_a_coordinator_is_lost_is_stale(
    ground: MemoryGround, kind: CoordinationType, call: str
) -> None:
    ground.brokers.before[call] = lambda one: one._sender._coordinators.pop(kind) and None
    with pytest.raises(StaleClaimError, match=f"{kind.name.lower()} coordinator changed"):
        # The fence is noted before the barrier begins.
        await ground.publisher().start(TIMEOUT_S)


async def test_error_of_a_transaction_that_never_ends_is_not_logged_by_asyncio_as_well(
    ground: MemoryGround,
) -> None:
    def fail(producer: Producer) -> None:
        error = KafkaError("a broker died")
        producer._txn_manager.fatal_error(error)
        raise error

    unretrieved: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, each: unretrieved.append(each))
    ground.brokers.before["offsets"] = fail
    publisher = ground.publisher()
    with pytest.raises(KafkaError, match="a broker died"):
        await publisher.start(TIMEOUT_S)
    await publisher.stop()
    ground.producers.clear()
    ground.brokers.owners.clear()
    gc.collect()
    assert unretrieved == []


async def test_answer_of_a_broker_that_is_not_the_coordinator_is_refused(
    ground: MemoryGround,
) -> None:
    ground.brokers.offsets[AT] = OffsetAndMetadata(4, "")
    ground.brokers.read_error = NotCoordinatorForGroupError.errno
    with pytest.raises(StaleClaimError, match="NotCoordinatorForGroupError"):
        await ground.publisher().start(TIMEOUT_S)


async def test_metadata_of_another_version_stops_the_claim(ground: MemoryGround) -> None:
    ground.brokers.offsets[AT] = OffsetAndMetadata(4, "vortex-done-2:x")
    with pytest.raises(DoneMapError):
        await ground.publisher().start(TIMEOUT_S)


async def test_every_claim_lets_go_of_the_producer_before_it(ground: MemoryGround) -> None:
    publisher = await claimed(ground)
    await publisher.start(TIMEOUT_S)
    assert ground.brokers.calls == ["stop", *CLAIM]
    assert [producer.stopped for producer in ground.producers] == [True, False]


@pytest.mark.parametrize("call", ["start", "begin", "offsets", "abort", f"read at {GROUPS_AT}"])
async def test_claim_that_gets_no_answer_ends_in_time(ground: MemoryGround, call: str) -> None:
    ground.brokers.before[call] = lambda _: asyncio.Event().wait()
    with pytest.raises(TimeoutError):
        await ground.publisher().start(0.05)


# Publishing


async def test_records_and_offset_are_written_in_one_transaction(ground: MemoryGround) -> None:
    publisher = await claimed(ground)
    await publisher.publish([outcome(b"a"), outcome(b"b")], CommitPoint(5, frozenset({7})), 5)
    assert ground.brokers.calls == ["begin", "send", "send", "offsets", "commit"]
    assert await ground.values() == [b"a", b"b"]
    committed = CommitPoint(5, frozenset({7}))
    assert ground.brokers.offsets == {AT: OffsetAndMetadata(5, committed.metadata)}


async def test_failed_delivery_fails_the_transaction(ground: MemoryGround) -> None:
    publisher = await claimed(ground)
    ground.brokers.refused[1] = KafkaError("disk full")
    with pytest.raises(KafkaError, match="disk full"):
        await publisher.publish([outcome(b"%d" % i) for i in range(3)], POINT, TIMEOUT_S)
    assert "commit" not in ground.brokers.calls
    assert (ground.brokers.records, ground.brokers.offsets) == ([], {})


@pytest.mark.parametrize("call", ["begin", "send", "offsets", "commit"])
async def test_error_of_any_step_writes_nothing_and_the_next_claim_starts_a_new_producer(
    ground: MemoryGround, call: str
) -> None:
    def fail(_: Producer) -> None:
        raise KafkaError("lost")

    publisher = await claimed(ground)
    ground.brokers.before[call] = fail
    with pytest.raises(KafkaError, match="lost"):
        await publisher.publish([outcome()], POINT, TIMEOUT_S)
    assert (ground.brokers.records, ground.brokers.offsets) == ([], {})
    ground.brokers.before.clear()
    assert await publisher.start(TIMEOUT_S) is None
    await publisher.publish([outcome()], POINT, TIMEOUT_S)
    assert await ground.values() == [b"outcome"]
    assert len(ground.producers) == 2


@pytest.mark.parametrize("call", ["begin", "send", "offsets", "commit"])
async def test_step_that_gets_no_answer_ends_in_time(ground: MemoryGround, call: str) -> None:
    publisher = await claimed(ground)
    ground.brokers.before[call] = lambda _: asyncio.Event().wait()
    with pytest.raises(TimeoutError):
        await publisher.publish([outcome()], POINT, 0.05)


async def test_record_over_the_clients_limit_is_named(ground: MemoryGround) -> None:
    def refuse(_: Producer) -> None:
        if ground.brokers.calls.count("send") == 2:
            raise MessageSizeTooLargeError

    publisher = await claimed(ground)
    ground.brokers.before["send"] = refuse
    with pytest.raises(RecordsTooLargeError) as caught:
        await publisher.publish([outcome(), outcome(), outcome()], POINT, TIMEOUT_S)
    assert caught.value.refused == {1}
    assert ground.brokers.records == []


@pytest.mark.parametrize(
    ("sizes", "refused"),
    [
        ((10,), {0}),
        ((MAX_BATCH_BYTES, 10), {0}),
        ((10, 10), set()),  # they may have shared a batch: either may be the one
    ],
)
async def test_of_records_that_a_topic_refused_only_the_certain_ones_are_named(
    ground: MemoryGround, sizes: tuple[int, ...], refused: set[int]
) -> None:
    publisher = await claimed(ground)
    ground.brokers.refused = dict.fromkeys(range(len(sizes)), MessageSizeTooLargeError())
    with pytest.raises(RecordsTooLargeError) as caught:
        await publisher.publish([outcome(bytes(size)) for size in sizes], POINT, TIMEOUT_S)
    assert caught.value.refused == refused


async def test_dead_letter_with_neither_key_nor_value_is_sent_as_an_empty_one(
    ground: MemoryGround,
) -> None:
    publisher = await claimed(ground)
    await publisher.publish([outcome(None, key=None), outcome(None)], POINT, TIMEOUT_S)
    assert ground.brokers.records == [("results", None, b""), ("results", b"1", None)]


async def test_publisher_that_was_not_started_says_so(ground: MemoryGround) -> None:
    with pytest.raises(RuntimeError, match="not started"):
        await ground.publisher().publish([outcome()], POINT, TIMEOUT_S)


# Letting go


@pytest.mark.parametrize("call", ["offsets", "abort"])
async def test_claim_that_is_cancelled_in_its_barrier_leaves_nothing_open(
    ground: MemoryGround, call: str
) -> None:
    publisher = ground.publisher()
    await cancelled_at(call, ground, publisher.start(TIMEOUT_S))
    await publisher.stop()
    assert ground.brokers.calls[-2:] == ["abort", "stop"]
    assert not ground.producers[0].in_transaction


@pytest.mark.parametrize("call", ["send", "offsets", "commit"])
async def test_publishing_that_is_cancelled_leaves_nothing_open(
    ground: MemoryGround, call: str
) -> None:
    publisher = await claimed(ground)
    await cancelled_at(call, ground, publisher.publish([outcome()], POINT, TIMEOUT_S))
    await publisher.stop()
    assert ground.brokers.calls[-2:] == ["abort", "stop"]
    assert not ground.producers[0].in_transaction
    assert (ground.brokers.records, ground.brokers.offsets) == ([], {})


async def test_commit_that_is_under_way_is_awaited_and_not_taken_back(
    ground: MemoryGround,
) -> None:
    publisher = await claimed(ground)
    manager = ground.producers[0]._txn_manager

    async def send_and_wait(_: Producer) -> None:
        manager.committing_transaction()
        await asyncio.Event().wait()

    await cancelled_at(
        "commit", ground, publisher.publish([outcome()], POINT, TIMEOUT_S), send_and_wait
    )
    stopping = asyncio.create_task(publisher.stop())
    await asyncio.sleep(0.01)
    assert "stop" not in ground.brokers.calls
    manager.complete_transaction()
    await stopping
    assert ground.brokers.calls[-2:] == ["commit", "stop"]


async def test_transaction_that_aiokafka_has_forgotten_is_aborted_at_its_coordinator(
    ground: MemoryGround,
) -> None:
    def refuse(producer: Producer) -> None:
        error = KafkaError("not authorized")
        producer._txn_manager.error_transaction(error)
        raise error

    publisher = await claimed(ground)
    ground.brokers.before["send"] = refuse
    with pytest.raises(KafkaError, match="not authorized"):
        await publisher.publish([outcome()], POINT, TIMEOUT_S)
    await publisher.stop()
    assert ground.brokers.calls[-2:] == [f"abort at {TRANSACTIONS_AT}", "stop"]
    assert not ground.producers[0].in_transaction


@pytest.mark.parametrize("error", [None, KafkaError("lost")])
async def test_transaction_that_cannot_be_ended_is_left_to_its_time_limit(
    ground: MemoryGround,
    error: Exception | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def hang_or_fail() -> None:
        if error is not None:
            raise error
        await asyncio.Event().wait()

    monkeypatch.setattr("consumer.kafka.publisher.END_TIMEOUT_S", 0.05)
    publisher = await claimed(ground)
    await cancelled_at("offsets", ground, publisher.publish([outcome()], POINT, TIMEOUT_S))
    ground.brokers.before["abort"] = lambda _: hang_or_fail()
    await publisher.stop()
    assert ground.producers[0].stopped
    assert caplog.messages == ["Transaction not ended; the broker aborts it at its time limit"]


async def test_next_claim_leaves_the_end_of_the_last_transaction_to_the_fence(
    ground: MemoryGround,
) -> None:
    publisher = await claimed(ground)
    await cancelled_at("offsets", ground, publisher.publish([outcome()], POINT, TIMEOUT_S))
    ground.brokers.calls.clear()
    await publisher.start(TIMEOUT_S)
    assert ground.brokers.calls == ["stop", *CLAIM]


async def test_cancellation_that_comes_as_a_producer_stops_is_not_lost(
    ground: MemoryGround,
) -> None:
    last_answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    publisher = await claimed(ground)
    ground.brokers.before["stop"] = lambda _: last_answer
    stopping = asyncio.create_task(publisher.stop())
    await asyncio.sleep(0.01)
    last_answer.set_result(None)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping


@pytest.mark.parametrize("error", [None, KafkaError("lost")])
async def test_producer_that_does_not_stop_has_its_connections_closed(
    ground: MemoryGround,
    error: Exception | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def hang_or_fail() -> None:
        if error is not None:
            raise error
        await asyncio.Event().wait()

    monkeypatch.setattr("consumer.kafka.publisher.STOP_TIMEOUT_S", 0.05)
    publisher = await claimed(ground)
    ground.brokers.before["stop"] = lambda _: hang_or_fail()
    await publisher.stop()
    assert ground.producers[0].closed
    assert caplog.messages == ["Producer did not stop cleanly"]
    with pytest.raises(RuntimeError, match="not started"):
        await publisher.publish([outcome()], POINT, TIMEOUT_S)
