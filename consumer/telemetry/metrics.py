"""Metrics: set up once at the entry point, shut down within a bound.

They are served to Prometheus as a page, and pushed to an OTLP collector where traces go there too.
The standard OTEL_* variables configure what they name: exporter, endpoint, headers, interval.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import Meter
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_METRICS_PROTOCOL
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)

from consumer.telemetry.outages import Outage, collect_reports_of
from consumer.telemetry.semconv import SCHEMA_URL
from consumer.telemetry.tracing import (
    TracingSettings,
    require_otlp_over_http,
    service_resource,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_METRICS_EXPORTER = "OTEL_METRICS_EXPORTER"


@dataclass(frozen=True)
class Metrics:
    """The meter provider of this process, and the page that Prometheus reads."""

    provider: MeterProvider
    registry: CollectorRegistry | None

    def meter(self) -> Meter:
        """Return what makes instruments."""
        return self.provider.get_meter("vortex.consumer", schema_url=SCHEMA_URL)

    def page(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus's text format, and its content type; from any thread."""
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        if self.registry is None:
            raise RuntimeError("metrics were set up without a page")
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def shutdown(self, timeout_s: float = 5.0) -> None:
        """Export a last time and stop, in `timeout_s` at the most. Blocks."""
        timeout_ms = timeout_s * 1000
        flush = threading.Thread(
            target=self.provider.shutdown, args=(timeout_ms,), name="metrics-shutdown", daemon=True
        )
        flush.start()
        flush.join(timeout_s)


def configure_metrics(settings: TracingSettings, *, page: bool) -> Metrics:
    """Make the meter provider of this process.

    Metrics are pushed if `settings.exporter` is `otlp`. OTEL_METRICS_EXPORTER (`otlp`, `none` or
    `prometheus`, which is always served, several with commas between) wins over it.

    Args:
        settings: where traces go, and the name of the service.
        page: whether `Metrics.page` is wanted.

    Raises:
        ValueError: an exporter or OTLP protocol is asked for that we do not have.
        ModuleNotFoundError: a page is wanted, and the extra `pipeline` is not installed.
    """
    readers: list[MetricReader] = []
    registry = None
    if page:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        readers.append(PrometheusMetricReader(scope_info_enabled=False, registry=registry))
    if _pushed(settings):
        require_otlp_over_http(OTEL_EXPORTER_OTLP_METRICS_PROTOCOL)
        readers.append(PeriodicExportingMetricReader(OutageReportingMetricExporter()))
    provider = MeterProvider(
        readers, service_resource(settings.service_name), shutdown_on_exit=False
    )
    return Metrics(provider, registry)


def _pushed(settings: TracingSettings) -> bool:
    asked = os.environ.get(_METRICS_EXPORTER)
    if not asked:
        return settings.exporter == "otlp"
    names = {each.strip() for each in asked.split(",")}
    unknown = sorted(names - {"otlp", "none", "prometheus"})
    if unknown:
        raise ValueError(
            f"{_METRICS_EXPORTER}: {unknown[0]!r} is not one of 'otlp', 'none', 'prometheus'"
        )
    return "otlp" in names


class OutageReportingMetricExporter(MetricExporter):
    """Pushes by OTLP, and logs an outage once when it begins and when it ends."""

    def __init__(self) -> None:
        self._exporter = OTLPMetricExporter()
        super().__init__(
            self._exporter._preferred_temporality, self._exporter._preferred_aggregation
        )
        self._outage = Outage("Metrics", "exports", "otlp")
        collect_reports_of(OTLPMetricExporter.__module__)
        self._closed = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export, or lose these: the next ones hold the same counts, and more."""
        with self._outage.collecting() as reports:
            result = self._exporter.export(metrics_data, timeout_millis, **kwargs)
        if not self._closed:
            self._outage.note(result is MetricExportResult.SUCCESS, 1, reports)
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing: nothing is kept back."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Stop exporting, including retries under way."""
        if not self._closed:
            self._closed = True
            self._exporter.shutdown(timeout_millis)
