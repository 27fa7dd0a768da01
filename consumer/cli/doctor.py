"""`vortex doctor`: is everything there that a worker needs?"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import typer

from consumer.artifacts.store import ArtifactStore
from consumer.cli.common import EXIT_MISSING, FAILURES, ConfigOption, console, load_config
from consumer.config import WorkerConfig
from consumer.kafka.access import WORKER, require_access
from consumer.kafka.broker_version import MIN_BROKER, find_too_old
from consumer.kafka.clients import connecting, make_admin
from vortex.weights.manifest import verify_manifest

KAFKA_TIMEOUT_S = 5.0
COLLECTOR_TIMEOUT_S = 2.0
DEFAULT_OTLP_ENDPOINT = "http://localhost:4318"


class _NotReadyError(Exception):
    """Something is missing; the message says what to do."""


def doctor(config: ConfigOption = None) -> None:
    """Check device, weights, Kafka, artifact store and trace collector.

    Each is OK, or comes with what to do about it. Exit code 3 if a worker could not run; a missing
    collector alone never stops one.
    """
    settings = load_config(config)
    checks: dict[str, Callable[[WorkerConfig], str]] = {
        "device": _device,
        "weights": _weights,
        "kafka": _kafka,
        "store": _store,
        "collector": _collector,
    }
    broken = [name for name, check in checks.items() if not _passes(name, check, settings)]
    if set(broken) - {"collector"}:
        raise typer.Exit(EXIT_MISSING)


def _passes(name: str, check: Callable[[WorkerConfig], str], settings: WorkerConfig) -> bool:
    try:
        with console.status(f"checking {name}"):
            found = check(settings)
    except (_NotReadyError, *FAILURES) as error:
        console.print(f"[red]FAIL[/] {name:<10}", end="")
        console.print(str(error), highlight=False, soft_wrap=True, markup=False)
        return False
    console.print(f"[green]OK[/]   {name:<10}", end="")
    console.print(found, highlight=False, soft_wrap=True, markup=False)
    return True


def _device(settings: WorkerConfig) -> str:
    try:
        from vortex.utils.device import device_of
    except ModuleNotFoundError as error:
        raise _NotReadyError(
            f"the package {error.name} is missing; install vortex-slots[pipeline]"
        ) from error
    return str(device_of(settings.device.name))


def _weights(settings: WorkerConfig) -> str:
    directory = settings.models.profile_directory
    revisions = verify_manifest(directory, checksums=True, catalogue=settings.models.catalogue)
    return f"{settings.models.profile} in {directory}: {', '.join(revisions)}"


def _kafka(settings: WorkerConfig) -> str:
    kafka = settings.kafka
    try:
        missing, too_old = asyncio.run(_ask_brokers(settings))
    except TimeoutError as error:
        raise _NotReadyError(f"no answer from {kafka.bootstrap_servers}") from error
    if too_old and kafka.delivery == "exactly-once":
        raise _NotReadyError(
            f"{', '.join(too_old)} runs a Kafka below {MIN_BROKER}, on which exactly-once does not"
            f" hold; upgrade it to {MIN_BROKER} or later, or set kafka.delivery to at-least-once"
        )
    if missing:
        raise _NotReadyError(
            f"{kafka.bootstrap_servers} has no topic {', '.join(missing)};"
            " create it with `vortex kafka create-topics`"
        )
    return (
        f"{kafka.bootstrap_servers}, all topics are there, and the rights to them, {kafka.delivery}"
    )


async def _ask_brokers(settings: WorkerConfig) -> tuple[list[str], list[str]]:
    """Return the topics that are missing and the brokers that are too old."""
    admin = make_admin(settings.kafka, client_id="vortex-doctor")
    try:
        async with asyncio.timeout(KAFKA_TIMEOUT_S):
            with connecting():
                await admin.start()
                missing = await require_access(admin._client, settings.kafka, WORKER)
                return missing, await find_too_old(admin._client)
    finally:
        await admin.close()


def _store(settings: WorkerConfig) -> str:
    artifacts = settings.artifacts
    ArtifactStore(artifacts.url, artifacts.storage_options).check()
    return f"{artifacts.url} can be written"


def _collector(settings: WorkerConfig) -> str:
    if settings.telemetry.exporter != "otlp":
        return f"not used: telemetry.exporter is {settings.telemetry.exporter}"
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", DEFAULT_OTLP_ENDPOINT)
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), COLLECTOR_TIMEOUT_S).close()
    except OSError as error:
        raise _NotReadyError(
            f"no answer from {endpoint} ({error.strerror or error}); set"
            " OTEL_EXPORTER_OTLP_ENDPOINT. Workers run without it; their traces are lost"
        ) from error
    return f"{endpoint} answers"
