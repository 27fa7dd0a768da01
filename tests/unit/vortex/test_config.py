from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from consumer.config import WorkerConfig
from vortex.config import ConfigError, Section, VortexConfig, default_config_path
from vortex.orchestration import SlotScheduler
from vortex.orchestration.learning import Prior

SLOT_S = 45.0
SOURCES = Path(__file__).parents[3]

OLD_FILE = """
device: {name: cpu}
vram: {soft_limit_gb: 9.0, hard_limit_gb: 10.0}
models: {profile: mini}
buffers: {video_batch_frames: 6}
pipeline: {steps: 2}
"""


@pytest.fixture(autouse=True)
def _no_variables_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("VORTEX__")]:
        monkeypatch.delenv(name)


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], WorkerConfig]:
    """Return a function that loads the worker's configuration from the text of a file."""

    def load_text(text: str) -> WorkerConfig:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return WorkerConfig.load(path)

    return load_text


def message(load: Callable[[], object]) -> str:
    """Return the message of the error that loading ends with, which must be one line."""
    with pytest.raises(ConfigError) as caught:
        load()
    text = str(caught.value)
    assert "\n" not in text
    return text


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys that hold a value and no section."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from leaves(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def leaves_of_file(data: dict[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    for name, value in data.items():
        if isinstance(value, dict) and prefix + name not in known:
            yield from leaves_of_file(value, known, f"{prefix}{name}.")
        else:
            yield prefix + name


def default_file() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(default_config_path().read_text(encoding="utf-8"))
    return content


KEYS = sorted(leaves(WorkerConfig))


# What is in force


def test_packaged_defaults_load() -> None:
    assert WorkerConfig.load().kafka.topics.ticks == "slot.ticks"
    assert VortexConfig.load().models.profile == "mini"


