"""aiokafka's clients, as the configuration says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from consumer.config import KafkaConfig
from consumer.kafka.refusals import explain
from consumer.kafka.security import security_arguments

MAX_RECORD_BYTES = 4 * 1024 * 1024
"""Largest record that is handed to a broker; the topic's own limit is usually lower."""

MAX_BATCH_BYTES = 16 * 1024
"""Records of one topic partition travel together up to this size; a larger one travels alone."""

BROKER_TIMEOUT_S = 5.0
"""Longest wait for one broker's answer, where nothing needs longer (joining a group does).

It bounds what a broker that hangs costs claims and outcomes that could turn to another one.
"""

_aiokafka_logger = logging.getLogger("aiokafka")


class KafkaUnreachableError(Exception):
    """No broker lets us in; the message is one line with the reason and what to do."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        """Say what is wrong, and whether retrying cannot help, as with a wrong password."""
        super().__init__(message)
        self.permanent = permanent


@contextmanager
def connecting() -> Iterator[None]:
    """Turn a client's failure to start into one clear error.

    aiokafka logs why each address failed and raises an error that does not say it.

    Raises:
        KafkaUnreachableError: instead of what the client raised.
    """
    reasons: list[str] = []
    causes: list[object] = []

    def collect(record: logging.LogRecord) -> bool:
        reasons.append(record.getMessage())
        causes.extend(record.args if isinstance(record.args, tuple) else ())
        return False

    _aiokafka_logger.addFilter(collect)
    try:
        yield
    except (KafkaError, OSError) as error:
        reason = reasons[-1] if reasons else str(error)
        if isinstance(error, TimeoutError) and not reason:
            reason = "the brokers did not answer in time"
        if found := explain([error, *causes]):
            refusal, cause = found
            told = str(cause) or type(cause).__name__
            raise KafkaUnreachableError(
                f"{refusal.what}: {reason if told in reason else f'{reason} ({told})'};"
                f" {refusal.advice}",
                permanent=refusal.permanent,
            ) from error
        raise KafkaUnreachableError(
            f"Kafka cannot be reached: {reason}; is it running (`vortex kafka start`), and are"
            " kafka.bootstrap_servers and kafka.security right?"
        ) from error
    finally:
        _aiokafka_logger.removeFilter(collect)


def background_tasks(consumer: AIOKafkaConsumer) -> list[asyncio.Task[None]]:
    """Return the tasks without which a started consumer goes on in vain, each with a name.

    Nothing public tells that one has ended: polls then find nothing, or raise forever.
    """
    tasks: dict[str, asyncio.Task[None]] = {
        "aiokafka's fetcher": consumer._fetcher._fetch_task,
        "aiokafka's coordinator": consumer._coordinator._coordination_task,
        "aiokafka's metadata": consumer._client._sync_task,
    }
    for name, task in tasks.items():
        task.set_name(name)
    return list(tasks.values())


class _UnclaimedAtFirst(SubscriptionState):  # type: ignore[misc] # aiokafka ships no types
    """The group's assignment, every partition of which is paused at first and has a position.

    aiokafka's fetcher looks up the committed offset of any partition without a position, paused or
    not. If there is none, it keeps an error for the next poll. Its lookups are one for each leader
    at a time, not one for each partition: if the partition's leader changes while the group's
    coordinator keeps it waiting, there are two. They end together, and the second stumbles over the
    error that the first has kept (the assertion of `Fetcher._set_error`), which ends the fetcher.
    It also takes a coordinator's refusal to answer for an answer that nothing is committed.

    With a position there is no lookup. Its value does not matter: nothing is fetched from
    a paused partition, no position is ever committed, and the claim seeks.
    """

    def assign_from_subscribed(self, assignment: set[TopicPartition]) -> None:
        super().assign_from_subscribed(assignment)
        for partition in assignment:
            self.pause(partition)
            self.seek(partition, 0)


def make_consumer(config: KafkaConfig, *, client_id: str) -> AIOKafkaConsumer:
    """Return a consumer of ticks, not yet started.

    It commits nothing by itself, and reads no partition before that has been sought and resumed.
    """
    consumer = AIOKafkaConsumer(
        **_connection(config, client_id, config.request_timeout_s),
        group_id=config.group_id,
        group_instance_id=config.group_instance_id,
        enable_auto_commit=False,
        # Every claim seeks. A position outside the log is an error, rather than moved silently.
        auto_offset_reset="none",
        isolation_level="read_committed",
        # One assignor, or workers of mixed versions cannot agree on any.
        partition_assignment_strategy=[RangePartitionAssignor],
        session_timeout_ms=_ms(config.session_timeout_s),
        heartbeat_interval_ms=_ms(min(3.0, config.session_timeout_s / 4)),
        rebalance_timeout_ms=_ms(config.rebalance_timeout_s),
        metadata_max_age_ms=30_000,
    )
    consumer._subscription = _UnclaimedAtFirst()
    return consumer


def make_producer(
    config: KafkaConfig, *, client_id: str, transactional_id: str
) -> AIOKafkaProducer:
    """Return a transactional producer, not yet started."""
    return AIOKafkaProducer(
        **_connection(config, client_id),
        transactional_id=transactional_id,
        transaction_timeout_ms=_ms(config.transaction_timeout_s),
        acks="all",
        max_batch_size=MAX_BATCH_BYTES,
        max_request_size=MAX_RECORD_BYTES,
    )


def make_plain_producer(
    config: KafkaConfig, *, client_id: str, idempotent: bool = True
) -> AIOKafkaProducer:
    """Return a producer without transactions, not yet started.

    Args:
        config: brokers and security.
        client_id: names it at the brokers.
        idempotent: has a retried write stored once; some brokers without transactions cannot.
    """
    return AIOKafkaProducer(
        # Without transactions what is not written within this time is given up.
        **_connection(config, client_id, config.request_timeout_s),
        enable_idempotence=idempotent,
        acks="all",
        max_request_size=MAX_RECORD_BYTES,
    )


def make_reader(config: KafkaConfig, *topics: str, client_id: str) -> AIOKafkaConsumer:
    """Return a consumer without a group that sees committed records alone, not yet started."""
    return AIOKafkaConsumer(
        *topics,
        **_connection(config, client_id),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and close all connections.

    aiokafka's `stop` raises `CancelledError`, though nobody has cancelled it, where it ends a fetch
    that waits to be tried again; its connections are still open then.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    try:
        await asyncio.wait({stopping})
    except asyncio.CancelledError:
        stopping.cancel()
        raise
    if stopping.cancelled():
        await consumer._client.close()
    else:
        stopping.result()


def make_admin(config: KafkaConfig, *, client_id: str) -> AIOKafkaAdminClient:
    """Return an admin client, not yet started."""
    return AIOKafkaAdminClient(**_connection(config, client_id, config.request_timeout_s))


def _connection(
    config: KafkaConfig, client_id: str, timeout_s: float = BROKER_TIMEOUT_S
) -> dict[str, Any]:
    return {
        "bootstrap_servers": config.bootstrap_servers,
        "client_id": client_id,
        "request_timeout_ms": _ms(min(timeout_s, config.request_timeout_s)),
        **security_arguments(config.security),
    }


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
