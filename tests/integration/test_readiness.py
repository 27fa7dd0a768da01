"""What keeps a worker from being ready, on a real Kafka."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal

import pytest

from consumer.worker import Worker
from tests.integration.conftest import MakeLane
from tests.integration.test_unreadable_records import emit_to
from tests.support.command_line import environment, kafka_variables
from tests.support.engines import ScriptedEngine
from tests.support.lane import TIMEOUT_S, tick
from tests.support.odd_records import flip_a_bit
from tests.support.shared_kafka import SharedKafka
from tests.support.vortex_run import COMMAND
from tests.support.waiting import until

pytestmark = pytest.mark.kafka


def problems(worker: Worker) -> dict[str, str]:
    return {name: problem for name, problem in worker.readiness().items() if problem is not None}


async def test_worker_is_ready_only_with_engine_group_claims_readable_ticks_and_store(
    kafka: SharedKafka, make_lane: MakeLane
) -> None:
    lane = await make_lane()
    engine = ScriptedEngine()
    engine.may_start.clear()
    store: list[str] = []
    worker = Worker(
        lane.config, engine, worker_id="a", store_problem=lambda: store[0] if store else None
    )
    assert problems(worker).keys() == {"engine", "group"}
    running = asyncio.create_task(worker.run())
    try:
        await until(lambda: engine.starts == 1)
        assert problems(worker).keys() == {"engine", "group"}
        engine.may_start.set()
        await until(lambda: not problems(worker))
        store.append("the disk is full")
        assert problems(worker) == {"store": "the disk is full"}
        store.clear()
        await emit_to(lane, 0, [tick(1)])
        await lane.outcomes(1, settle_s=0.0)
    finally:
        worker.request_stop()
        await asyncio.wait_for(running, TIMEOUT_S)
    assert "worker" in problems(worker)

    await emit_to(lane, 0, [tick(77_777_777)])
    flip_a_bit(kafka, lane.config.topics.ticks, 0, b"77777777")
    async with lane.worker(ScriptedEngine(), "b") as worker:
        await until(lambda: "reading" in problems(worker))
        said = problems(worker)["reading"]
        assert said.startswith(f"{lane.config.topics.ticks}/0 at offset 1: ")
        flip_a_bit(kafka, lane.config.topics.ticks, 0, b"67777777")
        await until(lambda: not problems(worker))


async def test_member_without_a_partition_is_ready(make_lane: MakeLane) -> None:
    lane = await make_lane(partitions=1)
    async with (
        lane.worker(ScriptedEngine(), "a") as first,
        lane.worker(ScriptedEngine(), "b") as second,
    ):
        await until(lambda: not problems(first) and not problems(second))


async def test_run_command_serves_health(make_lane: MakeLane, unused_tcp_port: int) -> None:
    lane = await make_lane()
    address = f"127.0.0.1:{unused_tcp_port}"
    variables = {**kafka_variables(lane.config), "VORTEX__HEALTH__ADDRESS": address}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "nothing", stderr=asyncio.subprocess.DEVNULL, env=environment(**variables)
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status, body = 0, ""
            while status != 200:
                assert process.returncode is None
                status, body = await asyncio.to_thread(ready, address)
                assert status in (0, 200) or json.loads(body)["problems"]
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def ready(address: str) -> tuple[int, str]:
    """Return status and body of /ready; 0 while nobody listens."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except ConnectionRefusedError:
        return 0, ""
    finally:
        connection.close()