@pytest.mark.parametrize("config", [VortexConfig, WorkerConfig])
def test_old_file_with_five_sections_loads(config: type[VortexConfig], tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(OLD_FILE, encoding="utf-8")
    loaded = config.load(path)
    assert (loaded.device.name, loaded.vram.hard_limit_gb, loaded.pipeline.steps) == ("cpu", 10, 2)
    assert loaded.buffers.encoder_queue_batches == config.load().buffers.encoder_queue_batches
    assert loaded.orchestration == config.load().orchestration


def test_environment_wins_over_the_file_and_the_file_over_the_defaults(
    load: Callable[[str], WorkerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VORTEX__KAFKA__GROUP_ID", "of-the-environment")
    kafka = load("kafka: {group_id: of-the-file, queue_limit: 7}").kafka
    assert kafka.group_id == "of-the-environment"
    assert kafka.queue_limit == 7
    assert kafka.window == WorkerConfig.load().kafka.window


def test_environment_reaches_every_depth_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VORTEX__KAFKA__TOPICS__TICKS", "night.ticks")
    monkeypatch.setenv("vortex__orchestration__timeouts__audio_s", "12.5")
    monkeypatch.setenv("VORTEX__PIPELINE__WARMUP", "false")
    monkeypatch.setenv("VORTEX__ARTIFACTS__STORAGE_OPTIONS", '{"endpoint_url": "http://x"}')
    config = WorkerConfig.load()
    assert config.kafka.topics.ticks == "night.ticks"
    assert config.kafka.topics.results == "slot.results"
    assert config.orchestration.timeouts.audio_s == 12.5
    assert config.pipeline.warmup is False
    assert config.artifacts.storage_options == {"endpoint_url": "http://x"}


def test_null_in_the_environment_takes_a_value_of_the_file_away(
    load: Callable[[str], WorkerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VORTEX__DEVICE__CPU_THREADS", "null")
    assert load("device: {cpu_threads: 3}").device.cpu_threads is None


@pytest.mark.parametrize(("profile", "ahead"), [("mini", True), ("production", False)])
def test_value_by_profile_is_chosen_at_every_depth_and_one_value_is_for_all(
    profile: str, ahead: bool, load: Callable[[str], WorkerConfig]
) -> None:
    models = f"models: {{profile: {profile}}}\n"
    assert load(models).orchestration.overlap.speech is ahead
    switched = load(f"{models}orchestration: {{overlap: {{speech: {not ahead}}}}}")
    assert switched.orchestration.overlap.speech is not ahead
    assert switched.orchestration.overlap.store is True


def test_empty_file_and_empty_section_change_nothing(load: Callable[[str], WorkerConfig]) -> None:
    assert load("") == load("kafka:\n") == WorkerConfig.load()


def test_configuration_cannot_be_changed_once_loaded() -> None:
    config = WorkerConfig.load()
    with pytest.raises(ValueError, match="frozen"):
        config.kafka.group_id = "other"  # type: ignore[misc]  # the claim of this line


def test_scheduler_takes_the_orchestration_section() -> None:
    SlotScheduler(object(), VortexConfig.load().orchestration.model_dump())


def test_sections_of_the_consumer_may_stand_in_a_file_for_the_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "worker.yaml"
    path.write_text("kafka: {group_id: x}\npipeline: {steps: 3}", encoding="utf-8")
    assert VortexConfig.load(path).pipeline.steps == 3


# What is refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kafak: {}", "kafak: unknown key; did you mean 'kafka'?"),
        (
            "kafka: {bootstrap_server: x:1}",
            "kafka.bootstrap_server: unknown key; did you mean 'bootstrap_servers'?",
        ),
        (
            "orchestration: {timeouts: {audio: 3}}",
            "orchestration.timeouts.audio: unknown key; did you mean 'audio_s'?",
        ),
        ("logging: {colour: true}", "logging.colour: unknown key; known are format, level"),
    ],
)
def test_unknown_key_comes_with_a_suggestion(
    text: str, expected: str, load: Callable[[str], WorkerConfig]
) -> None:
    assert message(lambda: load(text)) == expected


def test_misspelt_section_of_the_consumer_is_suggested_to_the_pipeline_too(tmp_path: Path) -> None:
    path = tmp_path / "worker.yaml"
    path.write_text("loging: {level: INFO}", encoding="utf-8")
    expected = "loging: unknown key; did you mean 'logging'?"
    assert message(lambda: VortexConfig.load(path)) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("VORTEX__KAFAK__GROUP_ID", "x", "VORTEX__KAFAK__GROUP_ID: there is no section 'kafak'"),
        ("VORTEX__KAFKA__GROUPID", "x", "kafka.groupid: unknown key; did you mean 'group_id'?"),
        ("VORTEX__KAFKA__QUEUE_LIMIT", "many", "kafka.queue_limit: .*integer.*, got 'many'"),
        ("VORTEX__KAFKA", "broker:9092", 'VORTEX__\\*: .*"kafka".* must be JSON'),
        ("VORTEX__ARTIFACTS__STORAGE_OPTIONS", "{key", 'VORTEX__\\*: .*"artifacts".* must be JSON'),
    ],
)
def test_wrong_variable_is_named(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert re.match(expected, message(WorkerConfig.load))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "orchestration: {timeouts: {audio_s: 15s}}",
            r"orchestration\.timeouts\.audio_s: .* \(a plain number, in seconds\), got '15s'",
        ),
        ("vram: {soft_limit_gb: 11GB}", r"vram\.soft_limit_gb: .* in GB\), got '11GB'"),
        (
            "artifacts: {audio_bitrate_bps: 128k}",
            r"artifacts\.audio_bitrate_bps: .* in bits/s\), got '128k'",
        ),
        ("pipeline: {cancel_grace_s: .inf}", r"pipeline\.cancel_grace_s: .*finite number"),
        ("kafka: {queue_limit: 0}", r"kafka\.queue_limit: .*greater than or equal to 1, got 0"),
        ("device: {name: gpu}", r"device\.name: .*cpu\|cuda.*, got 'gpu'"),
        ("models: {profile: big}", r"models\.profile: .*'mini' or 'production', got 'big'"),
    ],
)
def test_wrong_value_is_shown_with_what_is_allowed(
    text: str, expected: str, load: Callable[[str], WorkerConfig]
) -> None:
    assert re.match(expected, message(lambda: load(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vram: {soft_limit_gb: 12}", "vram: soft_limit_gb 12.0 is above hard_limit_gb 11.5"),
        (
            "kafka: {request_timeout_s: 10}",
            "kafka: request_timeout_s 10.0 must be above rebalance_timeout_s 30.0",
        ),
        (
            "kafka: {topics: {ticks: a, results: a}}",
            "kafka.topics: ticks, results, dead_letter, progress, handover, workers, control must"
            " be different topics",
        ),
        (
            "kafka: {security: {protocol: SASL_SSL}}",
            "kafka.security: protocol SASL_SSL needs username, and password_file or password",
        ),
        (
            "kafka: {security: {protocol: SASL_SSL, sasl_mechanism: OAUTHBEARER, username: x}}",
            "kafka.security: sasl_mechanism OAUTHBEARER needs token_file",
        ),
        (
            "kafka: {security: {protocol: SASL_SSL, username: x, token_file: y}}",
            "kafka.security: token_file is for OAUTHBEARER, not PLAIN",
        ),
        (
            "kafka: {security: {protocol: SASL_SSL, username: x, password: y, password_file: z}}",
            "kafka.security: password and password_file are both set; keep one of them",
        ),
        (
            "kafka: {security: {protocol: SSL, cert_file: x}}",
            "kafka.security: cert_file and key_file need each other",
        ),
        (
            "kafka: {security: {cert_file: x, key_file: y}}",
            "kafka.security: cert_file needs protocol SSL or SASL_SSL, not PLAINTEXT",
        ),
    ],
)
def test_contradiction_is_refused(
    text: str, expected: str, load: Callable[[str], WorkerConfig]
) -> None:
    assert message(lambda: load(text)) == expected


def test_all_problems_are_told_at_once(load: Callable[[str], WorkerConfig]) -> None:
    text = message(lambda: load("device: {name: gpu}\nmodels: {profile: big}"))
    assert "device.name" in text
    assert "models.profile" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: b: c", "is not valid YAML"),
        ("- kafka", "must hold sections"),
        ("kafka: 5", "kafka: must hold keys, got 5"),
    ],
)
def test_file_that_is_no_configuration_is_named(
    text: str, expected: str, load: Callable[[str], WorkerConfig]
) -> None:
    assert re.search(rf"mine\.yaml: .*{expected}", message(lambda: load(text)))


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing.yaml"
    assert message(lambda: WorkerConfig.load(path)) == (
        f"{path}: cannot be read: No such file or directory"
    )


