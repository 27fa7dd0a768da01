"""Alerts, dashboards and scaling ask for metrics and labels that a worker really exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from consumer.telemetry.instruments import INSTRUMENTS

CHART = Path(__file__).parents[2] / "deploy" / "chart"
ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))

WORDS = {"and", "or", "by", "unless", "on", "ignoring"}
OF_EVERY_SERIES = {"instance", "job", "le"}
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}


def expressions() -> Iterator[tuple[str, str]]:
    """Yield where an expression stands, and the expression."""
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    scaling = (CHART / "templates" / "scaling.yaml").read_text(encoding="utf-8")
    for number, query in enumerate(re.findall(r"query: (.+)", scaling)):
        yield f"scaling {number}", query


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Give the samples that the exporter makes of our instruments, and their labels."""
    registry = CollectorRegistry()
    provider = MeterProvider(
        [PrometheusMetricReader(scope_info_enabled=False, registry=registry)],
        shutdown_on_exit=False,
    )
    meter = provider.get_meter("test")
    for one in INSTRUMENTS:
        labels = dict.fromkeys(one.labels, "x")
        if one.kind == "counter":
            one.counter(meter).add(1, labels)
        elif one.kind == "histogram":
            one.histogram(meter).record(1, labels)
        else:
            one.observe(meter, lambda _, labels=labels: [Observation(1, labels)])
    return {
        sample.name: set(sample.labels)
        for family in registry.collect()
        for sample in family.samples
    }


def metrics_in(expression: str) -> set[str]:
    """Return the names of the metrics that an expression asks for."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)", " ", expression)
    names = re.findall(r"[a-zA-Z_:][\w:]*(?!\w|\s*\()", bare)
    return {name for name in names if name not in WORDS}


def labels_in(expression: str) -> set[str]:
    """Return the labels by which an expression selects or groups."""
    lists = re.findall(r"\bby \(([^)]*)\)", expression)
    grouped = {label.strip() for each in lists for label in each.split(",")}
    return grouped | set(re.findall(r"[{,]\s*(\w+)\s*[=!]", expression)) - {"__name__"}


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_expression_asks_for_what_is_exported(
    place: str, expression: str, exported: dict[str, set[str]]
) -> None:
    metrics = metrics_in(expression) - RECORDED
    for pattern in re.findall(r'__name__=~"([^"]+)"', expression):
        metrics |= {name for name in exported if re.fullmatch(pattern, name)} or {pattern}
    assert metrics or metrics_in(expression) & RECORDED
    assert metrics <= exported.keys(), place
    known = OF_EVERY_SERIES.union(*(exported[name] for name in metrics))
    assert labels_in(expression) <= known, place


def test_expression_with_a_metric_that_is_not_exported_is_noticed(
    exported: dict[str, set[str]],
) -> None:
    asked = metrics_in('sum by (a) (rate(vortex_slots_total{b="c"}[5m])) / vortex_queue_depth > 1')
    assert asked == {"vortex_slots_total", "vortex_queue_depth"}
    assert asked - exported.keys() == {"vortex_slots_total"}
    assert labels_in('sum by (a) (x{b="c", d=~"e"})') == {"a", "b", "d"}


def test_every_metric_is_on_the_dashboard(exported: dict[str, set[str]]) -> None:
    asked = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported}
    assert {name for name in families if name not in asked} == {"target_info"}


def test_every_alert_says_how_bad_it_is_and_what_it_is() -> None:
    alerts = [rule for rule in RULES if "alert" in rule]
    assert len(alerts) >= 8
    for alert in alerts:
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"]["summary"]


def test_operators_page_says_what_to_do_about_every_alert() -> None:
    page = (CHART.parents[1] / "docs" / "how-to" / "recover.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (Vortex\w+)$", page, re.M)
    assert sorted(rule["alert"] for rule in RULES if "alert" in rule) == sorted(headings)
