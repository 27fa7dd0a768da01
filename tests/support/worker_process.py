"""A worker in a process of its own, which a test may kill.

Run as `python -m tests.support.worker_process WORKER_ID SECONDS_PER_SLOT < kafka-section.json`.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from consumer.config import KafkaConfig
from consumer.worker import Worker
from tests.support.engines import Script, ScriptedEngine

END_TIMEOUT_S = 30.0


@contextmanager
def worker_process(
    config: KafkaConfig, worker_id: str, seconds: float
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker until the end of the context; killed there if it runs still."""
    command = [sys.executable, "-m", "tests.support.worker_process", worker_id, str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin
            assert process.stdout
            process.stdin.write(config.model_dump_json().encode())
            process.stdin.close()
            assert process.stdout.readline() == b"running\n"
            yield process
        finally:
            process.kill()
            process.wait(END_TIMEOUT_S)


async def _serve(config: KafkaConfig, worker_id: str, seconds: float) -> None:
    worker = Worker(config, ScriptedEngine(default=Script(work_s=seconds)), worker_id=worker_id)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.request_stop)
    print("running", flush=True)
    await worker.run()


if __name__ == "__main__":
    kafka = KafkaConfig.model_validate_json(sys.stdin.buffer.read())
    asyncio.run(_serve(kafka, sys.argv[1], float(sys.argv[2])))
