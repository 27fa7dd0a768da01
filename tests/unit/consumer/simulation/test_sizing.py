from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumer.cli.app import app
from consumer.simulation.recorded import Recorded, Tick
from consumer.simulation.sizing import Size, Sizing, fewest
from tests.unit.consumer.simulation.test_recorded import Recorder


def load(slots: int = 60, every_s: float = 4.0, partitions: int | None = None) -> Recorded:
    """Return slots of 10 s with 25 s of time."""
    return Recorded.of(
        (
            Tick(
                arrived_s=1e9 + number * every_s,
                deadline_s=1e9 + number * every_s + 25.0,
                worked_s=10.0,
                partition=None if partitions is None else number % partitions,
            )
            for number in range(slots)
        ),
        "a test",
        "record it",
    )


@pytest.mark.parametrize(("target", "expected"), [(0.5, 5), (0.9, 9), (1.0, 10), (0.01, 1)])
def test_fewest_is_the_first_that_reaches_the_target(target: float, expected: int) -> None:
    assert fewest(lambda workers: min(1.0, workers / 10), target, 64) == Size(
        expected, expected / 10
    )


def test_target_that_is_not_reached_has_no_size() -> None:
    assert fewest(lambda workers: 0.5, 0.9, most=7) is None


def test_load_needs_as_many_workers_as_it_has_work() -> None:
    sizing = Sizing(load())
    assert load().load == pytest.approx(2.5, rel=0.05)
    assert fewest(sizing.one_queue, 0.99, 16) == Size(3, 1.0)
    handed = fewest(sizing.handed_over, 0.99, 16)
    bound = fewest(sizing.bound, 0.99, 16)
    assert handed is not None
    assert handed.workers in (3, 4)
    assert bound is None or bound.workers > handed.workers


def test_more_workers_than_partitions_help_only_with_handover() -> None:
    sizing = Sizing(load(partitions=2))
    assert sizing.partitions == 2
    assert fewest(sizing.bound, 0.99, 16) is None
    handed = fewest(sizing.handed_over, 0.99, 16)
    assert handed is not None
    assert handed.workers <= 4


def test_command_says_how_many_gpus_a_trace_file_needs(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "traces.jsonl")
    for number in range(30):
        at_s = 1000.0 + 4 * number
        recorder.tick(at_s, at_s + 10, 15.0, (at_s + 1, at_s + 9), partition=number % 4)
    arguments = ["size", "--trace", str(tmp_path / "traces.jsonl"), "--target", "0.97"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "30 slots, 2.1 seconds of work a second, 4 partitions" in result.output
    assert "97.0% on time: 2 GPUs with handover" in result.output
    short = CliRunner().invoke(app, [*arguments, "--most", "1"])
    assert short.exit_code == 1, short.output
    assert "needs more than 1 GPUs" in short.output
