"""Tracing: set up once at the entry point, shut down within a bound.

Libraries call `opentelemetry.trace.get_tracer("vortex.…")` and know nothing of this. The standard
OTEL_* variables configure what they name: exporter, endpoint, headers, sampler, batching, resource.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

from opentelemetry import trace
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
    SpanExportResult,
)

from consumer.telemetry.outages import Outage, collect_reports_of
from consumer.telemetry.semconv import SCHEMA_URL, SERVICE_NAME, SERVICE_VERSION
from vortex.config import ConfigError

_logger = logging.getLogger(__name__)

_DISTRIBUTION = "vortex-slots"
_OTLP_PROTOCOL = "http/protobuf"
_TRACES_EXPORTER = "OTEL_TRACES_EXPORTER"


class TracingSettings(Protocol):
    """What tracing needs to know beyond the standard environment variables."""

    @property
    def exporter(self) -> Literal["none", "otlp", "console", "file"]:
        """Where spans go, unless OTEL_TRACES_EXPORTER says otherwise."""

    @property
    def file(self) -> Path | None:
        """The trace file of the exporter `file`."""

    @property
    def service_name(self) -> str:
        """The service's name, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES gives one."""


@dataclass(frozen=True)
class Tracing:
    """The tracer provider of this process and what its entry point must shut down."""

    provider: TracerProvider
    exporters: tuple[SpanExporter, ...]

    def shutdown(self, timeout_s: float = 5.0) -> None:
        """Export what is queued and stop, in `timeout_s` at the most; then unsent spans are lost.

        Blocks. The SDK's own flush knows no timeout, so it runs in a daemon thread that is left
        behind at the deadline, with exporters that have been told to give up. Safe to call twice.
        """
        flush = threading.Thread(target=self.provider.shutdown, name="trace-shutdown", daemon=True)
        flush.start()
        flush.join(timeout_s)
        if flush.is_alive():
            _logger.warning("Unsent spans dropped at shutdown", extra={"timeout_s": timeout_s})
            for exporter in self.exporters:
                exporter.shutdown()


def configure_tracing(
    settings: TracingSettings, *, set_global: bool = True, exporter_from_environment: bool = True
) -> Tracing:
    """Make the tracer provider of this process, and let `trace.get_tracer` use it.

    Ending a span never waits: spans queue up for a background thread, and a full queue drops them.
    A trace that is exported nowhere still gives logs and outcomes their ids. OTEL_TRACES_EXPORTER
    (one or several of none, otlp, console, file, with commas between) wins over
    `settings.exporter`, OTEL_SERVICE_NAME over `settings.service_name`; OTEL_SDK_DISABLED=true
    makes no spans at all.

    Args:
        settings: see `TracingSettings`.
        set_global: False leaves OpenTelemetry's global provider alone, which can be set only once
            in a process; take tracers from the returned `provider` then.
        exporter_from_environment: False ignores OTEL_TRACES_EXPORTER.

    Raises:
        ConfigError: an exporter or OTLP protocol is asked for that we do not have, or `file`
            without a path.
        OSError: the trace file cannot be written.
    """
    asked = os.environ.get(_TRACES_EXPORTER) if exporter_from_environment else None
    names = asked or settings.exporter
    exporters = () if _sdk_disabled() else tuple(_make_exporters(names, settings))
    provider = TracerProvider(
        resource=service_resource(settings.service_name),
        shutdown_on_exit=False,  # it would wait for a dead collector; `Tracing.shutdown` does not
    )
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    if set_global:
        trace.set_tracer_provider(provider)
    return Tracing(provider, exporters)


def _sdk_disabled() -> bool:
    return os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"


def service_resource(service_name: str) -> Resource:
    """Say who exports; the SDK adds `service.instance.id`, the environment has the last word."""
    ours = {SERVICE_NAME: service_name, SERVICE_VERSION: version(_DISTRIBUTION)}
    return Resource.create(ours, SCHEMA_URL).merge(OTELResourceDetector().detect())


def _make_exporters(names: str, settings: TracingSettings) -> Iterator[SpanExporter]:
    for name in (each.strip() for each in names.split(",")):
        match name:
            case "none":
                continue
            case "otlp":
                yield OutageReportingExporter(_otlp_exporter(), name)
            case "console":
                yield OutageReportingExporter(_console_exporter(), name)
            case "file":
                if settings.file is None:
                    raise ConfigError("telemetry.file: the exporter 'file' needs a path")
                yield OutageReportingExporter(_file_exporter(settings.file), name)
            case _:
                raise ConfigError(
                    f"telemetry.exporter or {_TRACES_EXPORTER}: {name!r} is not one of "
                    "'none', 'otlp', 'console', 'file'"
                )


def _file_exporter(path: Path) -> SpanExporter:
    # Its encoders take a tenth of the time in which a process starts, and few need them.
    from consumer.telemetry.trace_file import FileSpanExporter

    try:
        return FileSpanExporter(path)
    except OSError as error:
        raise ConfigError(
            f"telemetry.file: {path} cannot be written: {error.strerror}; name another file, or"
            " another telemetry.exporter"
        ) from error


def _otlp_exporter() -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    require_otlp_over_http(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL)
    collect_reports_of(OTLPSpanExporter.__module__)
    return OTLPSpanExporter()


def require_otlp_over_http(variable_of_signal: str) -> None:
    """Check that the environment asks for no OTLP protocol but the one that we speak.

    Raises:
        ValueError: it does.
    """
    for variable in (variable_of_signal, OTEL_EXPORTER_OTLP_PROTOCOL):
        protocol = os.environ.get(variable)
        if protocol == _OTLP_PROTOCOL:
            break
        if protocol:
            raise ConfigError(f"{variable}: {protocol!r} is not supported, only {_OTLP_PROTOCOL!r}")


def _console_exporter() -> SpanExporter:
    # Standard output belongs to a command's answer.
    return ConsoleSpanExporter(
        out=sys.stderr, formatter=lambda span: span.to_json(indent=None) + "\n"
    )


class OutageReportingExporter(SpanExporter):
    """Hands batches to another exporter, and logs an outage once when it begins and when it ends.

    The OTLP exporter by itself logs every retry of every batch.
    """

    def __init__(self, exporter: SpanExporter, name: str) -> None:
        self._exporter = exporter
        self._outage = Outage("Trace", "spans", name)
        self._closed = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export `spans`, or lose them: never raises for a file or collector that fails."""
        with self._outage.collecting() as reports:
            try:
                result = self._exporter.export(spans)
            except OSError as error:
                reports.append(str(error))
                result = SpanExportResult.FAILURE
        # After shutdown the process may be on its way out, where a daemon thread must not write.
        if not self._closed.is_set():
            self._outage.note(result is SpanExportResult.SUCCESS, len(spans), reports)
        return result

    def shutdown(self) -> None:
        """Stop exporting, including retries under way; asking twice does no harm."""
        if not self._closed.is_set():
            self._closed.set()
            self._exporter.shutdown()