# Secrets


def test_secrets_are_not_shown(load: Callable[[str], WorkerConfig]) -> None:
    config = load(
        "kafka: {security: {protocol: SASL_SSL, username: worker, password: hunter2}}\n"
        "artifacts: {storage_options: {key: hunter2, secret: hunter2}}"
    )
    for shown in (repr(config), str(config), config.model_dump_json(), repr(config.artifacts)):
        assert "hunter2" not in shown
    assert config.model_dump(mode="json")["artifacts"]["storage_options"].keys() == {
        "key",
        "secret",
    }
    assert config.artifacts.storage_options == {"key": "hunter2", "secret": "hunter2"}
    password = config.kafka.security.password
    assert password is not None
    assert password.get_secret_value() == "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        "kafka: {security: {password: [hunter2]}}",
        "kafka: {security: {protocol: SASL_SSL, password: hunter2}}",
        "artifacts: {storage_options: {secret: [hunter2]}}",
        "artifacts: {storage_options: hunter2}",
    ],
)
def test_error_about_a_secret_does_not_show_it(
    text: str, load: Callable[[str], WorkerConfig]
) -> None:
    assert "hunter2" not in message(lambda: load(text))


# The file and the code


def test_file_and_models_have_the_same_keys() -> None:
    assert sorted(leaves_of_file(default_file(), known=set(KEYS))) == KEYS


def test_every_key_of_the_file_is_explained_beside_it_above_it_or_at_its_section() -> None:
    section_is_explained, above = False, ""
    for line in default_config_path().read_text(encoding="utf-8").splitlines():
        if re.match(r" *\w+:( *#.*)?$", line):
            section_is_explained = "#" in line
        elif re.match(r" *\w+:", line):
            assert "#" in line or section_is_explained or above.lstrip().startswith("#"), line
        above = line


