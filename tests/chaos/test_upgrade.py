"""A rolling upgrade from the previous commit's workers to these and back, under load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from consumer.config import WorkerConfig
from tests.chaos.upgrade import NoSuchRevisionError, as_read_by, check_out, upgrade

PREVIOUS = "HEAD~1"


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(900)
async def test_rolling_upgrade_from_the_previous_commit_and_back_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    try:
        check_out(PREVIOUS, tmp_path)
    except NoSuchRevisionError as error:
        pytest.skip(f"needs a git checkout with the previous commit: {error}")
    report = await upgrade(PREVIOUS, workers=2)
    assert report.verdict.findings == [], str(report)
    assert {"old-0", "old-1", "new-0", "new-1"} <= report.outcomes.keys()
    assert report.ticks > 100


def test_revision_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoSuchRevisionError, match="no-such-revision"):
        check_out("no-such-revision", tmp_path)


def test_workers_of_another_revision_are_told_only_the_keys_that_they_know(tmp_path: Path) -> None:
    """A revision whose configuration is smaller, and has one key more."""
    package = tmp_path / "consumer"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "config.py").write_text(
        "from types import SimpleNamespace as N\n"
        """known = '{"group_id": "x", "old_key": 7, "topics": {"ticks": "x"}}'\n"""
        "kafka = N(model_dump_json=lambda: known)\n"
        "WorkerConfig = N(load=lambda: N(kafka=kafka))\n",
        encoding="utf-8",
    )
    config = WorkerConfig.load().kafka.model_copy(update={"group_id": "mine"})
    assert json.loads(as_read_by(tmp_path, config)) == {
        "group_id": "mine",
        "old_key": 7,
        "topics": {"ticks": "slot.ticks"},
    }
