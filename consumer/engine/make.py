"""The engine that a worker's settings ask for."""

from __future__ import annotations

from consumer.config import WorkerConfig
from consumer.engine.base import Engine


def make_engine(settings: WorkerConfig) -> Engine:
    """Return an engine that is not started yet.

    Raises:
        ModuleNotFoundError: the extra `pipeline` is not installed.
    """
    if settings.engine.host == "process":
        from consumer.engine.process import ProcessEngine

        return ProcessEngine(settings)
    from consumer.engine.inline import InlineEngine

    return InlineEngine(settings)