def names_used() -> set[str]:
    """Return the attributes and strings in our sources, but for where configuration is defined."""
    names: set[str] = set()
    for package in ("vortex", "consumer"):
        for path in (SOURCES / package).rglob("*.py"):
            if path.name == "config.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute):
                    names.add(node.attr)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    names.add(node.value)
    return names


def test_every_key_is_read() -> None:
    used = names_used()
    unread = [key for key in KEYS if key.rpartition(".")[2] not in used]
    assert not unread, (
        f"config.yaml offers keys that neither vortex/ nor consumer/ ever reads: {unread};"
        " read them, or take them out of the file and the models"
    )


@pytest.mark.parametrize(
    ("ladder", "names"),
    [
        ("[]", ["full"]),
        ("[full]", ["full"]),
        ("[full, third]", ["full", "third"]),
        ("[half]", ["half"]),
    ],
)
def test_rungs_that_the_ladder_does_not_name_are_forbidden(
    ladder: str, names: list[str], load: Callable[[str], WorkerConfig]
) -> None:
    rungs = load(f"orchestration: {{ladder: {ladder}}}").orchestration.rungs
    assert [rung.name for rung in rungs] == names


def test_ladder_that_rises_is_refused(load: Callable[[str], WorkerConfig]) -> None:
    said = message(lambda: load("orchestration: {ladder: [half, full]}"))
    assert said == ("orchestration: ladder must name each rung once, the best first: [full, half]")


def test_stage_has_the_prior_that_is_configured_and_others_none(
    load: Callable[[str], WorkerConfig],
) -> None:
    assert WorkerConfig.load().orchestration.priors.by_stage() == {}
    text = "orchestration: {priors: {video: {fixed_s: 1.0, per_unit_s: 0.05}}}"
    priors = load(text).orchestration.priors.by_stage()
    assert priors == {"video": Prior(fixed_s=1.0, per_unit_s=0.05)}


def test_stage_timeouts_fit_into_a_slot() -> None:
    orchestration = VortexConfig.load().orchestration
    limits = orchestration.timeouts
    longest_s = max(limits.audio_s, limits.image_s) + limits.video_s + limits.clip_s
    assert longest_s + orchestration.deadline_buffer_s <= SLOT_S


def test_variable_with_one_underscore_is_not_ignored_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VORTEX_KAFKA__GROUP_ID", "mine")
    with pytest.raises(ConfigError, match="did you mean VORTEX__KAFKA__GROUP_ID"):
        WorkerConfig.load()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 128),
        ("models: {profile: production}", 512),
        ("models: {profile: production}\npipeline: {image_size: 256}", 256),
        ("models: {profile: production}\npipeline: {image_size: {production: 768}}", 768),
        ("pipeline: {image_size: {production: 768}}", 128),
    ],
)
def test_portrait_has_the_size_of_the_profile_unless_a_file_says_otherwise(
    text: str, size: int, load: Callable[[str], WorkerConfig]
) -> None:
    assert load(text).pipeline.image_size == size


def test_image_model_of_production_is_asked_for_a_face_that_can_be_animated(
    load: Callable[[str], WorkerConfig],
) -> None:
    assert load("").pipeline.portrait_prompt == "{prompt}"
    asked = load("models: {profile: production}").pipeline.portrait_prompt
    for words in ("centred", "facing the camera", "mouth closed"):
        assert words in asked


@pytest.mark.parametrize("words", ["", "a portrait", "{prompt}, {prompt}"])
def test_words_without_one_place_for_the_prompt_are_refused(
    words: str, load: Callable[[str], WorkerConfig]
) -> None:
    text = message(lambda: load(f"pipeline: {{portrait_prompt: '{words}'}}"))
    assert text.startswith("pipeline.portrait_prompt: must contain {prompt} once")


def test_size_for_an_unknown_profile_is_refused(load: Callable[[str], WorkerConfig]) -> None:
    text = message(lambda: load("pipeline: {image_size: {productoin: 512}}"))
    assert text.startswith("pipeline.image_size: ")
