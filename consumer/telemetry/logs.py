"""Structured logs: standard library records in, JSON lines or a readable console out.

Code logs through `logging.getLogger(__name__)` with fields in `extra`; what holds for a whole job
is bound once with `structlog.contextvars.bind_contextvars(slot_id=..., topic=...)`.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
from typing import Literal, TextIO

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from consumer.telemetry.redaction import redact

LIBRARY_LEVELS = {
    "aiokafka": logging.WARNING,
    "bitsandbytes": logging.ERROR,  # warns of a package that only some CPUs would profit from
    "diffusers": logging.WARNING,
    "httpx": logging.WARNING,
    "huggingface_hub": logging.WARNING,
    "opentelemetry.trace.span": logging.ERROR,  # quotes whatever a producer wrote as tracestate
    "transformers": logging.WARNING,
    "urllib3": logging.WARNING,
}
"""Libraries that say much about little; silent below these levels unless debugging."""

_CHATTER = {
    "root": logging.WARNING,  # open_clip logs through the functions of `logging` itself
    "phonemizer": logging.ERROR,  # sets its own level; warns when words are drawn together
}
_HANDLER_NAME = "vortex"
_LEADING_FIELDS = ("timestamp", "level", "logger", "event")
_TRACEBACK_MAX_FRAMES = 20


def configure_logging(
    level: str,
    format: Literal["json", "console"],  # noqa: A002 - named as in the configuration
    stream: TextIO | None = None,
) -> None:
    """Send every log record of this process, ours and libraries', to `stream`.

    `json` writes one object a line: `timestamp` (RFC 3339, UTC), `level`, `logger`, `event`, the
    `extra` fields, the bound context variables, `trace_id` and `span_id` inside a span, and
    `exception` as a list of stacks. `console` writes short lines for people. Both are redacted
    (see `redact`), and neither shows local variables. Warnings of the `warnings` module are logged.

    Calling it again replaces the earlier settings. Some libraries attach a handler of their own
    when they are imported; a call after that import takes it away again.

    Args:
        level: a name of the standard library, in any case.
        format: for machines or for people.
        stream: standard error if None.

    Raises:
        ValueError: the level or the format is unknown.
    """
    stream = sys.stderr if stream is None else stream
    handler = _Handler(stream)
    handler.set_name(_HANDLER_NAME)
    handler.setFormatter(_formatter(format, stream))
    handler.addFilter(_is_worth_a_line)

    root = logging.getLogger()
    root.setLevel(level.upper())
    for earlier in [each for each in root.handlers if each.get_name() == _HANDLER_NAME]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    _quieten_libraries(root.level)
    logging.captureWarnings(capture=True)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes at WARNING what aiokafka calls an error though it is tried again."""

    def emit(self, record: logging.LogRecord) -> None:
        if not _is_tried_again(record):
            super().emit(record)
        elif logging.getLogger().level <= logging.WARNING:
            lowered = copy.copy(record)
            lowered.levelno, lowered.levelname = logging.WARNING, "WARNING"
            super().emit(lowered)


def _is_tried_again(record: logging.LogRecord) -> bool:
    """Tell whether a line is about a broker that is dead, or not ready yet.

    It then names an error that Kafka calls retriable, or one of a connection. Lines with a stack
    trace, about other errors or about none stay what they are.
    """
    if record.levelno != logging.ERROR or not record.name.startswith("aiokafka"):
        return False
    if record.exc_info or not isinstance(record.args, tuple):
        return False
    # `retriable` as Kafka's errors say, without importing its client where there is none.
    return any(getattr(each, "retriable", isinstance(each, OSError)) for each in record.args)


def _quieten_libraries(level: int) -> None:
    for name, library_level in LIBRARY_LEVELS.items():
        library = logging.getLogger(name)
        library.setLevel(level if level <= logging.DEBUG else max(level, library_level))
        library.handlers.clear()
        library.propagate = True


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Leave out the chatter of libraries that no level of a logger stops."""
    return (
        record.levelno >= _CHATTER.get(record.name, logging.NOTSET)
        or logging.getLogger().level <= logging.DEBUG
    )


def _formatter(format: str, stream: TextIO) -> logging.Formatter:  # noqa: A002
    gather: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _drop_formatted_text,
        structlog.contextvars.merge_contextvars,
    ]
    match format:
        case "json":
            gather += [
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _add_span_ids,
                structlog.processors.ExceptionRenderer(
                    structlog.tracebacks.ExceptionDictTransformer(
                        show_locals=False, max_frames=_TRACEBACK_MAX_FRAMES
                    )
                ),
            ]
            render: list[Processor] = [_redact_fields, structlog.processors.JSONRenderer()]
        case "console":
            gather += [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)]
            render = [_redact_fields, _console_renderer(stream)]
        case _:
            raise ValueError(f"logging format: {format!r} is not one of 'json', 'console'")
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=gather,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )


def _console_renderer(stream: TextIO) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty() and "NO_COLOR" not in os.environ,
        # The default shows local variables, scripts among them.
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
    )


def _drop_formatted_text(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """Remove what another handler's formatter left on the record; no `extra` has these names."""
    event_dict.pop("message", None)
    event_dict.pop("asctime", None)
    return event_dict


def _add_span_ids(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event_dict["trace_id"] = trace.format_trace_id(context.trace_id)
        event_dict["span_id"] = trace.format_span_id(context.span_id)
    return event_dict


def _redact_fields(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    exc_info = event_dict.pop("exc_info", None)  # left only for the console's own formatter
    leading = {key: event_dict.pop(key) for key in _LEADING_FIELDS if key in event_dict}
    fields: EventDict = {**leading, **redact(event_dict)}
    if exc_info:
        fields["exc_info"] = exc_info
    return fields
