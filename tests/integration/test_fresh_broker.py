"""The log of a worker that is the first client of a broker: nobody is alarmed for nothing."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from consumer.embedded_kafka.cluster import EmbeddedKafka
from consumer.kafka.clients import make_admin, make_plain_producer
from consumer.kafka.topics import create_topics
from schemas import SlotComplete
from tests.support.command_line import environment, kafka_variables
from tests.support.lane import TIMEOUT_S, Lane, tick
from tests.support.vortex_run import COMMAND

pytestmark = pytest.mark.kafka

SLOTS = range(1, 4)


def trace_id_of(slot_id: int) -> str:
    return f"{slot_id:032x}"


async def emit(lane: Lane) -> None:
    """Write one batch of ticks, each from a producer's trace of its own."""
    producer = make_plain_producer(lane.config, client_id="test")
    await producer.start()
    try:
        batch = producer.create_batch()
        for slot_id in SLOTS:
            traceparent = f"00-{trace_id_of(slot_id)}-00000000000000aa-01".encode()
            written = batch.append(
                key=b"1",
                value=tick(slot_id).model_dump_json().encode(),
                timestamp=None,
                headers=[("traceparent", traceparent)],
            )
            assert written is not None
        sent = await producer.send_batch(batch, lane.config.topics.ticks, partition=0)
        await sent
    finally:
        await producer.stop()


async def test_first_worker_of_a_fresh_broker_logs_no_error_and_each_tick_under_its_own_trace(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    with EmbeddedKafka() as kafka:
        lane = Lane.of(kafka.bootstrap_servers, "ticks", "results", "dead-letter")
        await create_topics(
            make_admin(lane.config, client_id="test"), {"ticks": 2, "results": 1, "dead-letter": 1}
        )
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                "prediction",
                stderr=stream,
                env=environment(
                    **kafka_variables(lane.config),
                    VORTEX__TELEMETRY__EXPORTER="file",
                    VORTEX__TELEMETRY__FILE=str(tmp_path / "spans.jsonl"),
                ),
            )
        try:
            await emit(lane)
            results = await lane.outcomes(len(SLOTS))
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), TIMEOUT_S) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert all(isinstance(result, SlotComplete) for result in results)
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if line["level"] == "error"] == []
    received = {
        line["slot_id"]: line["trace_id"] for line in lines if line["event"] == "Tick received"
    }
    assert received == {slot_id: trace_id_of(slot_id) for slot_id in SLOTS}
