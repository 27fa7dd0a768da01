from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id, format_trace_id
from pydantic import BaseModel, ValidationError

from consumer.telemetry.logs import configure_logging

SCRIPT = "Good evening, and welcome to the late news from the harbour."

pytestmark = pytest.mark.usefixtures("restored_logging")
logger = logging.getLogger("vortex.orchestration.scheduler")


def speak(script: str, complaint: str = "at all") -> None:
    raise ValueError(f"cannot speak {len(script)} characters\n{complaint}")


class LogStream(io.StringIO):
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line


@pytest.fixture
def stream() -> LogStream:
    return LogStream()


@pytest.fixture
def json_logs(stream: LogStream) -> LogStream:
    configure_logging("INFO", "json", stream)
    return stream


@pytest.fixture
def bound_slot() -> Iterator[None]:
    with structlog.contextvars.bound_contextvars(slot_id=7, topic="slot.ticks", partition=2):
        yield


def test_json_line_carries_event_level_logger_and_fields(json_logs: LogStream) -> None:
    logger.info("Slot generation complete", extra={"total_ms": 812.5, "deadline_met": True})
    line = json_logs.line()
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {
        "level": "info",
        "logger": "vortex.orchestration.scheduler",
        "event": "Slot generation complete",
        "total_ms": 812.5,
        "deadline_met": True,
    }


def test_json_line_inside_a_span_carries_its_trace_and_span_ids(json_logs: LogStream) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("process slot.ticks") as span:
        logger.info("Starting slot generation")
    context = span.get_span_context()
    assert json_logs.line()["trace_id"] == format_trace_id(context.trace_id)
    assert json_logs.line()["span_id"] == format_span_id(context.span_id)


def test_json_line_outside_a_span_has_no_ids(json_logs: LogStream) -> None:
    logger.info("Worker started")
    assert not {"trace_id", "span_id"} & set(json_logs.line())


@pytest.mark.usefixtures("bound_slot")
def test_bound_job_appears_in_every_line_and_a_field_overrides_it(json_logs: LogStream) -> None:
    logger.info("Starting slot generation")
    logging.getLogger("some.library").warning("odd", extra={"partition": 3})
    ours, theirs = json_logs.lines()
    assert (ours["slot_id"], ours["topic"], ours["partition"]) == (7, "slot.ticks", 2)
    assert (theirs["slot_id"], theirs["partition"]) == (7, 3)


def test_exception_is_structured_in_one_line_without_local_variables(json_logs: LogStream) -> None:
    try:
        speak(SCRIPT)
    except ValueError:
        logger.exception("Slot lost")
    (stack,) = json_logs.line()["exception"]
    assert stack["exc_type"] == "ValueError"
    assert stack["exc_value"] == "cannot speak 60 characters\nat all"
    assert stack["frames"][-1]["name"] == "speak"
    assert SCRIPT not in json_logs.getvalue()


def test_long_exception_message_is_cut(json_logs: LogStream) -> None:
    try:
        speak(SCRIPT, complaint="x" * 5000)
    except ValueError:
        logger.exception("Slot lost")
    assert len(json_logs.line()["exception"][0]["exc_value"]) == 300


def test_script_is_never_written_in_full_however_deep(json_logs: LogStream) -> None:
    recipe = {
        "recipe_id": "r-1",
        "audio_track": {"script": SCRIPT, "voice_id": "af_heart"},
        "visual_track": {"prompt": SCRIPT, "negative_prompt": None},
    }
    logger.info("Recipe read", extra={"recipe": recipe, "script": SCRIPT, "ticks": [recipe]})
    line = json_logs.line()
    assert SCRIPT not in json_logs.getvalue()
    assert line["script"] == "<60 chars>"
    assert line["recipe"]["audio_track"] == {"script": "<60 chars>", "voice_id": "af_heart"}
    assert line["ticks"][0]["visual_track"] == {"prompt": "<60 chars>", "negative_prompt": None}


def test_script_inside_a_model_or_its_validation_error_is_redacted(json_logs: LogStream) -> None:
    class AudioTrack(BaseModel):
        script: str
        speed: float = 1.0

    with pytest.raises(ValidationError) as invalid:
        AudioTrack.model_validate({"script": [SCRIPT]})
    logger.info(
        "Tick refused",
        extra={"track": AudioTrack(script=SCRIPT), "errors": invalid.value.errors()},
    )
    assert SCRIPT not in json_logs.getvalue()
    assert json_logs.line()["track"] == {"script": "<60 chars>", "speed": 1.0}
    assert json_logs.line()["errors"][0]["loc"] == ["script"]


