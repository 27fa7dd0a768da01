"""The worker's whole configuration: `vortex.config` and the sections around making a slot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_serializer, model_validator

from schemas import Delivery
from vortex.config import Section, VortexConfig

CHANNEL = r"^[A-Za-z0-9._-]{1,64}$"
TOPIC = r"^[A-Za-z0-9._-]{1,249}$"
MASK = "**********"  # as SecretStr shows itself


class TopicsConfig(Section):
    """Names of the topics."""

    ticks: str = Field(pattern=TOPIC)
    results: str = Field(pattern=TOPIC)
    dead_letter: str = Field(pattern=TOPIC)
    progress: str | None = Field(pattern=TOPIC)
    handover: str | None = Field(pattern=TOPIC)
    workers: str | None = Field(pattern=TOPIC)
    control: str | None = Field(pattern=TOPIC)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The topics whose records each get one outcome."""
        return (self.ticks,) if self.handover is None else (self.ticks, self.handover)

    @model_validator(mode="after")
    def _all_different(self) -> Self:
        names: dict[str, str | None] = self.model_dump()
        used = [name for name in names.values() if name is not None]
        if len(set(used)) < len(used):
            raise ValueError(f"{', '.join(names)} must be different topics")
        return self

    @model_validator(mode="after")
    def _handover_needs_announcements(self) -> Self:
        if (self.handover is None) != (self.workers is None):
            raise ValueError("handover and workers need each other; null in both: no handover")
        return self


class SecurityConfig(Section):
    """How to connect to the brokers."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
    username: str | None
    password: SecretStr | None
    password_file: Path | None
    token_file: Path | None
    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None
    key_password_file: Path | None

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self.protocol.endswith("SSL")

    @property
    def uses_sasl(self) -> bool:
        """Whether there is a login."""
        return self.protocol.startswith("SASL")

    @model_validator(mode="after")
    def _sasl_has_one_kind_of_credentials(self) -> Self:
        if not self.uses_sasl:
            return self
        passwords = [each for each in (self.password, self.password_file) if each is not None]
        if self.sasl_mechanism == "OAUTHBEARER":
            if self.token_file is None:
                raise ValueError("sasl_mechanism OAUTHBEARER needs token_file")
            if passwords:
                raise ValueError("sasl_mechanism OAUTHBEARER takes token_file and no password")
        elif self.token_file is not None:
            raise ValueError(f"token_file is for OAUTHBEARER, not {self.sasl_mechanism}")
        elif self.username is None or not passwords:
            raise ValueError(
                f"protocol {self.protocol} needs username, and password_file or password"
            )
        elif len(passwords) > 1:
            raise ValueError("password and password_file are both set; keep one of them")
        return self

    @model_validator(mode="after")
    def _certificate_is_complete_and_used(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file need each other")
        if self.cert_file is not None and not self.encrypted:
            raise ValueError(f"cert_file needs protocol SSL or SASL_SSL, not {self.protocol}")
        return self


class KafkaConfig(Section):
    """Brokers, topics, and the limits that keep a worker in its group."""

    bootstrap_servers: str = Field(pattern=r"^[^\s,]+:[0-9]+(,[^\s,]+:[0-9]+)*$")
    group_id: str = Field(min_length=1, max_length=249)
    group_instance_id: str | None = Field(pattern=TOPIC)
    delivery: Delivery
    topics: TopicsConfig
    security: SecurityConfig
    start_timeout_s: float = Field(ge=0)
    request_timeout_s: float = Field(gt=0)
    session_timeout_s: float = Field(gt=0)
    rebalance_timeout_s: float = Field(gt=0)
    transaction_timeout_s: float = Field(gt=0)
    # Every decision plans all waiting slots: with 10,000 it takes up to a millisecond.
    queue_limit: int = Field(ge=1, le=10_000)
    # 16,384 offsets are 2 KiB of bitmap, well under the broker's 4 KiB of offset metadata.
    window: int = Field(ge=1, le=16_384)
    duplicate_window_s: float = Field(ge=0, le=86_400)
    shutdown_grace_s: float = Field(ge=0)

    @property
    def publish_timeout_s(self) -> float:
        """Seconds for one transaction: done before the client or the broker would give it up."""
        return 0.8 * min(self.request_timeout_s, self.transaction_timeout_s)

    @model_validator(mode="after")
    def _handover_is_a_transaction(self) -> Self:
        if self.topics.handover is not None and self.delivery != "exactly-once":
            raise ValueError(f"topics.handover needs delivery exactly-once, not {self.delivery}")
        return self

    @model_validator(mode="after")
    def _request_outlasts_rebalance(self) -> Self:
        if self.request_timeout_s <= self.rebalance_timeout_s:
            raise ValueError(
                f"request_timeout_s {self.request_timeout_s} must be above"
                f" rebalance_timeout_s {self.rebalance_timeout_s}"
            )
        return self


class IntakeConfig(Section):
    """Which ticks are accepted."""

    trusted_keys: tuple[Path, ...]


class EngineConfig(Section):
    """Where slots are made, and what becomes of an engine that does not answer."""

    host: Literal["process", "inline"]
    start_timeout_s: float = Field(gt=0)
    heartbeat_timeout_s: float = Field(gt=0)
    memory_limit_gb: float | None = Field(gt=0)
    idle_unload_s: float | None = Field(gt=0)


class LoudnessConfig(Section):
    """How loud the sound of every slot is, after EBU R 128."""

    enabled: bool
    target_lufs: float = Field(ge=-40, le=-10)
    true_peak_dbtp: float = Field(ge=-20, le=0)


class CredentialsConfig(Section):
    """Whose signature every video carries."""

    enabled: bool
    cert_file: Path | None
    key_file: Path | None

    @model_validator(mode="after")
    def _key_and_certificate_go_together(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file need each other")
        return self


class ArtifactsConfig(Section):
    """Where finished videos go, and how they are encoded."""

    url: str = Field(min_length=1)
    storage_options: dict[str, str] = Field(repr=False)
    preset: Literal[
        "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"
    ]
    crf: int = Field(ge=0, le=51)
    x264_threads: int = Field(ge=1, le=64)
    audio_bitrate_bps: int = Field(ge=16_000, le=512_000)
    loudness: LoudnessConfig
    captions: bool
    fragmented: bool
    watermark: bool
    credentials: CredentialsConfig

    @field_serializer("storage_options", when_used="json")
    def _mask(self, options: dict[str, str]) -> dict[str, str]:
        return dict.fromkeys(options, MASK)


class SlateConfig(Section):
    """What is shown instead of a slot that was missed."""

    default: str | None = Field(min_length=1, max_length=2000)
    channels: dict[Annotated[str, Field(pattern=CHANNEL)], str]


class TelemetryConfig(Section):
    """Where spans go."""

    exporter: Literal["none", "otlp", "console", "file"]
    file: Path
    service_name: str = Field(min_length=1)


class LoggingConfig(Section):
    """What is logged, and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    format: Literal["json", "console"]


class HealthConfig(Section):
    """Where health is served over HTTP."""

    address: str | None = Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/]+):[0-9]{1,5}$")


class ControlConfig(Section):
    """Where an operator on the worker's machine reaches it."""

    socket: Path | None


class WorkerConfig(VortexConfig):
    """Everything that `config.yaml` may hold."""

    kafka: KafkaConfig
    intake: IntakeConfig
    engine: EngineConfig
    artifacts: ArtifactsConfig
    slate: SlateConfig
    telemetry: TelemetryConfig
    health: HealthConfig
    control: ControlConfig
    logging: LoggingConfig
