"""The Helm chart: its values, and, where `helm` is installed, what it renders."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from consumer.config import WorkerConfig
from tests.support.access_lists import documented

CHART = Path(__file__).parents[2] / "deploy" / "chart"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
EVERYTHING = (
    "keda.enabled=true,strimzi.enabled=true,podMonitor.enabled=true,prometheusRule.enabled=true,"
    "config.kafka.topics.handover=slot.handover,config.kafka.topics.workers=slot.workers,"
    "dashboard.enabled=true,config.kafka.topics.control=slot.control,secrets[0].name=kafka,secrets[0].mountPath=/run/secrets/kafka"
)
# What the worker may take beyond its grace: publishing, leaving the group, stopping the engine.
STOPPING_S = 40


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the values with one of them changed."""
    values = copy.deepcopy(VALUES)
    *parents, last = path.split(".")
    at = values
    for name in parents:
        at = at[name]
    at[last] = value
    return values


def test_default_values_are_valid() -> None:
    jsonschema.validate(VALUES, SCHEMA, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("gpu.count", 2),
        ("config.kafka.bootstrap_servers", "kafka"),
        ("config.kafka.shutdown_grace_s", -1),
        ("config.kafka.topics.ticks", "no topic"),
        ("config.kafka.topics.handover", "slot.handover"),
        ("config.kafka.topics.workers", "slot.workers"),
        ("secrets", [{"name": "kafka"}]),
        ("keda.maxReplicas", 0),
        ("strimzi.authentication", "plain"),
        ("podDisruptionBuget", {}),
    ],
)
def test_value_that_is_wrong_or_misspelt_is_refused(path: str, value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(path, value), SCHEMA, jsonschema.Draft202012Validator)


def test_handover_takes_both_of_its_topics() -> None:
    values = changed("config.kafka.topics.handover", "slot.handover")
    values["config"]["kafka"]["topics"]["workers"] = "slot.workers"
    jsonschema.validate(values, SCHEMA, jsonschema.Draft202012Validator)


def test_schema_knows_every_value() -> None:
    assert VALUES.keys() == SCHEMA["properties"].keys()
    for name, schema in SCHEMA["properties"].items():
        if "properties" in schema and name != "config":
            assert VALUES[name].keys() <= schema["properties"].keys()


def test_default_configuration_is_one_that_a_worker_takes(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(VALUES["config"]), encoding="utf-8")
    taken, packaged = WorkerConfig.load(path).kafka, WorkerConfig.load().kafka
    assert (taken.group_id, taken.topics) == (packaged.group_id, packaged.topics)
    assert taken.shutdown_grace_s == packaged.shutdown_grace_s


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[dict[str, Any]]]:
    """Give all that the chart renders, by kind."""
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("helm is not installed; `make deploy-check` fetches it")
    done = subprocess.run(
        [helm, "template", "release", str(CHART), "--set", EVERYTHING],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for document in yaml.safe_load_all(done.stdout):
        if document:
            found.setdefault(document["kind"], []).append(document)
    return found


def test_worker_has_more_time_to_stop_than_its_grace() -> None:
    template = (CHART / "templates" / "deployment.yaml").read_text(encoding="utf-8")
    (more,) = re.findall(
        r"terminationGracePeriodSeconds: \{\{ add \(ceil "
        r"\.Values\.config\.kafka\.shutdown_grace_s \| int\) (\d+) \}\}",
        template,
    )
    assert int(more) > STOPPING_S


def test_pod_is_hardened_probed_and_has_a_gpu(rendered: dict[str, list[dict[str, Any]]]) -> None:
    pod = rendered["Deployment"][0]["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert worker["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert worker["livenessProbe"]["httpGet"]["path"] == "/live"
    assert worker["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["terminationGracePeriodSeconds"] > VALUES["config"]["kafka"]["shutdown_grace_s"]
    assert "replicas" not in rendered["Deployment"][0]["spec"]  # the scaler's
    mounts = {mount["name"] for mount in worker["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_kafka_user_has_the_documented_rights_and_no_more(
    rendered: dict[str, list[dict[str, Any]]],
) -> None:
    (user,) = rendered["KafkaUser"]
    kinds = {"transactionalId": "transactional-id"}
    granted = {
        (
            operation,
            kinds.get(acl["resource"]["type"], acl["resource"]["type"]),
            acl["resource"]["name"],
            acl["resource"]["patternType"].replace("prefix", "prefixed"),
        )
        for acl in user["spec"]["authorization"]["acls"]
        for operation in acl["operations"]
    }
    assert granted == {
        (each.operation, each.kind, each.name, each.pattern) for each in documented("worker")
    }
    names = {name for name in VALUES["config"]["kafka"]["topics"].values() if name is not None}
    topics = {topic["spec"]["topicName"]: topic["spec"] for topic in rendered["KafkaTopic"]}
    assert topics.keys() == names | {"slot.handover", "slot.workers", "slot.control"}
    assert topics["slot.handover"]["partitions"] >= VALUES["keda"]["maxReplicas"]
    assert topics["slot.workers"]["config"]["cleanup.policy"] == "compact"


def test_scaler_counts_slots_for_which_no_worker_had_room(
    rendered: dict[str, list[dict[str, Any]]],
) -> None:
    triggers = rendered["ScaledObject"][0]["spec"]["triggers"]
    assert "vortex_slot_unplaced_total" in triggers[1]["metadata"]["query"]


def test_rules_and_dashboard_are_rendered_as_they_are(
    rendered: dict[str, list[dict[str, Any]]],
) -> None:
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))
    assert rendered["PrometheusRule"][0]["spec"] == alerts
    (dashboard,) = (
        each["data"]["vortex.json"]
        for each in rendered["ConfigMap"]
        if "vortex.json" in each["data"]
    )
    assert json.loads(dashboard)["title"] == "Vortex"
