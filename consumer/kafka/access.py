"""What a client may do: asked of the brokers before the work begins, so that a missing right is
told by name, and neither as a topic that is not there nor as silence."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    NoBrokersAvailable,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.transaction import EndTxnRequest
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from consumer.config import KafkaConfig
from consumer.kafka.clients import KafkaUnreachableError, connecting, make_admin

# Bits of a topic's authorized operations, as in Kafka's AclOperation.
_OPERATIONS = {"Read": 1 << 3, "Write": 1 << 4}


@dataclass(frozen=True)
class Role:
    """What a kind of client does with the topics, by their names in the configuration.

    A topic that is null there is not used.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    serves: bool = False
    """Whether it joins the group and publishes in transactions."""


WORKER = Role(
    reads=("ticks", "control", "handover", "workers"),
    writes=("results", "dead_letter", "handover", "workers"),
    serves=True,
)
PRODUCER = Role(writes=("ticks",))
WATCHER = Role(reads=("results", "dead_letter"))
CONTROL_ROOM = Role(reads=("ticks", "results", "dead_letter", "progress"))
OPERATOR = Role(writes=("control",))
SIZER = Role(reads=("ticks", "results"))


class MissingRightError(KafkaUnreachableError):
    """Kafka denies this client a right that it needs; the message names right and command."""

    def __init__(self, rights: Iterable[Right]) -> None:
        """Name all rights that are missing, in one line."""
        self.rights = tuple(rights)
        told = "; ".join(map(str, self.rights))
        super().__init__(
            f"Kafka denies this client a right: {told}; docs/security.md lists what each client"
            " needs",
            permanent=True,
        )


@dataclass(frozen=True)
class Right:
    """One operation on one resource, and the key of the configuration that names the resource."""

    operation: str
    kind: str
    """`topic`, `group` or `transactional-id`, as `kafka-acls` calls them."""
    name: str
    key: str

    def __str__(self) -> str:
        return f"{self.operation} on {self.kind} {self.name} ({self.key})"


async def require_access(client: AIOKafkaClient, config: KafkaConfig, role: Role) -> list[str]:
    """Check that a role's rights are there, and return which of its topics are not.

    Asks and changes nothing: neither group nor transactions notice it.

    Raises:
        MissingRightError: names every right that is missing.
        KafkaError: no broker answers.
    """
    denied, missing = await _check_topics(client, config, role)
    if role.serves:
        denied += [check.right for check in _worker_checks(config) if await check.denied(client)]
    if denied:
        raise MissingRightError(denied)
    return sorted(missing)


async def ask_for_access(config: KafkaConfig, role: Role, *, client_id: str) -> list[str]:
    """Do the same with a client of its own.

    Raises:
        KafkaUnreachableError: also if no broker answers.
    """
    admin = make_admin(config, client_id=client_id)
    try:
        with connecting():
            await admin.start()
            return await require_access(admin._client, config, role)
    finally:
        await admin.close()


def require_topics(config: KafkaConfig, missing: list[str]) -> None:
    """Raise `KafkaUnreachableError` if any topics are missing."""
    if missing:
        raise KafkaUnreachableError(
            f"Kafka at {config.bootstrap_servers} has no topic {', '.join(missing)};"
            " create it with `vortex kafka create-topics`"
        )


async def _check_topics(
    client: AIOKafkaClient, config: KafkaConfig, role: Role
) -> tuple[list[Right], list[str]]:
    """Return the rights that are missing, and the topics."""
    names: dict[str, str | None] = config.topics.model_dump()
    wanted: dict[str, list[Right]] = {}
    for operation, topics in (("Read", role.reads), ("Write", role.writes)):
        for key in topics:
            if (name := names[key]) is not None:
                right = Right(operation, "topic", name, f"kafka.topics.{key}")
                wanted.setdefault(name, []).append(right)
    answer = await _ask_any(client, _DescribeTopics(list(wanted)))
    denied, missing = [], []
    for topic in answer.to_object()["topics"]:
        error, rights = for_code(topic["error_code"]), wanted[topic["topic"]]
        allowed = topic["authorized_operations"]
        if error is UnknownTopicOrPartitionError:
            missing.append(topic["topic"])
        elif error is TopicAuthorizationFailedError:
            denied += rights
        else:
            denied += [right for right in rights if not allowed & _OPERATIONS[right.operation]]
    return denied, missing


async def _ask_any(client: AIOKafkaClient, request: Request) -> Any:
    """Ask the brokers by turns until one answers, since some may be down."""
    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    random.shuffle(nodes)
    failure: KafkaError = NoBrokersAvailable()
    for node in nodes:
        try:
            return await client.send(node, request)
        except KafkaError as error:
            failure = error
    raise failure


@dataclass(frozen=True)
class _Check:
    """A request that only a client with the right is told the truth about.

    It names a member, or a producer, that nobody is. With the right the answer is that there is
    no such one, without it that the right is missing.
    """

    coordinator: CoordinationType
    key: str
    request: Any  # of aiokafka
    denial: type[KafkaError]
    right: Right

    async def denied(self, client: AIOKafkaClient) -> bool:
        """Return whether the right is missing for certain."""
        try:
            node = await client.coordinator_lookup(self.coordinator, self.key)
            answer = await client.send(node, self.request)
        except KafkaError as error:  # a coordinator that is not there yet says nothing about rights
            return isinstance(error, self.denial)
        return for_code(answer.error_code) is self.denial


def _worker_checks(config: KafkaConfig) -> list[_Check]:
    group = config.group_id
    check_group = _Check(
        CoordinationType.GROUP,
        group,
        HeartbeatRequest(group, -1, ""),
        GroupAuthorizationFailedError,
        Right("Read", "group", group, "kafka.group_id"),
    )
    if config.delivery != "exactly-once":
        return [check_group]
    prefixes = [f"{group}/{topic}/" for topic in config.topics.inputs]
    return [check_group] + [
        _Check(
            CoordinationType.TRANSACTION,
            f"{prefix}0",
            EndTxnRequest(f"{prefix}0", -1, 0, transaction_result=False),
            TransactionalIdAuthorizationFailed,
            Right("Write", "transactional-id", prefix, "as a prefix, from group and topic"),
        )
        for prefix in prefixes
    ]


# aiokafka's own request ends at version 5; version 8 tells what a client may do with each topic.


class _TopicsDescribed(Response):  # type: ignore[misc] # aiokafka ships no types
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(
                ("node_id", Int32),
                ("host", String("utf-8")),
                ("port", Int32),
                ("rack", String("utf-8")),
            ),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _DescribeTopicsV8(RequestStruct):  # type: ignore[misc] # aiokafka ships no types
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _TopicsDescribed
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _DescribeTopics(Request[_DescribeTopicsV8]):  # type: ignore[misc] # aiokafka ships no types
    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_DescribeTopicsV8]) -> _DescribeTopicsV8:
        return request_struct_class(self._topics, False, False, True)
