from __future__ import annotations

import pytest
from typer.testing import CliRunner

from consumer.cli.app import app
from consumer.simulation.report import Simulated
from consumer.simulation.traces import Traffic
from vortex.rung import FULL


def test_second_gpu_saves_slots_under_overload() -> None:
    trace = Traffic(1.6, slots=120).trace(seed=1)
    one, two = (Simulated.of(trace, (FULL,), gpus) for gpus in (1, 2))
    assert one.slots == two.slots == 120
    assert one.on_time < 90 < two.on_time
    assert one.on_time <= one.possible_predicted + 3


def test_command_prints_what_came_of_the_traffic() -> None:
    arguments = ["simulate", "--slots", "60", "--load", "2", "--gpus", "2", "--rungs", "1,0.5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 GPUs" in result.output
    assert "on time" in result.output


@pytest.mark.parametrize("rungs", ["0.5,1", "0", "2", "half"])
def test_rungs_that_make_no_sense_are_refused(rungs: str) -> None:
    result = CliRunner().invoke(app, ["simulate", "--rungs", rungs])
    assert result.exit_code == 2
    assert "--rungs" in result.output


def test_same_seed_is_the_same_traffic() -> None:
    traffic = Traffic(1.0, slots=30, day_s=600.0, slack_s=(20.0, 90.0))
    assert traffic.trace(1) == traffic.trace(1)
    assert traffic.trace(1) != traffic.trace(2)


def test_reference_traffic_has_the_mean_and_spread_that_it_names() -> None:
    trace = Traffic(1.0, slots=20_000).trace(1)
    mean_s = sum(slot.seconds for slot in trace) / len(trace)
    assert mean_s == pytest.approx(12.0, rel=0.02)
    assert trace[-1].arrived_s == pytest.approx(20_000 * 12.0, rel=0.03)
    assert all(slot.deadline_s == slot.arrived_s + 45.0 for slot in trace)


def test_slots_of_a_backlog_all_wait_at_the_beginning() -> None:
    trace = Traffic(0.9, slots=50, backlog=True).trace(1)
    assert {slot.arrived_s for slot in trace} == {0.0}
    assert all(slot.emitted_s < slot.deadline_s for slot in trace)
