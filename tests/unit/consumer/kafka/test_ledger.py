from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from consumer.kafka.done_map import decode_done
from consumer.kafka.ledger import CommitPoint, PartitionLedger
from tests.support.scaling import growth

WINDOW = 16_384  # the largest that the configuration allows
LINEAR = 20.0  # ten times the work, and as much again for a busy machine


def ledger_at(offset: int, done: set[int] | None = None) -> PartitionLedger:
    return PartitionLedger(CommitPoint(offset, frozenset(done or ())))


def reading(ledger: PartitionLedger, *offsets: int) -> list[int]:
    """Admit offsets in turn; return those that are new work."""
    return [offset for offset in offsets if ledger.register(offset)]


def finish(ledger: PartitionLedger, *offsets: int) -> CommitPoint:
    """Commit offsets as finished; return what was committed."""
    point = ledger.commit_point(offsets)
    ledger.committed(point, offsets)
    return point


def test_commit_point_waits_for_the_lowest_unfinished_offset() -> None:
    ledger = ledger_at(10)
    reading(ledger, 10, 11, 12, 13)
    assert finish(ledger, 12, 11) == CommitPoint(10, frozenset({11, 12}))
    assert finish(ledger, 10) == CommitPoint(13, frozenset())


def test_commit_point_promises_only_what_the_transaction_finishes() -> None:
    ledger = ledger_at(0)
    reading(ledger, 0, 1)
    ledger.commit_point([0])  # its transaction fails
    assert ledger.commit_point([1]) == CommitPoint(0, frozenset({1}))
    assert not ledger.is_past(0)


def test_offset_is_admitted_once() -> None:
    ledger = ledger_at(0)
    assert reading(ledger, 0, 1, 0, 1) == [0, 1]
    finish(ledger, 1)
    assert reading(ledger, 0, 1) == []


def test_finished_offsets_above_the_committed_one_are_skipped_after_a_restart() -> None:
    ledger = ledger_at(10, {11, 13})
    assert reading(ledger, 10, 11, 12, 13, 14) == [10, 12, 14]


def test_finished_offset_next_in_line_is_not_forgotten() -> None:
    # 10 finishes before anything above it was read again.
    ledger = ledger_at(10, {11, 12, 14})
    reading(ledger, 10)
    assert finish(ledger, 10) == CommitPoint(13, frozenset({14}))
    assert reading(ledger, 11, 12, 13, 14) == [13]


def test_offsets_that_kafka_leaves_out_count_as_finished() -> None:
    ledger = ledger_at(0)
    reading(ledger, 0, 3)  # 1 and 2 are transaction markers
    assert finish(ledger, 0) == CommitPoint(3, frozenset())


def test_adopted_offset_is_no_new_work_when_it_is_read_again() -> None:
    ledger = ledger_at(5)
    ledger.adopt(7)
    assert reading(ledger, 5, 6, 7, 8) == [5, 6, 8]
    assert finish(ledger, 5, 6, 8) == CommitPoint(7, frozenset({8}))


def test_adopted_offset_does_not_carry_the_commit_past_what_was_not_read() -> None:
    ledger = ledger_at(5)
    ledger.adopt(7)
    reading(ledger, 5)
    assert finish(ledger, 5) == CommitPoint(6, frozenset())
    assert finish(ledger, 7) == CommitPoint(6, frozenset({7}))
    assert reading(ledger, 6, 7) == [6]


def test_adopted_offset_that_finishes_before_it_is_read_again_is_recorded() -> None:
    ledger = ledger_at(5)
    ledger.adopt(5)
    point = finish(ledger, 5)
    assert reading(ledger, 5) == []
    assert reading(PartitionLedger(point), 5) == []


