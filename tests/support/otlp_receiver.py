"""A trace collector for tests: real OTLP over HTTP/protobuf, on loopback, in this process."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from consumer.telemetry.trace_file import SpanRecord, span_records
from tests.support.loopback_server import LoopbackServer


class OtlpReceiver(LoopbackServer):
    """Receives spans and metrics at `endpoint` while its context is open.

    That is for OTEL_EXPORTER_OTLP_ENDPOINT. Set `status` to have requests refused with that HTTP
    status, and ignored.
    """

    def __init__(self) -> None:
        super().__init__(_handler(self))
        self.status = 200
        self.request_headers: list[dict[str, str]] = []
        self._spans: list[SpanRecord] = []
        self._metrics: list[Metric] = []
        self._changed = threading.Condition()

    def metrics(self) -> dict[str, Metric]:
        """Every metric received so far, by name, as it was exported last."""
        with self._changed:
            return {metric.name: metric for metric in self._metrics}

    def exemplars(self, name: str) -> list[str]:
        """The trace ids of all exemplars of a histogram; each is exported once."""
        with self._changed:
            return [
                exemplar.trace_id.hex()
                for metric in self._metrics
                if metric.name == name
                for point in metric.histogram.data_points
                for exemplar in point.exemplars
            ]

    def spans(self) -> list[SpanRecord]:
        """Every span received so far."""
        with self._changed:
            return list(self._spans)

    def wait_for(
        self, predicate: Callable[[list[SpanRecord]], bool], timeout_s: float = 10.0
    ) -> list[SpanRecord]:
        """Wait until `predicate` holds for the spans received, and return them.

        Raises:
            TimeoutError: it did not in `timeout_s`; the message names the spans that came.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not predicate(self._spans):
                if not self._changed.wait(deadline - time.monotonic()):
                    names = [span.name for span in self._spans]
                    raise TimeoutError(f"not in {timeout_s} s; spans received: {names}")
            return list(self._spans)

    def receive(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Take in one request; called by the server's threads."""
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if path == "/v1/metrics":
            with self._changed:
                for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    for scope in resource.scope_metrics:
                        self._metrics.extend(scope.metrics)
            return
        spans = list(span_records(ExportTraceServiceRequest.FromString(body)))
        with self._changed:
            self.request_headers.append(headers)
            self._spans.extend(spans)
            self._changed.notify_all()


def _handler(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path in ("/v1/traces", "/v1/metrics")
            status = receiver.status if known else 404
            if status == 200:
                receiver.receive(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep standard error to the tests."""

    return Handler
