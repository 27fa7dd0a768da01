"""What all commands share: options, failures and their exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from aiokafka.errors import KafkaError
from rich.console import Console

from consumer.artifacts.errors import ArtifactError
from consumer.config import WorkerConfig
from consumer.embedded_kafka.jars import EmbeddedKafkaError
from consumer.engine.base import EngineStartError
from consumer.kafka.clients import KafkaUnreachableError
from consumer.simulation.recorded import UnreadableRecordingError
from consumer.worker import WorkerFailedError, WorkerStartError
from vortex.config import ConfigError
from vortex.errors import VortexInitializationError

EXIT_NOT_AS_IT_SHOULD = 1
EXIT_USAGE = 2
EXIT_MISSING = 3
EXIT_FAILED = 4

FAILURES = (
    ArtifactError,
    ConfigError,
    EmbeddedKafkaError,
    EngineStartError,
    KafkaError,
    KafkaUnreachableError,
    UnreadableRecordingError,
    VortexInitializationError,
    WorkerFailedError,
    WorkerStartError,
)
"""Expected failures: their message is one line for the user, and no stack trace follows."""

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="YAML file; overrides the defaults, VORTEX__SECTION__KEY overrides both.",
        dir_okay=False,
    ),
]

console = Console()


def load_config(path: Path | None) -> WorkerConfig:
    """Return the configuration in force; see `WorkerConfig.load`."""
    return WorkerConfig.load(path)


def exit_code_of(error: BaseException) -> int:
    """Return what a script should see."""
    if isinstance(error, ConfigError):
        return EXIT_USAGE
    return EXIT_FAILED if isinstance(error, WorkerFailedError) else EXIT_MISSING


def complain(message: str) -> None:
    """Say in one line what is wrong."""
    print(f"vortex: {message}", file=sys.stderr)  # noqa: T201


def fail(message: str, exit_code: int) -> NoReturn:
    """Say in one line what is wrong, and end the process."""
    complain(message)
    sys.exit(exit_code)
