"""The rights that docs/security.md lists, granted to users of a test's cluster."""

from __future__ import annotations

import argparse
import asyncio
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aiokafka.protocol.admin import CreateAclsRequest, DescribeAclsRequest

from consumer.config import KafkaConfig
from consumer.kafka.clients import make_admin

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
_RESOURCES = {"topic": 2, "group": 3, "transactional-id": 5}
_PATTERNS = {"literal": 3, "prefixed": 4}
_OPERATIONS = {"Read": 3, "Write": 4}
_ALLOW = 3
_FOLLOWED_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Grant:
    """One line of the document."""

    principal: str
    operation: str
    kind: str
    name: str
    pattern: str

    def renamed(self, names: Mapping[str, str]) -> Grant:
        """Return the right on a test's own resource."""
        return replace(self, name=names[self.name])


def documented(user: str) -> list[Grant]:
    """Return what the document grants to a user."""
    lines = re.findall(r"^kafka-acls\.sh (.+)$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    grants = [_parse(shlex.split(line)) for line in lines]
    return [grant for grant in grants if grant.principal == f"User:{user}"]


def names_of(config: KafkaConfig) -> dict[str, str]:
    """Return a lane's names for those of the document."""
    topics = config.topics
    if topics.handover is None or topics.workers is None:
        raise ValueError("topics: the document's rights are those of a worker with handover")
    return {
        "slot.ticks": topics.ticks,
        "slot.results": topics.results,
        "slot.dead-letter": topics.dead_letter,
        "slot.control": str(topics.control),
        "slot.handover": str(topics.handover),
        "slot.workers": str(topics.workers),
        "vortex": config.group_id,
        "vortex/slot.ticks/": f"{config.group_id}/{topics.ticks}/",
        "vortex/slot.handover/": f"{config.group_id}/{topics.handover}/",
    }


async def grant(config: KafkaConfig, rights: Sequence[Grant]) -> None:
    """Create access lists, as a client that may, and wait until the broker follows them."""
    admin = make_admin(config, client_id="test")
    try:
        await admin.start()
        for right in rights:
            rule = (
                _RESOURCES[right.kind],
                right.name,
                _PATTERNS[right.pattern],
                right.principal,
                "*",
                _OPERATIONS[right.operation],
                _ALLOW,
            )
            answer = await admin._send_request(CreateAclsRequest(*rule))
            assert [code for code, _ in answer.creation_responses] == [0]
            # The answer comes from the controller; the broker hears of it a moment later.
            async with asyncio.timeout(_FOLLOWED_TIMEOUT_S):
                while not (await admin._send_request(DescribeAclsRequest(*rule))).resources:
                    await asyncio.sleep(0.02)
    finally:
        await admin.close()


def _parse(words: Sequence[str]) -> Grant:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    parser.add_argument("admin")
    parser.add_argument("--add", action="store_true", required=True)
    parser.add_argument("--allow-principal", required=True)
    parser.add_argument("--operation", choices=_OPERATIONS, required=True)
    parser.add_argument("--resource-pattern-type", choices=_PATTERNS, default="literal")
    for kind in _RESOURCES:
        parser.add_argument(f"--{kind}")
    found = parser.parse_args(words)
    ((kind, name),) = (
        (kind, value) for kind in _RESOURCES if (value := vars(found)[kind.replace("-", "_")])
    )
    return Grant(found.allow_principal, found.operation, kind, name, found.resource_pattern_type)
