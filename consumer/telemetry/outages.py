"""Outages of an exporter, each logged once when it begins and once when it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from consumer.telemetry.redaction import shorten

_logger = logging.getLogger(__name__)

_reports: ContextVar[list[str] | None] = ContextVar("export_reports", default=None)


class Outage:
    """Tells of the failures of one exporter; the OTLP exporters log every retry of every batch."""

    def __init__(self, what: str, unit: str, exporter: str) -> None:
        """Set up for what an exporter exports.

        Args:
            what: begins the messages, such as `Trace`.
            unit: what is lost, such as `spans`.
            exporter: its name in the log.
        """
        self._what = what
        self._unit = unit
        self._exporter = exporter
        self._lost = 0

    @contextmanager
    def collecting(self) -> Iterator[list[str]]:
        """Collect in a list what the OTLP exporters would log during one export."""
        reports: list[str] = []
        token = _reports.set(reports)
        try:
            yield reports
        finally:
            _reports.reset(token)

    def note(self, succeeded: bool, count: int, reports: list[str]) -> None:
        """Record how one export ended."""
        if succeeded:
            if self._lost:
                fields = {"exporter": self._exporter, f"lost_{self._unit}": self._lost}
                _logger.info("%s export recovered", self._what, extra=fields)
            self._lost = 0
            return
        if not self._lost:
            # The first report names the cause, later ones that retries are used up.
            reason = shorten(reports[0]) if reports else "unknown"
            fields = {"exporter": self._exporter, "reason": reason}
            _logger.warning(
                "%s export failing, %s are dropped", self._what, self._unit, extra=fields
            )
        self._lost += count


def collect_reports_of(module: str) -> None:
    """Have what a module logs during an export collected, instead of logged."""
    logging.getLogger(module).addFilter(_collect_report)


def _collect_report(record: logging.LogRecord) -> bool:
    reports = _reports.get()
    if reports is None:
        return True
    reports.append(record.getMessage())
    return False
