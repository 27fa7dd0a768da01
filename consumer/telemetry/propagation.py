"""W3C trace context in Kafka headers, and in a plain mapping for a child process.

Only `traceparent` and `tracestate` pass. Baggage stays outside: it would carry a producer's
arbitrary data into our results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()


class _HeaderGetter(Getter[Sequence[tuple[str, bytes | None]]]):
    def get(self, carrier: Sequence[tuple[str, bytes | None]], key: str) -> list[str] | None:
        for name, value in reversed(carrier):
            if name == key and value is not None:
                return [value.decode("utf-8", errors="replace")]
        return None

    def keys(self, carrier: Sequence[tuple[str, bytes | None]]) -> list[str]:
        return [name for name, _ in carrier]


class _HeaderSetter(Setter[list[tuple[str, bytes]]]):
    def set(self, carrier: list[tuple[str, bytes]], key: str, value: str) -> None:
        carrier.append((key, value.encode("utf-8")))


_GETTER = _HeaderGetter()
_SETTER = _HeaderSetter()


def extract(headers: Sequence[tuple[str, bytes | None]]) -> Context:
    """Read the trace context of a Kafka message; an empty context where there is none.

    Of several values for one name the last counts, and no header ever raises, whatever its bytes:
    what is not a valid trace context is as good as absent.
    """
    return _PROPAGATOR.extract(headers, Context(), _GETTER)


def inject(headers: list[tuple[str, bytes]], context: Context | None = None) -> None:
    """Write the trace context of `context` (the current one if None) into `headers`, in place.

    Whatever trace context was there before goes, also when there is no span to put in its place.
    """
    headers[:] = [header for header in headers if header[0] not in _PROPAGATOR.fields]
    _PROPAGATOR.inject(headers, context, _SETTER)


def extract_carrier(carrier: Mapping[str, str]) -> Context:
    """Read the trace context that `inject_carrier` made; an empty context where there is none."""
    return _PROPAGATOR.extract(carrier, Context())


def inject_carrier(context: Context | None = None) -> dict[str, str]:
    """Put the trace context of `context` (the current one if None) into a picklable mapping."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context)
    return carrier
