"""Logging in at a real Kafka: each right way serves a tick, each wrong one is one clear line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from consumer.config import KafkaConfig
from consumer.kafka.clients import make_admin
from consumer.kafka.topics import create_topics
from tests.support.cases import slow_but
from tests.support.certificates import Authority
from tests.support.command_line import environment, vortex
from tests.support.engines import ScriptedEngine
from tests.support.lane import Lane, assert_one_outcome_each, slots, tick
from tests.support.secured_kafka import (
    PASSWORD,
    REAUTHENTICATE_MS,
    SecuredKafka,
    secured_kafka,
    token,
)
from tests.support.vortex_run import COMMAND

pytestmark = pytest.mark.kafka

LISTENERS = ("MUTUAL", "SCRAM", "PLAIN", "OAUTH")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with secured_kafka(tmp_path_factory.mktemp("secured")) as running:
        yield running


async def open_lane(secured: SecuredKafka, **more: str) -> Lane:
    """Return topics of their own, through the open listener; `more` has further suffixes."""
    name = uuid.uuid4().hex[:8]
    further = {key: f"{name}.{suffix}" for key, suffix in more.items()}
    servers = secured.cluster.bootstrap_servers
    lane = Lane.of(servers, f"{name}.t", f"{name}.r", f"{name}.d", **further)
    admin = make_admin(lane.config, client_id="test")
    names = [topic for topic in lane.config.topics.model_dump().values() if topic is not None]
    await create_topics(admin, dict.fromkeys(names, 1))
    return lane


def variables(config: KafkaConfig, *, start_timeout_s: float = 5.0) -> dict[str, str]:
    """Return the environment of a command."""
    return {
        "VORTEX__KAFKA": config.model_dump_json(),
        "VORTEX__KAFKA__START_TIMEOUT_S": str(start_timeout_s),
    }


def said_by(done: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Return the one line with which a command must have failed; none may show a secret."""
    told = done.stdout + done.stderr
    assert "Traceback" not in told, told
    assert PASSWORD not in told
    assert "hunter2" not in told
    assert done.returncode == exit_code, told
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@contextmanager
def running_worker(log: Path, **variables: str) -> Iterator[None]:
    """Run `vortex run` with a scripted engine, its standard error in a file."""
    with log.open("wb") as stderr:
        command = [*COMMAND, "nothing"]
        worker = subprocess.Popen(command, stderr=stderr, env=environment(**variables))
        try:
            yield
        finally:
            worker.terminate()
            worker.wait(30)


# What is right


@pytest.mark.parametrize("listener", LISTENERS)
async def test_tick_goes_in_and_its_outcome_comes_out(listener: str, secured: SecuredKafka) -> None:
    lane = Lane(secured.config((await open_lane(secured)).config, listener))
    emitted = await lane.emit([tick(slot_id) for slot_id in range(3)])
    async with lane.worker(ScriptedEngine(), "a"):
        results = await lane.outcomes(3)
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == {0, 1, 2}


async def test_commands_serve_a_tick_through_tls_and_scram_and_log_no_password(
    secured: SecuredKafka,
) -> None:
    config = secured.config((await open_lane(secured)).config, "SCRAM")
    common = variables(config)
    log = secured.directory / "worker.log"
    with running_worker(log, VORTEX__LOGGING__LEVEL="DEBUG", **common):
        sent = await asyncio.to_thread(vortex, "tick", "--slot-id", "7", **common)
        arguments = ("watch", "--from-start", "--count", "1", "--timeout", "60", "--json")
        seen = await asyncio.to_thread(vortex, *arguments, **common)
    assert (sent.returncode, seen.returncode) == (0, 0), sent.stderr + seen.stderr
    assert json.loads(seen.stdout)["slot_id"] == 7
    shown = vortex("config", "show", **common)
    assert PASSWORD not in shown.stdout + log.read_text(encoding="utf-8")


@asynccontextmanager
async def renewed_token(secured: SecuredKafka, lifetime_s: float) -> AsyncIterator[None]:
    """Renew the token long before it ends, however long the steps of the test take."""

    async def renew() -> None:
        while True:
            secured.secret("token", token("admin", lifetime_s))
            await asyncio.sleep(lifetime_s / 10)

    secured.secret("token", token("admin", lifetime_s))
    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()


async def test_token_that_is_renewed_in_its_file_is_used_when_the_old_one_ends(
    secured: SecuredKafka,
) -> None:
    lane = Lane(secured.config((await open_lane(secured)).config, "OAUTH"))
    lifetime_s = REAUTHENTICATE_MS / 1000 + 2
    emitted = []
    async with renewed_token(secured, lifetime_s), lane.worker(ScriptedEngine(), "a"):
        for slot_id in range(4):  # the broker closes each connection that outlives its login
            emitted += await lane.emit([tick(slot_id)])
            await lane.outcomes(slot_id + 1, settle_s=0.0)
            await asyncio.sleep(REAUTHENTICATE_MS / 1000)
        results = await lane.outcomes(4)
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == {0, 1, 2, 3}


# What is wrong

Wrong = Callable[[SecuredKafka], dict[str, Any]]


def expired_certificate(secured: SecuredKafka) -> dict[str, Any]:
    expired = secured.authority.issue("expired", expired=True)
    return {"cert_file": expired.cert_file, "key_file": expired.key_file}


def foreign_certificate(secured: SecuredKafka) -> dict[str, Any]:
    foreign = Authority(secured.directory / "foreign").issue("foreign")
    return {"cert_file": foreign.cert_file, "key_file": foreign.key_file}


def plain_text(secured: SecuredKafka) -> dict[str, Any]:
    return {"protocol": "PLAINTEXT", "cert_file": None, "key_file": None}


