"""The container image and the services around it, as far as files can tell."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.config import WorkerConfig

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
OURS = ("owner", "models", "topics", "worker")


def last_stage() -> str:
    return DOCKERFILE.rpartition("\nFROM ")[2]


def test_image_runs_as_nobody_and_needs_no_shell() -> None:
    stage = last_stage()
    (user,) = re.findall(r"^USER (\d+):\d+$", stage, re.M)
    assert int(user) > 0
    commands = re.findall(r"^\s*(?:ENTRYPOINT|CMD) (.*)$", stage, re.M)
    assert len(commands) == 3
    assert all(command.startswith("[") for command in commands)
    assert "\nRUN " not in stage
    assert "/live" in stage


def test_image_is_built_from_the_lock_file_and_lists_what_is_in_it() -> None:
    assert "--constraint requirements.lock" in DOCKERFILE
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (of_make,) = re.findall(r"^UV_VERSION := (\S+)$", makefile, re.M)
    assert f"ARG UV_VERSION={of_make}\n" in DOCKERFILE
    assert "cyclonedx-py environment" in DOCKERFILE
    assert "FROM scratch AS sbom" in DOCKERFILE


def test_build_gets_what_the_wheel_needs_and_nothing_else() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]}
    assert lines[0] == "*"
    assert kept == needed | {"LICENSE", "pyproject.toml", "requirements.lock"}


@pytest.mark.parametrize("name", OURS)
def test_our_containers_cannot_write_to_their_root(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert ("user" in service) == (name == "owner")


def test_environment_of_the_worker_is_a_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = COMPOSE["services"]["worker"]["environment"]
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    config = WorkerConfig.load()
    assert config.kafka.bootstrap_servers == "kafka:19092"
    assert config.kafka.topics.handover == "slot.handover"
    assert config.telemetry.exporter == "otlp"
    grace_s = float(COMPOSE["services"]["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > config.kafka.shutdown_grace_s + 40


def test_files_that_are_mounted_exist_and_images_are_pinned() -> None:
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).is_file(), volume
        image = service["image"]
        assert re.search(r":v?\d+\.\d+\.\d+$", image) or name in OURS, image


def test_collector_sends_all_that_it_gets_to_services_that_run() -> None:
    collector = read("observability/collector.yaml")
    used = set()
    for pipeline in collector["service"]["pipelines"].values():
        used.update(pipeline["exporters"])
        assert set(pipeline["receivers"]) <= collector["receivers"].keys()
        assert set(pipeline["processors"]) <= collector["processors"].keys()
    assert used == collector["exporters"].keys()
    for exporter in collector["exporters"].values():
        host = re.sub(r"^https?://", "", exporter["endpoint"]).split(":")[0]
        assert host in COMPOSE["services"]


def test_exemplars_lead_from_prometheus_to_the_trace_store() -> None:
    provisioned = read("observability/grafana/datasources.yaml")["datasources"]
    sources = {each["uid"]: each for each in provisioned}
    (leads,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert sources[leads["datasourceUid"]]["type"] == "tempo"
    command = COMPOSE["services"]["prometheus"]["command"]
    assert {"--web.enable-otlp-receiver", "--enable-feature=exemplar-storage"} <= set(command)
    for source in sources.values():
        assert re.sub(r"^https?://", "", source["url"]).split(":")[0] in COMPOSE["services"]


def read(path: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / path).read_text(encoding="utf-8"))
    return content
