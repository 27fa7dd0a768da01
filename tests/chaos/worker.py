"""A real worker, whose engine process stores files, in a process of its own.

Run as `python -m tests.chaos.worker WORKER_ID ARTIFACTS`. The first line of standard input is the
configuration's section `kafka` as JSON; its end is the end of the worker. Logs go to standard
error.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from consumer.config import KafkaConfig, WorkerConfig
from consumer.telemetry.logs import configure_logging
from consumer.worker import Worker
from tests.chaos.engine import ScriptedProcessEngine


async def _serve(config: KafkaConfig, worker_id: str, artifacts: str) -> None:
    settings = WorkerConfig.load()
    settings = settings.model_copy(
        update={"artifacts": settings.artifacts.model_copy(update={"url": artifacts})}
    )
    worker = Worker(config, ScriptedProcessEngine(settings), worker_id=worker_id)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.request_stop)

    def parent_is_gone() -> None:
        loop.remove_reader(sys.stdin.fileno())
        worker.request_stop()

    loop.add_reader(sys.stdin.fileno(), parent_is_gone)
    await worker.run()


if __name__ == "__main__":
    configure_logging("INFO", "json")
    kafka = KafkaConfig.model_validate_json(sys.stdin.buffer.readline())
    asyncio.run(_serve(kafka, sys.argv[1], sys.argv[2]))
