from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytest
from opentelemetry import trace
from rich.console import Console
from rich.tree import Tree

from consumer.telemetry.semconv import SCHEMA_URL, record_failure
from consumer.telemetry.trace_file import read_trace_file
from consumer.telemetry.trace_tree import render_tree
from consumer.telemetry.tracing import Tracing, configure_tracing
from tests.support.small_disk import small_disk
from vortex.config import ConfigError


@dataclass(frozen=True)
class Settings:
    exporter: Literal["none", "otlp", "console", "file"] = "none"
    file: Path | None = None
    service_name: str = "vortex-worker"


def local_tracing(**settings: Any) -> Tracing:
    return configure_tracing(Settings(**settings), set_global=False)


def draw(tree: Tree) -> str:
    console = Console(width=120, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(tree)
    return capture.get()


def make_slot_trace(tracing: Tracing) -> None:
    tracer = tracing.provider.get_tracer("consumer.worker", schema_url=SCHEMA_URL)
    with tracer.start_as_current_span(
        "process slot.ticks", kind=trace.SpanKind.CONSUMER, attributes={"slot.id": 7, "x": [1, 2]}
    ) as process:
        with tracer.start_as_current_span("audio", attributes={"slot.stage": "audio"}) as audio:
            audio.add_event("sentence spoken", {"chars": 60})
        with tracer.start_as_current_span(
            "video", links=[trace.Link(process.get_span_context())]
        ) as video:
            record_failure(video, TimeoutError("video took [31] s"))


def test_file_exporter_output_is_read_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "traces" / "demo.jsonl"
    tracing = local_tracing(exporter="file", file=path)
    make_slot_trace(tracing)
    tracing.shutdown()

    audio, video, process = read_trace_file(path)
    assert (process.name, process.kind, process.parent_span_id) == (
        "process slot.ticks",
        "CONSUMER",
        None,
    )
    assert process.attributes == {"slot.id": 7, "x": [1, 2]}
    assert audio.trace_id == video.trace_id == process.trace_id
    assert audio.parent_span_id == video.parent_span_id == process.span_id
    assert (audio.events[0].name, audio.events[0].attributes) == ("sentence spoken", {"chars": 60})
    assert video.links[0].span_id == process.span_id
    assert (audio.status, video.status) == ("UNSET", "ERROR")
    assert process.start_ns <= audio.start_ns < audio.end_ns <= process.end_ns
    assert process.resource["service.name"] == "vortex-worker"
    assert (process.scope, process.schema_url) == ("consumer.worker", SCHEMA_URL)


def test_trace_file_is_standard_otlp_json(tmp_path: Path) -> None:
    path = tmp_path / "demo.jsonl"
    tracing = local_tracing(exporter="file", file=path)
    make_slot_trace(tracing)
    tracing.shutdown()

    (line,) = path.read_text().splitlines()
    spans = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    process = spans[-1]
    assert process["kind"] == 5
    assert len(bytes.fromhex(process["traceId"])) == 16
    assert spans[0]["parentSpanId"] == spans[1]["links"][0]["spanId"] == process["spanId"]
    assert process["startTimeUnixNano"].isdecimal()
    assert {"key": "slot.id", "value": {"intValue": "7"}} in process["attributes"]


def test_two_exporters_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "demo.jsonl"
    for _ in range(2):
        tracing = local_tracing(exporter="file", file=path)
        make_slot_trace(tracing)
        tracing.shutdown()
    assert len(read_trace_file(path)) == 6


def test_trace_file_lost_while_running_costs_spans_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gone" / "demo.jsonl"
    tracing = local_tracing(exporter="file", file=path)
    path.unlink()
    path.parent.rmdir()
    make_slot_trace(tracing)
    tracing.shutdown()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.message == "Trace export failing, spans are dropped"
    assert "No such file" in vars(record)["reason"]
    assert record.exc_info is None


def test_full_disk_leaves_no_half_line_in_the_trace_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        file = disk.path / "traces.jsonl"
        tracing = local_tracing(exporter="file", file=file)
        make_slot_trace(tracing)
        tracing.provider.force_flush()
        whole = file.read_bytes()
        disk.fill(0)
        for _ in range(20):  # more than the rest of the file's last page has room for
            make_slot_trace(tracing)
        tracing.provider.force_flush()
        assert file.read_bytes() == whole
        disk.free()
        make_slot_trace(tracing)
        tracing.shutdown()
        assert len(read_trace_file(file)) == 6


def test_tree_shows_the_trace_with_durations_status_and_slot_attributes(tmp_path: Path) -> None:
    path = tmp_path / "demo.jsonl"
    tracing = local_tracing(exporter="file", file=path)
    make_slot_trace(tracing)
    tracing.shutdown()

    header, process, audio, video = draw(render_tree(read_trace_file(path))).splitlines()
    assert header.startswith("trace ")
    assert process.startswith("└── process slot.ticks")
    assert process.endswith("id=7")
    assert audio.startswith("    ├── audio")
    assert " ms  stage=audio" in audio
    assert video.startswith("    └── video")
    assert video.endswith("✗ video took [31] s  error=TimeoutError")


def test_span_whose_parent_is_elsewhere_stands_at_the_top(tmp_path: Path) -> None:
    path = tmp_path / "demo.jsonl"
    tracing = local_tracing(exporter="file", file=path)
    make_slot_trace(tracing)
    tracing.shutdown()
    spans = [span for span in read_trace_file(path) if span.name != "process slot.ticks"]
    assert len(draw(render_tree(spans)).splitlines()) == 3


def test_resource_names_service_version_and_instance() -> None:
    resource = local_tracing().provider.resource
    assert resource.attributes["service.name"] == "vortex-worker"
    assert resource.attributes["service.version"] == version("vortex-slots")
    assert resource.attributes["service.instance.id"]
    assert resource.schema_url == SCHEMA_URL


def test_environment_has_the_last_word_on_the_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "night-shift")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=w7,deployment=lab")
    attributes = local_tracing().provider.resource.attributes
    assert attributes["service.name"] == "night-shift"
    assert (attributes["service.instance.id"], attributes["deployment"]) == ("w7", "lab")


