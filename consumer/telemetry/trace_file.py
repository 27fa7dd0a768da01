"""Traces in a file, one OTLP/JSON `ExportTraceServiceRequest` a line, and their way back.

The format is that of the OpenTelemetry Protocol File Exporter, so other tools read it too. OTLP's
JSON is protobuf's, save that trace and span ids are hexadecimal and enumerations are numbers.
"""

from __future__ import annotations

import base64
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import (  # type: ignore[import-untyped] # it publishes no types
    MessageToDict,
    ParseDict,
)
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status as ProtoStatus
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_ID_KEYS = frozenset({"traceId", "spanId", "parentSpanId"})


@dataclass(frozen=True)
class EventRecord:
    """Something that happened within a span, at `time_ns` since the epoch."""

    name: str
    time_ns: int
    attributes: dict[str, Any]


@dataclass(frozen=True)
class LinkRecord:
    """A span's reference to another one, ids in hexadecimal."""

    trace_id: str
    span_id: str


@dataclass(frozen=True)
class SpanRecord:
    """One finished span as it was exported.

    Ids are hexadecimal (32 digits a trace, 16 a span), times nanoseconds since the epoch. `kind` is
    `INTERNAL`, `SERVER`, `CLIENT`, `PRODUCER` or `CONSUMER`; `status` is `UNSET`, `OK` or `ERROR`.
    """

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str | None
    kind: str
    start_ns: int
    end_ns: int
    status: str
    status_message: str
    attributes: dict[str, Any]
    events: tuple[EventRecord, ...]
    links: tuple[LinkRecord, ...]
    resource: dict[str, Any]
    scope: str
    schema_url: str

    @property
    def duration_ms(self) -> float:
        """How long the span lasted, in milliseconds."""
        return (self.end_ns - self.start_ns) / 1e6


class FileSpanExporter(SpanExporter):
    """Appends batches of spans to a file; several processes may share one.

    The file is opened for each batch, so it may be moved away or deleted while we run.

    Raises:
        OSError: the file cannot be created or written, on construction or on export.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()  # unlike touch, it fails on a directory and without rights
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append `spans` as one line, or nothing of it."""
        request = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
        line = json.dumps(_map_ids(request, _hex_from_base64), separators=(",", ":")) + "\n"
        content = line.encode()
        with self._path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if file.write(content) != len(content):  # the disk is full, and half a line harms all
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return SpanExportResult.SUCCESS


def read_trace_file(path: Path) -> list[SpanRecord]:
    """Read every span of a trace file, in the order in which they ended.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is no OTLP/JSON; `google.protobuf.json_format.ParseError` where it is
            JSON of another kind.
    """
    with path.open(encoding="utf-8") as lines:
        return [
            span
            for line in lines
            for span in span_records(
                ParseDict(
                    _map_ids(json.loads(line), _base64_from_hex),
                    ExportTraceServiceRequest(),
                    ignore_unknown_fields=True,
                )
            )
        ]


def span_records(request: ExportTraceServiceRequest) -> Iterator[SpanRecord]:
    """Flatten an OTLP request, each span with its resource and scope."""
    for of_resource in request.resource_spans:
        resource = _plain_attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield SpanRecord(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_span_id=span.parent_span_id.hex() or None,
                    kind=ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    status=ProtoStatus.StatusCode.Name(span.status.code).removeprefix(
                        "STATUS_CODE_"
                    ),
                    status_message=span.status.message,
                    attributes=_plain_attributes(span.attributes),
                    events=tuple(
                        EventRecord(
                            event.name, event.time_unix_nano, _plain_attributes(event.attributes)
                        )
                        for event in span.events
                    ),
                    links=tuple(
                        LinkRecord(link.trace_id.hex(), link.span_id.hex()) for link in span.links
                    ),
                    resource=resource,
                    scope=of_scope.scope.name,
                    schema_url=of_scope.schema_url or of_resource.schema_url,
                )


def _plain_attributes(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {attribute.key: _plain(attribute.value) for attribute in attributes}


def _plain(value: AnyValue) -> Any:  # Any: an attribute's value is what its setter made it
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return _plain_attributes(value.kvlist_value.values)
        case kind:
            return getattr(value, kind)


def _map_ids(node: Any, convert: Callable[[str], str]) -> Any:
    """Copy parsed JSON, with `convert` applied to every trace and span id."""
    match node:
        case dict():
            return {
                key: convert(item) if key in _ID_KEYS else _map_ids(item, convert)
                for key, item in node.items()
            }
        case list():
            return [_map_ids(item, convert) for item in node]
        case _:
            return node


def _hex_from_base64(text: str) -> str:
    return base64.b64decode(text).hex()


def _base64_from_hex(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text)).decode()
