"""The engine that a worker's settings ask for."""

from __future__ import annotations

import importlib.util

from consumer.config import WorkerConfig
from consumer.engine.base import Engine


def make_engine(settings: WorkerConfig) -> Engine:
    """Return an engine that is not started yet.

    Raises:
        ModuleNotFoundError: the extra `pipeline` is not installed.
    """
    # The process would miss it only when it starts, after the worker has reached Kafka.
    if importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    if settings.engine.host == "process":
        from consumer.engine.process import ProcessEngine

        return ProcessEngine(settings)
    from consumer.engine.inline import InlineEngine

    return InlineEngine(settings)