def test_trace_that_goes_nowhere_still_has_ids() -> None:
    tracing = local_tracing(exporter="none")
    assert tracing.exporters == ()
    with tracing.provider.get_tracer("test").start_as_current_span("tick") as span:
        assert span.get_span_context().is_valid
        assert span.get_span_context().trace_flags.sampled


def test_exporter_variable_wins_over_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "demo.jsonl"
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console, file")
    tracing = local_tracing(exporter="none", file=path)
    make_slot_trace(tracing)
    tracing.shutdown()
    shown = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [span["name"] for span in shown] == ["audio", "video", "process slot.ticks"]
    assert len(read_trace_file(path)) == 3


def test_disabled_sdk_makes_no_spans_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracing = local_tracing(exporter="file", file=tmp_path / "demo.jsonl")
    make_slot_trace(tracing)
    tracing.shutdown()
    assert list(tmp_path.iterdir()) == []


def test_sampler_variable_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    span = local_tracing().provider.get_tracer("test").start_span("tick")
    assert not span.is_recording()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
)
def test_unsupported_choice_is_refused_by_name_and_value(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{variable}.*{value}"):
        local_tracing(exporter="otlp")


def test_file_exporter_without_a_path_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"telemetry\.file"):
        local_tracing(exporter="file")


def test_unwritable_trace_file_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for file in (tmp_path / "taken" / "demo.jsonl", tmp_path):
        with pytest.raises(ConfigError, match=r"telemetry\.file: .* cannot be written: .*; name"):
            local_tracing(exporter="file", file=file)


def test_importing_has_no_side_effect_and_configuring_sets_the_global_provider() -> None:
    program = """
import logging, threading
from types import SimpleNamespace
from opentelemetry import trace
import consumer.telemetry.logs, consumer.telemetry.tracing, consumer.telemetry.trace_tree
assert not logging.getLogger().handlers and threading.active_count() == 1
early = trace.get_tracer("vortex.pipeline")
assert not early.start_span("before").is_recording()
settings = SimpleNamespace(exporter="none", file=None, service_name="vortex-worker")
consumer.telemetry.tracing.configure_tracing(settings)
assert early.start_span("after").is_recording()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)
