from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumer.cli.app import app
from consumer.simulation.report import Simulated
from consumer.simulation.traces import Traffic
from vortex.rung import FULL


def test_worker_makes_about_what_can_be_made_under_overload() -> None:
    run = Simulated.of(Traffic(1.6, slots=120).trace(seed=1), (FULL,))
    assert run.slots == 120
    assert 0.95 * run.possible_predicted <= run.on_time <= run.possible_predicted + 3 < run.slots
    assert sum(on_time for _, on_time in run.is_on_time()) == run.on_time


def test_command_prints_what_came_of_the_traffic() -> None:
    arguments = ["simulate", "--slots", "60", "--load", "2", "--rungs", "1,0.5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "1 worker" in result.output
    assert "on time" in result.output


def test_command_compares_fleets_with_dying_workers_and_busy_partitions(tmp_path: Path) -> None:
    arguments = ["simulate", "--workers", "3", "--partitions", "6", "--slots", "60", "--load", "1"]
    arguments += ["--busier", "2", "--dies", "1@100", "--session-s", "5"]
    drawn = tmp_path / "run.svg"
    result = CliRunner().invoke(app, [*arguments, "--plot", str(drawn)])
    assert result.exit_code == 0, result.output
    for expected in ("bound to partitions", "with handover", "one queue, EDF"):
        assert expected in result.output
    assert "read again after a death" in result.output
    assert drawn.stat().st_size > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dies", "0@10"],
        ["--busier", "2"],
        ["--workers", "2", "--dies", "2@10"],
        ["--workers", "2", "--dies", "soon"],
        ["--workers", "2", "--dies", "0@1", "--dies", "1@1"],
    ],
)
def test_fleet_that_makes_no_sense_is_refused(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["simulate", "--slots", "5", *arguments])
    assert result.exit_code == 2, result.output
    assert "--dies" in result.output


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