def test_commit_point_does_not_go_back_while_adopted_offsets_finish() -> None:
    ledger = ledger_at(5)
    ledger.adopt(5)
    ledger.adopt(6)
    assert finish(ledger, 5) == CommitPoint(6, frozenset())
    assert finish(ledger, 6) == CommitPoint(7, frozenset())
    assert reading(ledger, 5, 6, 7) == [7]


@pytest.mark.parametrize(("finished", "span"), [((), 4), ((1, 3), 4), ((0,), 3), ((0, 1, 2, 3), 0)])
def test_span_is_the_distance_from_the_lowest_unfinished_offset(
    finished: tuple[int, ...], span: int
) -> None:
    ledger = ledger_at(0)
    reading(ledger, 0, 1, 2, 3)
    finish(ledger, *finished)
    assert ledger.span == span


# Cost: ten times as many offsets cost about ten times as much, never a hundred times


def test_reading_and_deciding_costs_the_same_however_many_offsets_are_unfinished() -> None:
    def read_and_decide(offsets: int) -> None:
        ledger = ledger_at(0)
        for offset in range(offsets):
            ledger.register(offset)
            assert ledger.span == offset + 1
        for _ in range(offsets):  # a decision asks whether more may be read
            assert ledger.span == offsets

    assert growth(read_and_decide, WINDOW // 10) < LINEAR


def test_committing_costs_the_same_however_many_offsets_are_unfinished() -> None:
    def finish_one_by_one(offsets: int) -> None:
        ledger = ledger_at(0)
        reading(ledger, *range(offsets))
        for offset in range(offsets):
            assert finish(ledger, offset) == CommitPoint(offset + 1, frozenset())

    assert growth(finish_one_by_one, WINDOW // 10) < LINEAR


def test_reading_what_was_finished_before_a_restart_costs_the_same_for_each_offset() -> None:
    def read_again(offsets: int) -> None:
        ledger = ledger_at(0, set(range(1, offsets)))  # offset 0 was compacted away meanwhile
        for offset in range(1, offsets):
            assert not ledger.register(offset)
            assert ledger.span == offset + 1 - offsets

    assert growth(read_again, WINDOW // 10) < LINEAR


class PlainLedger:
    """The ledger's meaning in its simplest form: every answer is computed from all offsets."""

    def __init__(self, committed: CommitPoint) -> None:
        self.base = self.position = committed.offset
        self.unfinished: set[int] = set()
        self.done = set(committed.done)

    def register(self, offset: int) -> bool:
        self.position = max(self.position, offset + 1)
        if offset < self.base or offset in self.done or offset in self.unfinished:
            return False
        self.unfinished.add(offset)
        return True

    @property
    def span(self) -> int:
        return self.position - self.lowest(self.unfinished, self.done)

    def commit_point(self, finishing: set[int]) -> CommitPoint:
        done = self.done | finishing
        lowest = self.lowest(self.unfinished - finishing, done)
        return CommitPoint(lowest, frozenset(offset for offset in done if offset > lowest))

    def committed(self, point: CommitPoint, finished: set[int]) -> None:
        self.unfinished -= finished
        self.base = point.offset
        self.position = max(self.position, point.offset)
        self.done = set(point.done)

    def lowest(self, unfinished: set[int], done: set[int]) -> int:
        lowest = min(self.position, *unfinished, self.position)
        while lowest in done:
            lowest += 1
        return lowest


class OnePartition(RuleBasedStateMachine):
    """A partition of the broker, and the workers that own it one after the other.

    The broker keeps the published outcomes and the committed offset with its metadata; a
    transaction changes both or neither. Ticks are read, finish and are published in any order;
    owners die, partitions are claimed again, transactions fail or go through unnoticed. After every
    step the ledger answers as the plain one does, also to questions about what might finish.
    """

    cursor: int
    """The offset from which the owner reads on."""

    @initialize(
        gaps=st.lists(st.integers(min_value=0, max_value=2), min_size=1, max_size=12),
        first=st.sampled_from([0, 1000]),
    )
    def _fill(self, gaps: list[int], first: int) -> None:
        self.records: list[int] = []
        offset = first
        for gap in gaps:
            offset += gap  # a transaction marker or a compacted record has no tick
            self.records.append(offset)
            offset += 1
        self.published: Counter[int] = Counter()
        self.committed = (first, "")
        self.at_work: set[int] = set()
        self._claim()

    @rule(count=st.integers(min_value=1, max_value=4))
    def read(self, count: int) -> None:
        for offset in [offset for offset in self.records if offset >= self.cursor][:count]:
            self.cursor = offset + 1
            new = self.ledger.register(offset)
            assert self.plain.register(offset) == new
            assert self.ledger.span == self.plain.span
            if new:
                assert offset not in self.at_work, "work that is already under way"
                assert not self.published[offset], "work whose outcome is published"
                self.at_work.add(offset)

    @rule(chosen=st.data(), ending=st.sampled_from(["known", "failed", "unnoticed"]))
    @precondition(lambda self: self.at_work)
    def publish(self, chosen: st.DataObject, ending: str) -> None:
        candidates = st.sets(st.sampled_from(sorted(self.at_work)), min_size=1)
        batch = chosen.draw(candidates)
        point = self.ledger.commit_point(batch)
        assert point == self.plain.commit_point(batch)
        if chosen.draw(st.booleans()):
            self.read(2)  # while the transaction is under way
        if ending != "failed":
            self.published.update(batch)
            self.committed = (point.offset, point.metadata)
        if ending == "known":
            self.ledger.committed(point, batch)
            self.plain.committed(point, batch)
            self.at_work -= batch
        else:
            self._claim()

    @rule(chosen=st.data())
    @precondition(lambda self: self.at_work)
    def consider(self, chosen: st.DataObject) -> None:
        """Ask for a commit that never comes; it must leave no trace."""
        batch = chosen.draw(st.sets(st.sampled_from(sorted(self.at_work))))
        assert self.ledger.commit_point(batch) == self.plain.commit_point(batch)

    @rule()
    def claim_again(self) -> None:
        self._claim()

    @rule()
    def die(self) -> None:
        self.at_work.clear()
        self._claim()

    def _claim(self) -> None:
        offset, metadata = self.committed
        claimed = CommitPoint(offset, frozenset(decode_done(offset, metadata)))
        self.ledger, self.plain = PartitionLedger(claimed), PlainLedger(claimed)
        self.cursor = offset
        self.at_work = {offset for offset in self.at_work if not self.ledger.is_past(offset)}
        for adopted in sorted(self.at_work):
            self.ledger.adopt(adopted)
            self.plain.unfinished.add(adopted)

    @invariant()
    def ledger_answers_as_the_plain_one(self) -> None:
        if not hasattr(self, "plain"):
            return
        assert self.ledger.span == self.plain.span
        for offset in range(self.records[0], self.records[-1] + 2):
            past = offset < self.plain.base or offset in self.plain.done
            assert self.ledger.is_past(offset) == past

    @invariant()
    def no_tick_has_two_outcomes(self) -> None:
        assert all(count == 1 for count in self.published.values())

    @invariant()
    def every_committed_tick_has_an_outcome(self) -> None:
        offset, metadata = self.committed
        passed = {record for record in self.records if record < offset}
        done = decode_done(offset, metadata)
        assert passed | done == set(self.published)

    def teardown(self) -> None:
        """Whatever happened, the last owner brings every tick to its outcome."""
        if not hasattr(self, "records"):
            return
        self.read(len(self.records))
        batch = set(self.at_work)
        point = self.ledger.commit_point(batch)
        self.published.update(batch)
        assert self.published == Counter(self.records)
        assert point == CommitPoint(self.records[-1] + 1, frozenset())


OnePartition.TestCase.settings = settings(max_examples=500, stateful_step_count=30, deadline=None)
TestOnePartition = OnePartition.TestCase
