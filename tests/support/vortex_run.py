"""`vortex run` in a process of its own with a scripted engine, where one task may be broken.

Run as `python -m tests.support.vortex_run BROKEN`, with the configuration in the environment.
BROKEN is `nothing`, `poll`, `dispatcher`, `partition` or `start`. With `prediction` nothing is
broken, and the engine predicts half a second for each slot.
"""

from __future__ import annotations

import sys
from typing import Any

MESSAGE = "broken by the test"
COMMAND = (sys.executable, "-m", "tests.support.vortex_run")


async def _raise(*_: Any) -> None:
    raise RuntimeError(MESSAGE)


def _break(what: str) -> None:
    from consumer.cli import run
    from consumer.dispatcher import Dispatcher
    from consumer.kafka.partition import Partition
    from consumer.worker import Worker
    from tests.support.engines import ScriptedEngine

    engine = ScriptedEngine()
    match what:
        case "poll":
            Worker._poll = _raise  # type: ignore[method-assign]
        case "dispatcher":
            Dispatcher.run = _raise  # type: ignore[method-assign]
        case "partition":
            Partition.run = _raise  # type: ignore[method-assign]
        case "prediction":
            engine.predicted_s = 0.5
        case "start":
            engine.start_error = RuntimeError(MESSAGE)
    run.make_engine = lambda _: engine  # type: ignore[assignment, misc]


if __name__ == "__main__":
    from consumer.cli import main

    broken = sys.argv.pop(1)
    sys.argv.append("run")
    _break(broken)
    main()
