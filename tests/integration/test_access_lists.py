"""With the rights that docs/security.md lists all goes well; without one, its name is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from consumer.cli import doctor
from consumer.config import KafkaConfig, WorkerConfig
from consumer.kafka.access import (
    OPERATOR,
    PRODUCER,
    WATCHER,
    WORKER,
    MissingRightError,
    Role,
    ask_for_access,
)
from tests.integration.test_kafka_security import open_lane, said_by, variables
from tests.support.access_lists import Grant, documented, grant, names_of
from tests.support.cases import slow_but
from tests.support.command_line import vortex
from tests.support.engines import ScriptedEngine
from tests.support.lane import TIMEOUT_S, Lane, assert_one_outcome_each, tick
from tests.support.secured_kafka import SecuredKafka, secured_kafka

pytestmark = pytest.mark.kafka

EVERYTHING = {"control": "c", "handover": "h", "workers": "w"}
ROLES = {"worker": WORKER, "producer": PRODUCER, "watcher": WATCHER, "operator": OPERATOR}
COMMANDS = {"worker": "run", "producer": "tick", "watcher": "watch", "operator": "cancel main 1"}
EACH_RIGHT = [(user, index) for user in ROLES for index in range(len(documented(user)))]
LAST_RIGHTS = [(user, len(documented(user)) - 1) for user in ROLES]  # one of each command


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with secured_kafka(tmp_path_factory.mktemp("access")) as running:
        yield running


def as_user(secured: SecuredKafka, lane: Lane, user: str) -> KafkaConfig:
    return secured.config(lane.config, "OPENSCRAM", protocol="SASL_PLAINTEXT", username=user)


async def denied(config: KafkaConfig, role: Role) -> set[str]:
    """Return the names of the resources to which a right is missing."""
    try:
        await ask_for_access(config, role, client_id="test")
    except MissingRightError as error:
        return {right.name for right in error.rights}
    return set()


async def grant_and_wait(
    lane: Lane, config: KafkaConfig, user: str, rights: list[Grant], missing: set[str]
) -> None:
    """Grant rights, and wait until the broker has heard of them."""
    await grant(lane.config, rights)
    end_s = time.monotonic() + TIMEOUT_S
    while (found := await denied(config, ROLES[user])) != missing:
        assert time.monotonic() < end_s, f"denied are {found}, not {missing}"
        await asyncio.sleep(0.05)


def rights_of(lane: Lane, user: str) -> list[Grant]:
    return [each.renamed(names_of(lane.config)) for each in documented(user)]


async def test_worker_producer_and_watcher_with_exactly_their_rights_do_their_work(
    secured: SecuredKafka,
) -> None:
    lane = await open_lane(secured, **EVERYTHING)
    users = {user: Lane(as_user(secured, lane, user)) for user in ROLES}
    for user, theirs in users.items():
        await grant_and_wait(lane, theirs.config, user, rights_of(lane, user), set())
    emitted = await users["producer"].emit([tick(1), tick(2)])
    async with users["worker"].worker(ScriptedEngine(), "a"):
        results = await users["watcher"].outcomes(2)
    assert_one_outcome_each(results, emitted)


@pytest.mark.parametrize("right", slow_but(LAST_RIGHTS, EACH_RIGHT), ids=str)
async def test_missing_right_is_named_in_one_line_by_every_command(
    right: tuple[str, int], secured: SecuredKafka
) -> None:
    user, index = right
    lane = await open_lane(secured, **EVERYTHING)
    config = as_user(secured, lane, user)
    rights = rights_of(lane, user)
    removed = rights.pop(index)
    await grant_and_wait(lane, config, user, rights, {removed.name})
    command = COMMANDS[user].split()
    done = await asyncio.to_thread(vortex, *command, **variables(config))
    said = said_by(done, 3)
    assert f"{removed.operation} on {removed.kind} {removed.name} (" in said
    assert said.count(" on ") == 1
    for misleading in ("no topic", "cannot be reached", "create-topics"):
        assert misleading not in said


@pytest.mark.parametrize("index", slow_but([0, 1], range(len(documented("worker")))))
async def test_doctor_names_the_missing_right_of_a_worker(
    index: int, secured: SecuredKafka
) -> None:
    lane = await open_lane(secured, **EVERYTHING)
    config = as_user(secured, lane, "worker")
    rights = rights_of(lane, "worker")
    removed = rights.pop(index)
    await grant_and_wait(lane, config, "worker", rights, {removed.name})
    settings = WorkerConfig.load().model_copy(update={"kafka": config})
    with pytest.raises(MissingRightError, match=f"on {removed.kind} {removed.name} "):
        await asyncio.to_thread(doctor._kafka, settings)


async def test_topic_that_may_be_seen_but_not_written_is_told_as_a_missing_right(
    secured: SecuredKafka,
) -> None:
    """A user who also watches sees the topics; what is missing is `Write` all the same."""
    lane = await open_lane(secured, **EVERYTHING)
    config = as_user(secured, lane, "worker")
    results = lane.config.topics.results
    rights = [each for each in rights_of(lane, "worker") if each.name != results]
    rights.append(Grant("User:worker", "Read", "topic", results, "literal"))
    await grant_and_wait(lane, config, "worker", rights, {results})


async def test_topic_that_is_not_there_is_told_as_one_to_whoever_may_know(
    secured: SecuredKafka,
) -> None:
    lane = await open_lane(secured, **EVERYTHING)
    topics = lane.config.topics.model_copy(update={"ticks": f"{lane.config.topics.ticks}.later"})
    config = secured.config(lane.config.model_copy(update={"topics": topics}), "SCRAM")
    done = await asyncio.to_thread(vortex, "run", **variables(config))
    assert f"has no topic {topics.ticks}; create it" in said_by(done, 3)
