"""`vortex cancel`: order that a slot is not made."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from pydantic import ValidationError

from consumer.cli.common import EXIT_USAGE, ConfigOption, console, fail, load_config
from consumer.config import KafkaConfig
from consumer.kafka.access import OPERATOR, ask_for_access, require_topics
from consumer.kafka.clients import connecting, make_plain_producer
from schemas import SlotCancel
from schemas.describe import describe_validation_error

CLIENT_ID = "vortex-cancel"


def cancel(
    channel: Annotated[str, typer.Argument(help="The slot's channel.")],
    slot_id: Annotated[int, typer.Argument(help="The slot's number.")],
    reason: Annotated[str, typer.Option(help="Why; comes in the outcome's detail.")] = "",
    config: ConfigOption = None,
) -> None:
    """Have a slot that waits or is being made answered as deadline-missed, with `cancelled`.

    The order is written to kafka.topics.control, which every worker reads. It concerns all ticks
    for the slot that were written before it, also those that are read up to ten minutes later. A
    tick that has its outcome keeps it. `vortex watch` shows what came of it.

    Example: `vortex cancel main 12345 --reason "the show was dropped"`
    """
    settings = load_config(config)
    topic = settings.kafka.topics.control
    if topic is None:
        fail("kafka.topics.control is null; name a topic, for the workers and here", EXIT_USAGE)
    try:
        order = SlotCancel(channel=channel, slot_id=slot_id, reason=reason)
    except ValidationError as error:
        fail(describe_validation_error(error), EXIT_USAGE)
    asyncio.run(_write(settings.kafka, topic, order))
    console.print(f"ordered: {channel}/{slot_id} is not made", highlight=False, markup=False)


async def _write(kafka: KafkaConfig, topic: str, order: SlotCancel) -> None:
    require_topics(kafka, await ask_for_access(kafka, OPERATOR, client_id=CLIENT_ID))
    producer = make_plain_producer(kafka, client_id=CLIENT_ID)
    try:
        with connecting():
            await producer.start()
        await producer.send_and_wait(
            topic,
            order.model_dump_json().encode(),
            key=str(order.slot_id).encode(),
            headers=[("content-type", b"application/json")],
        )
    finally:
        await producer.stop()
