"""The command `vortex` as a user meets it: exit codes, and what stands on the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import MakeLane
from tests.support.command_line import (
    complaint,
    kafka_variables,
    vortex,
)

# What a new user gets wrong


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kafka: {bootstrap_server: x:1}", "did you mean 'bootstrap_servers'?"),
        ("orchestration: {timeouts: {audio_s: 15s}}", "a plain number, in seconds"),
        ("a: b: c", "is not valid YAML"),
    ],
)
@pytest.mark.parametrize("command", [("run",), ("config", "show"), ("doctor",)])
def test_bad_configuration_is_one_line(
    command: tuple[str, ...], text: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert expected in complaint(vortex(*command, "--config", str(path)), exit_code=2)


@pytest.mark.parametrize(
    "command", [("run",), ("tick",), ("watch",), ("kafka", "create-topics")], ids=" ".join
)
def test_unreachable_kafka_is_one_line(command: tuple[str, ...]) -> None:
    done = vortex(
        *command,
        VORTEX__KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1",
        VORTEX__KAFKA__START_TIMEOUT_S="1",
    )
    said = complaint(done, exit_code=3)
    assert "Kafka cannot be reached" in said
    assert "127.0.0.1:1" in said
    assert "vortex kafka start" in said


@pytest.mark.kafka
async def test_missing_topics_are_one_line(make_lane: MakeLane) -> None:
    lane = await make_lane()
    done = vortex(
        "run",
        VORTEX__KAFKA__BOOTSTRAP_SERVERS=lane.config.bootstrap_servers,
        VORTEX__KAFKA__TOPICS__TICKS="not.there",
        VORTEX__KAFKA__START_TIMEOUT_S="4",
    )
    said = complaint(done, exit_code=3)
    assert "no topic not.there, slot.dead-letter, slot.results" in said
    assert "vortex kafka create-topics" in said


@pytest.mark.kafka
async def test_missing_weights_are_one_line(make_lane: MakeLane, tmp_path: Path) -> None:
    lane = await make_lane()
    variables = kafka_variables(lane.config) | {
        "VORTEX__MODELS__DIRECTORY": str(tmp_path / "nothing"),
        "VORTEX__ARTIFACTS__URL": str(tmp_path / "slots"),
    }
    said = complaint(vortex("run", **variables), exit_code=3)
    assert f"there are no models in {tmp_path}/nothing/mini" in said
    assert "vortex models build" in said


@pytest.mark.kafka
async def test_store_that_cannot_be_written_is_one_line(
    make_lane: MakeLane, tmp_path: Path
) -> None:
    lane = await make_lane()
    (tmp_path / "file").touch()  # no directory can be made below it, whoever tries
    place = str(tmp_path / "file" / "slots")
    variables = kafka_variables(lane.config) | {"VORTEX__ARTIFACTS__URL": place}
    said = complaint(vortex("run", **variables), exit_code=3)
    assert said == f"artifacts.url {place} cannot be written: Not a directory"


def test_doctor_says_what_to_do_about_each_thing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = vortex(
        "doctor",
        VORTEX__KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1",
        VORTEX__MODELS__DIRECTORY=str(tmp_path / "nothing"),
        VORTEX__ARTIFACTS__URL=str(tmp_path / "file" / "slots"),
        VORTEX__TELEMETRY__EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
    )
    assert done.returncode == 3
    assert done.stderr == ""
    verdicts = {line[5:15].strip(): line for line in done.stdout.splitlines()}
    assert verdicts["device"].startswith("OK")
    for name, remedy in {
        "weights": "vortex models build",
        "kafka": "vortex kafka start",
        "store": "cannot be written",
        "collector": "OTEL_EXPORTER_OTLP_ENDPOINT",
    }.items():
        assert verdicts[name].startswith("FAIL")
        assert remedy in verdicts[name]


def test_config_show_masks_secrets() -> None:
    done = vortex(
        "config",
        "show",
        VORTEX__KAFKA__SECURITY__PASSWORD="hunter2",
        VORTEX__KAFKA__GROUP_ID="of-the-environment",
    )
    assert done.returncode == 0
    assert "of-the-environment" in done.stdout
    assert "hunter2" not in done.stdout


@pytest.mark.parametrize("option", [("--fps", "61"), ("--resolution", "huge"), ("--script", "")])
def test_tick_that_no_worker_would_read_is_not_emitted(option: tuple[str, str]) -> None:
    done = vortex("tick", *option, VORTEX__KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert option[0].removeprefix("--") in complaint(done, exit_code=2)


@pytest.mark.parametrize("seconds", ["1e12", "nan"])
def test_deadline_beyond_all_time_is_one_line(seconds: str) -> None:
    said = complaint(vortex("tick", "--deadline", seconds), exit_code=2)
    assert said.startswith("--deadline: ")


@pytest.mark.kafka
async def test_tick_for_the_last_second_of_the_year_9999_is_emitted(
    make_lane: MakeLane, tmp_path: Path
) -> None:
    lane = await make_lane()
    path = tmp_path / "tick.yaml"
    recipe = "{audio_track: {script: a}, visual_track: {prompt: b}}"
    last = "9999-12-31T23:59:59-23:00"
    path.write_text(f"slot_id: 1\ndeadline: '{last}'\nrecipe: {recipe}", encoding="utf-8")
    done = vortex("tick", "--file", str(path), **kafka_variables(lane.config))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"due {last}" in done.stdout


@pytest.mark.parametrize("deadline", ["tomorrow", "2030-01-01", "2030-01-01T10:00:00"])
def test_tick_file_with_a_wrong_deadline_is_one_line(deadline: str, tmp_path: Path) -> None:
    path = tmp_path / "tick.yaml"
    recipe = "{audio_track: {script: a}, visual_track: {prompt: b}}"
    path.write_text(f"slot_id: 1\ndeadline: {deadline}\nrecipe: {recipe}", encoding="utf-8")
    assert "tick 0: deadline: " in complaint(vortex("tick", "--file", str(path)), exit_code=2)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--script", "", "audio_track.script: String should have at least 1 character"),
        ("--script", "a" * 5001, "audio_track.script: String should have at most 5000 characters"),
        ("--prompt", "", "visual_track.prompt: String should have at least 1 character"),
        ("--prompt", "a" * 2001, "visual_track.prompt: String should have at most 2000 characters"),
        ("--emotion", "happy", "audio_track.emotion: Input should be 'neutral'"),
        ("--expression", "happy", "visual_track.expression_sequence.0: Input should be"),
        ("--duration", "46", "slot_params.duration_sec: Input should be less than or equal to 45"),
        ("--seed", "-1", "seed: Input should be greater than or equal to 0"),
    ],
    ids=lambda value: value[:12],
)
def test_demo_of_a_wrong_recipe_is_one_line_and_touches_nothing(
    option: str, value: str, expected: str, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier.mp4"
    earlier.touch()
    done = vortex("demo", option, value, "--output", str(tmp_path))
    assert complaint(done, exit_code=2).startswith(expected)
    assert earlier.exists()


def test_demo_refuses_a_directory_of_someone_elses_in_one_line(tmp_path: Path) -> None:
    own = tmp_path / "slots" / "holiday.mp4"
    own.parent.mkdir()
    own.write_text("irreplaceable", encoding="utf-8")
    done = vortex("demo", "--output", str(tmp_path))
    assert complaint(done, exit_code=2) == (
        f"--output {tmp_path} holds files that `vortex demo` did not write;"
        " name a new or an empty directory, or empty this one"
    )
    assert own.read_text(encoding="utf-8") == "irreplaceable"
    assert list(tmp_path.rglob("*")) == [own.parent, own]


@pytest.mark.models
def test_demo_with_a_voice_that_is_not_there_names_those_that_are(
    mini_models: Path, tmp_path: Path
) -> None:
    done = vortex(
        *("demo", "--voice", "of_nobody", "--output", str(tmp_path / "out")),
        VORTEX__MODELS__DIRECTORY=str(mini_models),
    )
    said = complaint(done, exit_code=2)
    assert said.startswith("--voice of_nobody is not among the models' voices: default, ")
    assert "jm_kumo" in said


def test_port_that_cannot_be_is_refused_as_an_option(tmp_path: Path) -> None:
    done = vortex("kafka", "start", "--port", "22222222", "--directory", str(tmp_path))
    assert done.returncode == 2
    assert "'--port'" in done.stderr
    assert "65535" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OTEL_TRACES_EXPORTER", "jaeger"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
)
@pytest.mark.parametrize("command", ["run", "tick"])
def test_trace_exporter_that_we_do_not_have_is_one_line(
    command: str, variable: str, value: str
) -> None:
    variables = {"VORTEX__TELEMETRY__EXPORTER": "otlp", variable: value}
    said = complaint(vortex(command, **variables), exit_code=2)
    assert variable in said
    assert repr(value) in said
