"""Configuration: packaged defaults, then a file, then environment variables.

All defaults stand in `config.yaml`, which is installed with the package; the classes here give
types and bounds. Errors come as `ConfigError` with one line a problem.
"""

from __future__ import annotations

import difflib
import functools
import math
import os
import re
from collections.abc import Set
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from vortex.errors import one_line
from vortex.orchestration.learning import Prior
from vortex.rung import FULL, LADDER, Rung

ENV_PREFIX = "VORTEX__"
PROFILES = ("mini", "production")
PROMPT_PLACE = "{prompt}"
# libyaml's, where PyYAML comes with it: config.yaml takes a tenth of the time.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_SECRET = re.compile(r"password|secret|token|storage_options")
_UNITS = {"_s": "seconds", "_ms": "milliseconds", "_gb": "GB", "_bytes": "bytes", "_bps": "bits/s"}


class ConfigError(Exception):
    """The configuration is wrong; the message says which key, and what is allowed."""


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class DeviceConfig(Section):
    """Where the models run."""

    name: str = Field(pattern=r"^(auto|cpu|cuda:[0-9]+)$")
    cpu_threads: int | None = Field(ge=1, le=256)


class VramConfig(Section):
    """Limits of GPU memory, in GB of 10^9 bytes."""

    soft_limit_gb: float = Field(gt=0)
    hard_limit_gb: float = Field(gt=0)

    @model_validator(mode="after")
    def _soft_below_hard(self) -> Self:
        if self.soft_limit_gb > self.hard_limit_gb:
            raise ValueError(
                f"soft_limit_gb {self.soft_limit_gb} is above hard_limit_gb {self.hard_limit_gb}"
            )
        return self


class ModelsConfig(Section):
    """Which weights, and how far their verdict counts."""

    profile: Literal["mini", "production"]
    directory: Path
    catalogue: Path | None
    flux_quantization: Literal["auto", "none", "nf4", "int8"]
    clip_quantization: Literal["auto", "none", "int8"]
    default_voice: str
    self_check: Literal["enforce", "report"]

    @property
    def profile_directory(self) -> Path:
        """The folder that holds the profile's models."""
        return self.directory.expanduser() / self.profile


class BuffersConfig(Section):
    """Sizes of what is handed from the renderer to the encoder."""

    video_batch_frames: int = Field(ge=1, le=256)
    encoder_queue_batches: int = Field(ge=1, le=256)


class PipelineConfig(Section):
    """How the models are used."""

    image_size: int = Field(ge=64, le=1024, multiple_of=16)
    steps: int = Field(ge=1, le=50)
    portrait_prompt: str
    warmup: bool
    cancel_grace_s: float = Field(gt=0)

    @field_validator("portrait_prompt")
    @classmethod
    def _has_one_place(cls, text: str) -> str:
        if text.count(PROMPT_PLACE) != 1:
            raise ValueError(f"must contain {PROMPT_PLACE} once, for the recipe's prompt")
        return text


def asked_of_image_model(portrait_prompt: str, prompt: str) -> str:
    """Return what the image model is asked for, by `pipeline.portrait_prompt`, for a prompt."""
    return portrait_prompt.replace(PROMPT_PLACE, prompt)


class TimeoutsConfig(Section):
    """Seconds for one attempt of a stage."""

    audio_s: float = Field(gt=0)
    image_s: float = Field(gt=0)
    video_s: float = Field(gt=0)
    clip_s: float = Field(gt=0)

    def by_stage(self) -> dict[str, float]:
        """Return the seconds by stage: "audio", "image", …"""
        return {key.removesuffix("_s"): seconds for key, seconds in self}


class RetryConfig(Section):
    """How often a failed stage is tried again."""

    audio: int = Field(ge=0, le=10)
    image: int = Field(ge=0, le=10)
    video: int = Field(ge=0, le=10)
    clip: int = Field(ge=0, le=10)


class OverlapConfig(Section):
    """What of two slots is done at the same time."""

    store: bool
    speech: bool


class PriorConfig(Section):
    """What is believed of a stage's time before it was measured."""

    fixed_s: float = Field(ge=0)
    per_unit_s: float = Field(gt=0)


class PriorsConfig(Section):
    """What is believed of the stages; None is nothing."""

    audio: PriorConfig | None
    image: PriorConfig | None
    video: PriorConfig | None
    clip: PriorConfig | None

    def by_stage(self) -> dict[str, Prior]:
        """Return the priors of the stages that have one."""
        return {
            stage: Prior(prior.fixed_s, prior.per_unit_s)
            for stage, prior in self
            if prior is not None
        }