WRONG: dict[str, tuple[str, Wrong, int, tuple[str, ...]]] = {
    "wrong password": (
        "SCRAM",
        lambda secured: {"password_file": secured.secret("wrong", "hunter2")},
        3,
        ("refuses the login", "kafka.security.username and password_file"),
    ),
    "wrong password of PLAIN": (
        "PLAIN",
        lambda secured: {"password_file": secured.secret("wrong", "hunter2")},
        3,
        ("refuses the login", "kafka.security.username and password_file"),
    ),
    "unknown user": (
        "SCRAM",
        lambda _: {"username": "nobody"},
        3,
        ("refuses the login", "kafka.security.username and password_file"),
    ),
    "wrong mechanism": (
        "SCRAM",
        lambda _: {"sasl_mechanism": "PLAIN"},
        3,
        ("does not offer", "kafka.security.sasl_mechanism"),
    ),
    "wrong authority": (
        "SCRAM",
        lambda secured: {"ca_file": Authority(secured.directory / "other").ca_file},
        3,
        ("certificate is not trusted", "kafka.security.ca_file"),
    ),
    "wrong host": (
        "SCRAM",
        lambda secured: {
            "bootstrap_servers": secured.cluster.secured("SCRAM").replace("127.0.0.1", "localhost")
        },
        3,
        ("certificate is for another host", "kafka.bootstrap_servers"),
    ),
    "no client certificate": (
        "MUTUAL",
        lambda _: {"cert_file": None, "key_file": None},
        3,
        ("client certificate", "ALERT", "kafka.security.cert_file"),
    ),
    "expired client certificate": (
        "MUTUAL",
        expired_certificate,
        3,
        ("client certificate", "ALERT", "kafka.security.cert_file"),
    ),
    "client certificate of a foreign authority": (
        "MUTUAL",
        foreign_certificate,
        3,
        ("client certificate", "ALERT", "kafka.security.cert_file"),
    ),
    "plain text to a TLS listener": (
        "MUTUAL",
        plain_text,
        3,
        ("closes the connection", "kafka.security.protocol"),
    ),
    "no login at a listener with one": (
        "OPENSCRAM",
        lambda _: {"protocol": "PLAINTEXT"},
        3,
        ("closes the connection", "kafka.security.protocol"),
    ),
    "TLS to a plain listener": (
        "OPENSCRAM",
        lambda _: {"protocol": "SASL_SSL"},
        3,
        ("kafka.security.protocol",),
    ),
    "expired token": (
        "OAUTH",
        lambda secured: {"token_file": secured.secret("old", token("admin", -60.0))},
        3,
        ("expired 6", "kafka.security.token_file"),
    ),
    "token that the broker refuses": (
        "OAUTH",
        lambda secured: {"token_file": secured.secret("bad", "hunter2.hunter2.hunter2")},
        3,
        ("refuses the token", "token_file"),
    ),
    "password file that is not there": (
        "SCRAM",
        lambda secured: {"password_file": secured.directory / "nothing"},
        2,
        ("kafka.security.password_file", "No such file", "mount the secret"),
    ),
    "password file that is a directory": (
        "SCRAM",
        lambda secured: {"password_file": secured.directory},
        2,
        ("kafka.security.password_file", "Is a directory"),
    ),
    "token file that is not there": (
        "OAUTH",
        lambda secured: {"token_file": secured.directory / "nothing"},
        2,
        ("kafka.security.token_file", "No such file", "mount the secret"),
    ),
    "key file that is not there": (
        "MUTUAL",
        lambda secured: {"key_file": secured.directory / "nothing"},
        2,
        ("kafka.security.key_file", "No such file"),
    ),
    "key of another certificate": (
        "MUTUAL",
        lambda secured: {"key_file": secured.authority.issue("another").key_file},
        2,
        ("kafka.security.cert_file", "belong together"),
    ),
}


# One for each thing that can be said; the others are said in the same way.
SAID_APART = (
    "wrong password", "wrong mechanism", "wrong authority", "wrong host", "no client certificate",
    "plain text to a TLS listener", "expired token", "token that the broker refuses",
    "token file that is not there", "key of another certificate",
)  # fmt: skip


@pytest.mark.parametrize("what", slow_but(SAID_APART, WRONG))
async def test_wrong_one_is_told_in_one_line_that_names_the_key(
    what: str, secured: SecuredKafka
) -> None:
    listener, wrong, exit_code, expected = WRONG[what]
    lane = await open_lane(secured)
    config = secured.config(lane.config, listener, **wrong(secured))
    # A final refusal ends the wait by itself, however long a busy broker takes to say it.
    limit_s = 5.0 if "closes the connection" in expected else 60.0
    done = await asyncio.to_thread(vortex, "run", **variables(config, start_timeout_s=limit_s))
    said = said_by(done, exit_code)
    for part in expected:
        assert part in said


@pytest.mark.parametrize("command", ["tick", "watch", "doctor"])
async def test_every_command_tells_a_wrong_password_in_the_same_way(
    command: str, secured: SecuredKafka, tmp_path: Path
) -> None:
    lane = await open_lane(secured)
    wrong = {"password_file": secured.secret("wrong", "hunter2")}
    config = secured.config(lane.config, "SCRAM", **wrong)
    done = await asyncio.to_thread(
        vortex, command, **variables(config), VORTEX__ARTIFACTS__URL=str(tmp_path)
    )
    told = done.stdout if command == "doctor" else said_by(done, 3)
    assert done.returncode == 3
    assert PASSWORD not in done.stdout + done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    (line,) = (line for line in told.splitlines() if "refuses the login" in line)
    assert "kafka.security.username and password_file" in line
