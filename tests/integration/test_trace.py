"""The trace of a tick, from its producer over worker and engine process to its outcome."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from consumer.artifacts.store import ArtifactStore
from schemas import SlotComplete, parse_outcome
from tests.integration.conftest import MakeLane
from tests.support.command_line import (
    VORTEX,
    environment,
    kafka_variables,
    vortex,
)
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.span_paths import paths, paths_of_a_made_slot


@contextmanager
def running_worker(variables: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run `vortex run` until it is ready, and kill it at the end if it runs still."""
    with subprocess.Popen(
        [*VORTEX, "run", "--worker-id", "tested"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    ) as process:
        try:
            assert process.stderr
            events = []
            while "Engine ready" not in events:
                line = process.stderr.readline()
                assert line, f"the worker ended after {events}"
                events.append(json.loads(line)["event"])
            yield process
        finally:
            process.kill()


@pytest.mark.slow  # the demo's trace, which its test reads, goes the same way
@pytest.mark.kafka
@pytest.mark.models
@pytest.mark.timeout(240)
async def test_trace_of_a_tick_is_one_tree_from_emission_to_publication(
    make_lane: MakeLane, mini_models: Path, tmp_path: Path
) -> None:
    lane = await make_lane()
    with OtlpReceiver() as collector:
        variables = kafka_variables(lane.config) | {
            "VORTEX__MODELS__DIRECTORY": str(mini_models),
            "VORTEX__ARTIFACTS__URL": str(tmp_path / "slots"),
            "VORTEX__TELEMETRY__EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        }
        with running_worker(variables) as worker:
            emitted = vortex("tick", "--slot-id", "7", "--duration", "2", **variables)
            assert emitted.returncode == 0, emitted.stderr
            watched = vortex(
                "watch", "--from-start", "--count", "1", "--timeout", "60", "--json", **variables
            )
            assert watched.returncode == 0, watched.stderr
            worker.send_signal(signal.SIGTERM)
            _, rest = worker.communicate(timeout=30)
            assert worker.returncode == 0
        spans = collector.spans()

    outcome = parse_outcome(watched.stdout)
    assert isinstance(outcome, SlotComplete)
    store = ArtifactStore(variables["VORTEX__ARTIFACTS__URL"])
    assert store.is_whole(outcome.artifact.uri, outcome.artifact.sha256)
    assert "Thank you for watching" not in rest

    (root,) = [span for span in spans if span.name == "vortex tick"]
    assert root.parent_span_id is None
    tree = [span for span in spans if span.trace_id == root.trace_id]
    assert paths(tree) == paths_of_a_made_slot(lane.config.topics)
    assert len({span.span_id for span in tree}) == len(tree)
    assert {span.status for span in tree} == {"UNSET"}