class OrchestrationConfig(Section):
    """Deadlines, timeouts, retries, and quality under pressure of time."""

    timeouts: TimeoutsConfig
    retry_policy: RetryConfig
    deadline_buffer_s: float = Field(ge=0)
    priors: PriorsConfig
    overlap: OverlapConfig
    ladder: tuple[Literal["full", "half", "third"], ...]

    @property
    def overlap_room_s(self) -> float:
        """Seconds that a slot must have left for the next one to begin while it is stored."""
        return 2 * self.deadline_buffer_s if self.overlap.store else math.inf

    @model_validator(mode="after")
    def _ladder_falls(self) -> Self:
        falling = tuple(rung.name for rung in LADDER if rung.name in self.ladder)
        if self.ladder != falling:
            raise ValueError(
                f"ladder must name each rung once, the best first: [{', '.join(falling)}]"
            )
        return self

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The rungs that may be used, the best first; full quality alone if none is named."""
        return tuple(rung for rung in LADDER if rung.name in self.ladder) or (FULL,)


class VortexConfig(BaseSettings):
    """The sections that making a slot needs.

    One file serves the whole worker: sections of the packaged file that this class does not have
    belong to others, and are left alone here.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",
    )

    device: DeviceConfig
    vram: VramConfig
    models: ModelsConfig
    buffers: BuffersConfig
    pipeline: PipelineConfig
    orchestration: OrchestrationConfig

    @model_validator(mode="before")
    @classmethod
    def _leave_foreign_sections(cls, data: dict[str, Any]) -> dict[str, Any]:
        foreign = _packaged().keys() - set(cls.model_fields)
        return {key: value for key, value in data.items() if key not in foreign}

    @classmethod
    def load(cls, path: Path | None = None, *, profile: str | None = None) -> Self:
        """Return the configuration in force.

        Args:
            path: a YAML file; its keys win over the packaged defaults. None takes those alone.
            profile: of the models, instead of the configured one.

        Raises:
            ConfigError: the file cannot be read, or a key or value in it or in the environment
                is wrong.
        """
        _check_environment(_packaged().keys())
        data = _packaged()
        if path is not None:
            data = _merged(data, _read(path))
        data = _merged(data, _read_environment(cls))
        if profile is not None:
            data = _merged(data, {"models": {"profile": profile}})
        data = _for_profile(data)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_describe(error, cls)) from error


def default_config_path() -> Path:
    """Return the packaged `config.yaml`, or the one at the root of a source checkout."""
    installed = Path(__file__).with_name("config.yaml")
    return installed if installed.exists() else Path(__file__).parent.parent / "config.yaml"


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_Loader) or {}  # noqa: S506 - either one is safe
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold sections such as 'kafka:', not {content!r:.40}")
    for section, keys in content.items():
        if keys is not None and not isinstance(keys, dict):
            raise ConfigError(f"{path}: {section}: must hold keys, got {keys!r:.40}")
    return {str(section): keys or {} for section, keys in content.items()}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return both, key by key in nested sections; where both have a value, `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, dict) and isinstance(value, dict)
        merged[key] = _merged(under or {}, value) if both else value
    return merged


def _for_profile(data: dict[str, Any]) -> dict[str, Any]:
    """Return the sections with one value wherever there is one for each profile."""
    profile = data["models"].get("profile")

    def chosen(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if value and value.keys() <= set(PROFILES):
            # An unknown profile is an error of its own.
            return value.get(profile, value.get(PROFILES[0]))
        return {key: chosen(each) for key, each in value.items()}

    return {section: chosen(keys) for section, keys in data.items()}


@functools.cache
def _packaged() -> dict[str, Any]:
    """Return the packaged configuration; every section that a worker's file may have is in it."""
    return _read(default_config_path())


def _read_environment(model: type[VortexConfig]) -> dict[str, Any]:
    try:
        return EnvSettingsSource(model)()
    except SettingsError as error:
        raise ConfigError(
            f"{ENV_PREFIX}*: {error}; a variable that holds several keys must be JSON"
        ) from error


def _check_environment(sections: Set[str]) -> None:
    for variable in os.environ:
        if not variable.upper().startswith(ENV_PREFIX):
            _refuse_lone_underscore(variable, sections)
            continue
        section = variable[len(ENV_PREFIX) :].split("__")[0].lower()
        if section not in sections:
            raise ConfigError(
                f"{variable}: there is no section '{section}'; {_known(section, sections)}"
            )


def _refuse_lone_underscore(variable: str, sections: Set[str]) -> None:
    """Raise `ConfigError` for a variable such as VORTEX_KAFKA__GROUP_ID, which would be ignored."""
    rest = variable.upper().removeprefix(ENV_PREFIX[:-1])
    if rest != variable.upper() and rest.split("__")[0].lower() in sections:
        raise ConfigError(
            f"{variable}: would be ignored; did you mean {ENV_PREFIX}{rest}, with two underscores?"
        )


def _describe(error: ValidationError, model: type[VortexConfig]) -> str:
    return "; ".join(_describe_one(dict(problem), model) for problem in error.errors())


def _describe_one(problem: dict[str, Any], model: type[VortexConfig]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        return f"{key}: unknown key; {_known(name, _siblings(problem['loc'], model))}"
    allowed = problem["msg"].removeprefix("Value error, ")
    unit = next((unit for end, unit in _UNITS.items() if key.endswith(end)), None)
    in_unit = f" (a plain number, in {unit})" if unit else ""
    got = problem["input"]
    unprintable = isinstance(got, dict | BaseModel) or _SECRET.search(key)
    value = "" if unprintable else f", got {got!r:.60}"
    return f"{key}: {allowed}{in_unit}{value}"


def _siblings(location: tuple[Any, ...], model: type[VortexConfig]) -> set[str]:
    if len(location) == 1:
        return set(_packaged())
    section: type[BaseModel] = model
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return set()
        section = annotation
    return set(section.model_fields)


def _known(name: str, known: Set[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(sorted(known))}"
