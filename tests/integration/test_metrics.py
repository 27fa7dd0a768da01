"""Metrics of a real worker on a real Kafka: scraped over HTTP, and received by OTLP."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from consumer.emitter import TickEmitter
from consumer.worker import Worker
from tests.integration.conftest import MakeLane
from tests.support.command_line import environment, kafka_variables
from tests.support.engines import Script, ScriptedEngine
from tests.support.lane import TIMEOUT_S, Lane, tick
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.vortex_run import COMMAND
from tests.support.waiting import until

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
CHART = ROOT / "deploy" / "chart" / "files"
ROW = re.compile(r"^\| `(\w+)` \| `([\w.]+)` \| (\w+) \| (.*?) \| (.*?) \|$", re.M)
ABSENT_HERE = {"hw_gpu", "hw_temperature", "vortex_engine_memory_limit"}


@asynccontextmanager
async def run_command(lane: Lane, **variables: str) -> AsyncIterator[None]:
    """Have `vortex run` serve a lane until the end of the context, where it must stop well."""
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "prediction"),
        stderr=asyncio.subprocess.DEVNULL,
        env=environment(**kafka_variables(lane.config), **variables),
    )
    try:
        yield
        assert process.returncode is None
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), TIMEOUT_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def scrape(address: str) -> dict[str, Family]:
    """Return the families that the worker serves, by the names of their samples."""

    def get() -> str:
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            assert answer.status == 200
            assert (answer.getheader("Content-Type") or "").startswith("text/plain; version=")
            return answer.read().decode()
        finally:
            connection.close()

    text = await asyncio.to_thread(get)
    families = {}
    for family in text_string_to_metric_families(text):
        suffix = "_total" if family.type == "counter" else ""
        families[family.name + suffix] = family
    return families


def values(family: Family, suffix: str = "") -> dict[tuple[str, ...], float]:
    """Return the samples of a name by the values of their labels, in the order of label names."""
    return {
        tuple(sample.labels[name] for name in sorted(sample.labels)): sample.value
        for sample in family.samples
        if sample.name.endswith(suffix)
    }


async def emit_one_of_each(lane: Lane) -> None:
    await lane.emit([tick(1), tick(2, deadline_s=-5.0)])
    async with TickEmitter(lane.config) as emitter:
        await emitter.emit_raw(b"no tick")
    await lane.outcomes(3, settle_s=0.0)


async def test_scraped_metrics_tell_what_the_worker_did_and_are_those_of_the_page(
    make_lane: MakeLane, unused_tcp_port: int
) -> None:
    lane = await make_lane()
    address = f"127.0.0.1:{unused_tcp_port}"
    async with run_command(lane, VORTEX__HEALTH__ADDRESS=address):
        await emit_one_of_each(lane)
        families: Mapping[str, Family] = {}
        async with asyncio.timeout(TIMEOUT_S):
            # What was published just now is counted a moment later, and the state once a second.
            while (
                "vortex_slot_outcomes_total" not in families
                or len(families["vortex_slot_outcomes_total"].samples) < 2
                or values(families["vortex_dead_letters_total"])["unreadable",] < 1
                or "vortex_partition_lag" not in families
                or values(families["vortex_partition_lag"]) != {(lane.config.topics.ticks, "0"): 0}
            ):
                await asyncio.sleep(0.1)
                families = await scrape(address)

    # The labels' names sort as channel, outcome, reason.
    assert values(families["vortex_slot_outcomes_total"]) == {
        ("main", "slot-complete", ""): 1,
        ("main", "deadline-missed", "expired"): 1,
    }
    assert values(families["vortex_dead_letters_total"]) == {("duplicate",): 0, ("unreadable",): 1}
    assert list(values(families["messaging_client_consumed_messages_total"]).values()) == [3]
    single = {
        "vortex_engine_starts_total": 1,
        "vortex_engine_losses_total": 0,
        "vortex_engine_ready": 1,
        "vortex_engine_memory_usage_bytes": 123_000_000,
        "vortex_queue_depth": 0,
        "vortex_lag_predicted_seconds": 0,
        "vortex_partitions_assigned": 1,
        "vortex_partitions_standing": 0,
    }
    assert {name: values(families[name])[()] for name in single} == single
    assert values(families["vortex_artifact_size_bytes"], "_sum") == {(): 1001}
    assert values(families["vortex_slot_predicted_duration_seconds"], "_sum") == {(): 0.5}
    assert values(families["vortex_slot_deadline_slack_seconds"], "_count") == {
        ("slot-complete",): 1
    }
    assert values(families["vortex_slot_deadline_overrun_seconds"], "_count") == {(): 1}

    page = {row[0]: row for row in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    served = {
        name: family.type for name, family in families.items() if not name.startswith("target")
    }
    expected = {
        name: kind
        for name, _, kind, _, _ in page.values()
        if not name.startswith(tuple(ABSENT_HERE))
    }
    assert served == expected
    for name in served:
        family, (_, _, _, labels, meaning) = families[name], page[name]
        found = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert found == set(re.findall(r"`(\w+)`", labels)), name
        assert family.documentation == meaning, name


@asynccontextmanager
async def run_prometheus(
    worker: str, address: str, directory: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """Have a Prometheus server scrape a worker and follow the chart's rules."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(CHART / "alerts.yaml")],
        "scrape_configs": [{"job_name": "vortex", "static_configs": [{"targets": [worker]}]}],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}/api/v1", trust_env=False) as api:
            yield api
    finally:
        process.kill()
        await process.wait()


