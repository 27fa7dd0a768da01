from __future__ import annotations

import itertools

import pytest

from consumer.dispatcher import Dispatcher
from consumer.job import Job
from consumer.planning import Rung
from consumer.simulation.bounds import most_possible, with_predicted_times
from consumer.simulation.machine import Machine
from consumer.simulation.policies import Fetched, Planned
from consumer.simulation.served import serve
from consumer.simulation.traces import Traffic
from vortex.rung import FULL

LADDER = (FULL, Rung("half", 0.5, 0.5))


@pytest.mark.parametrize("load", [0.8, 1.5, 3.0])
def test_production_scheduler_agrees_with_the_simulated_machine(load: float) -> None:
    trace = Traffic(load, slots=200).trace(seed=3)
    served = serve(trace)
    simulated = Machine(trace, Planned()).run()
    assert len(served.on_time) == pytest.approx(len(simulated.on_time), abs=0.02 * len(trace))
    assert served.wasted_share < 0.02


def test_every_slot_is_made_or_given_up_exactly_once() -> None:
    trace = Traffic(1.5, slots=150, burst=5).trace(seed=1)
    run = serve(trace, LADDER)
    assert run.given_up.keys().isdisjoint(run.worked_s)
    assert run.given_up.keys() | run.worked_s.keys() == {slot.number for slot in trace}
    assert run.on_time.keys() <= run.worked_s.keys()


def test_work_never_overlaps_and_on_time_slots_end_before_their_deadlines() -> None:
    trace = Traffic(2.0, slots=150).trace(seed=2)
    run = serve(trace)
    spans = sorted(run.worked_s.values())
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    for number in run.on_time:
        assert run.worked_s[number][1] <= trace[number].deadline_s


def test_no_slots_are_served_at_once() -> None:
    assert serve([]).arrivals == 0


def test_error_of_the_dispatcher_ends_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: Dispatcher) -> None:
        raise RuntimeError("broken by the test")

    monkeypatch.setattr(Dispatcher, "run", broken)
    with pytest.raises(RuntimeError, match="broken by the test"):
        serve(Traffic(1.0, slots=5).trace(seed=1))


def test_trace_is_served_by_the_dispatcher_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[int] = []
    submit = Dispatcher.submit

    def spy(self: Dispatcher, job: Job) -> None:
        submitted.append(job.tick.slot_id)
        submit(self, job)

    monkeypatch.setattr(Dispatcher, "submit", spy)
    serve(Traffic(1.0, slots=20).trace(seed=1))
    assert submitted == list(range(20))


@pytest.mark.parametrize("partitions", [1, 8])
def test_backlog_that_is_fetched_in_parts_is_served_as_if_all_of_it_were_seen(
    partitions: int,
) -> None:
    trace = Traffic(0.9, slots=300, backlog=True).trace(seed=1)
    run = Machine(trace, Fetched(partitions)).run()
    assert run.given_up.keys() | run.worked_s.keys() == set(range(300))
    assert len(run.on_time) >= 0.99 * most_possible(with_predicted_times(trace))