def test_secrets_are_masked_and_lookalikes_are_not(json_logs: LogStream) -> None:
    logger.info(
        "Kafka connected",
        extra={
            "sasl_plain_password": "hunter2",
            "kafka": {"auth_token": "hunter2", "credentials": {"user": "u", "key": "hunter2"}},
            "max_tokens": 77,
            "tokenizer": "t5",
        },
    )
    line = json_logs.line()
    assert "hunter2" not in json_logs.getvalue()
    assert line["sasl_plain_password"] == line["kafka"]["auth_token"] == "***"
    assert (line["max_tokens"], line["tokenizer"]) == (77, "t5")


def test_what_json_cannot_say_still_makes_a_valid_line(json_logs: LogStream) -> None:
    endless: list[Any] = []
    endless.append(endless)
    fields = {"nan": float("nan"), "body": b"\xff\x00", "endless": endless, 3: {1, 2}}
    logger.info("Odd", extra={"fields": fields})
    line = json_logs.line()["fields"]
    assert (line["nan"], line["body"], line["3"]) == ("nan", "<2 bytes>", [1, 2])


@pytest.mark.parametrize("library", ["aiokafka.consumer", "httpx", "transformers.modeling_utils"])
def test_noisy_library_is_heard_from_warning_on(library: str, json_logs: LogStream) -> None:
    logging.getLogger(library).info("request 17 of 4000")
    logging.getLogger(library).warning("request failed")
    assert json_logs.line()["event"] == "request failed"


@pytest.mark.parametrize(
    ("name", "quiet", "loud"),
    [("root", logging.INFO, logging.WARNING), ("phonemizer", logging.WARNING, logging.ERROR)],
)
def test_chatter_below_what_matters_is_left_out(
    name: str, quiet: int, loud: int, json_logs: LogStream
) -> None:
    chatty = logging.getLogger(None if name == "root" else name)
    chatty.log(quiet, "chatter")
    chatty.log(loud, "heard")
    assert json_logs.line()["event"] == "heard"


def test_noisy_library_is_heard_in_full_when_debugging(stream: LogStream) -> None:
    configure_logging("debug", "json", stream)
    logging.getLogger("aiokafka").debug("fetch")
    assert stream.line()["event"] == "fetch"


def test_noisy_library_stays_below_a_stricter_level(stream: LogStream) -> None:
    configure_logging("ERROR", "json", stream)
    logging.getLogger("aiokafka").warning("fetch failed")
    assert stream.lines() == []


def test_configuring_twice_writes_each_line_once_and_as_said_last(stream: LogStream) -> None:
    first = LogStream()
    configure_logging("DEBUG", "console", first)
    configure_logging("INFO", "json", stream)
    logger.debug("hidden")
    logger.info("seen")
    assert first.getvalue() == ""
    assert stream.line()["event"] == "seen"


def test_library_with_a_handler_of_its_own_writes_no_second_line(stream: LogStream) -> None:
    own = LogStream()
    library = logging.getLogger("transformers")
    library.addHandler(logging.StreamHandler(own))
    library.propagate = False
    configure_logging("INFO", "json", stream)
    library.warning("deprecated")
    assert own.getvalue() == ""
    assert stream.line()["event"] == "deprecated"


def test_console_line_is_plain_readable_and_redacted(stream: LogStream) -> None:
    configure_logging("INFO", "console", stream)
    logger.info("Starting slot generation", extra={"slot_id": 7, "script": SCRIPT})
    (line,) = stream.getvalue().splitlines()
    assert re.match(r"\d\d:\d\d:\d\d \[info +\] Starting slot generation ", line)
    assert "slot_id=7" in line
    assert SCRIPT not in line
    assert "\x1b" not in line


def test_console_shows_a_traceback_without_local_variables(stream: LogStream) -> None:
    configure_logging("INFO", "console", stream)
    try:
        speak(SCRIPT)
    except ValueError:
        logger.exception("Slot lost")
    assert "ValueError: cannot speak 60 characters" in stream.getvalue()
    assert SCRIPT not in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "form", "culprit"), [("LOUD", "json", "LOUD"), ("INFO", "xml", "xml")]
)
def test_unknown_level_or_format_is_refused(level: str, form: Any, culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        configure_logging(level, form)


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (GroupCoordinatorNotAvailableError(), "warning"),
        (KafkaConnectionError("no route"), "warning"),
        (ConnectionRefusedError("refused"), "warning"),
        (GroupAuthorizationFailedError("group"), "error"),
        (ValueError("a fault"), "error"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_error_of_a_kafka_client_that_is_tried_again_is_a_warning_and_no_other(
    error: Exception, level: str, json_logs: LogStream
) -> None:
    logging.getLogger("aiokafka.client").error("Request failed: %s", error)
    assert json_logs.line()["level"] == level


def test_retriable_error_stays_an_error_in_any_other_library(json_logs: LogStream) -> None:
    logging.getLogger("other").error("Request failed: %s", KafkaConnectionError("no route"))
    assert json_logs.line()["level"] == "error"