async def ask(api: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    """Return what Prometheus answers, once it listens."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                answer = (await api.get(path, params=parameters)).json()
                break
            except httpx.TransportError:
                await asyncio.sleep(0.1)
    assert answer["status"] == "success", answer
    return answer["data"]


@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")
async def test_prometheus_server_scrapes_a_worker_and_evaluates_rules_and_panels(
    make_lane: MakeLane, unused_tcp_port_factory: Callable[[], int], tmp_path: Path
) -> None:
    lane = await make_lane()
    worker, server = (f"127.0.0.1:{unused_tcp_port_factory()}" for _ in range(2))
    dashboard = json.loads((CHART / "dashboard.json").read_text(encoding="utf-8"))
    async with (
        run_command(lane, VORTEX__HEALTH__ADDRESS=worker),
        run_prometheus(worker, server, tmp_path) as api,
    ):
        await emit_one_of_each(lane)
        async with asyncio.timeout(TIMEOUT_S):
            query = "sum by (slot_outcome) (vortex_slot_outcomes_total)"
            while len(found := (await ask(api, "query", query=query))["result"]) < 2:
                await asyncio.sleep(0.2)
            assert {each["value"][1] for each in found} == {"1"}
            rules: list[Any] = []
            while not rules or any(rule["health"] == "unknown" for rule in rules):
                groups = (await ask(api, "rules"))["groups"]
                rules = [rule for group in groups for rule in group["rules"]]
                await asyncio.sleep(0.2)
        assert {rule["health"] for rule in rules} == {"ok"}
        (target,) = (await ask(api, "targets"))["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        for expression in panels:
            await ask(api, "query", query=expression.replace("$__rate_interval", "1m"))
    assert len(panels) > 20
    assert len(rules) > 5


def pushing(
    lane: Lane, receiver: OtlpReceiver, **variables: str
) -> AbstractAsyncContextManager[object]:
    """Run a worker that pushes all its telemetry to the receiver."""
    return run_command(
        lane,
        VORTEX__TELEMETRY__EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        **variables,
    )


async def test_otlp_receiver_gets_metrics_whose_exemplars_are_traces(make_lane: MakeLane) -> None:
    lane = await make_lane()
    with OtlpReceiver() as receiver:
        async with pushing(lane, receiver, OTEL_METRIC_EXPORT_INTERVAL="200"):
            await emit_one_of_each(lane)
            await until(lambda: "vortex.slot.prediction.ratio" in receiver.metrics())
        # The last export is made at the end, and has everything.
        metrics = receiver.metrics()
        (process,) = [
            span
            for span in receiver.spans()
            if span.name.startswith("process ") and span.attributes.get("slot.id") == 1
        ]
    outcomes = metrics["vortex.slot.outcomes"]
    assert outcomes.unit == "{outcome}"
    assert sum(point.as_int for point in outcomes.sum.data_points) == 2
    exemplars = receiver.exemplars("vortex.slot.prediction.ratio")
    assert exemplars == [process.trace_id]
    documented = {row[1] for row in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    assert metrics.keys() <= documented
    assert len(metrics) > 15


async def test_exporter_variable_turns_pushed_metrics_off(make_lane: MakeLane) -> None:
    lane = await make_lane()
    with OtlpReceiver() as receiver:
        async with pushing(lane, receiver, OTEL_METRICS_EXPORTER="none"):
            await emit_one_of_each(lane)
        assert receiver.spans()
        assert receiver.metrics() == {}


async def test_lag_counts_ticks_that_a_full_queue_leaves_unread(make_lane: MakeLane) -> None:
    lane = await make_lane()
    hold = asyncio.Event()
    engine = ScriptedEngine(default=Script(hold=hold), predicted_s=2.0)
    async with lane.worker(engine, "a", queue_limit=2) as worker:
        await lane.emit([tick(slot_id, deadline_s=600.0) for slot_id in range(10)])
        await until_lag(worker, 10)
        state = await worker.look(TIMEOUT_S)
        # One is being made; the waiting and the unread ones take two seconds each.
        assert 18 <= state.lag_s <= 20
        assert state.waiting < 10
        hold.set()
        await until_lag(worker, 0)
        assert (await worker.look(TIMEOUT_S)).lag_s == 0


async def until_lag(worker: Worker, lag: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while list((await worker.look(TIMEOUT_S)).lag.values()) != [lag]:
            await asyncio.sleep(0.05)
