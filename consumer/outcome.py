"""From what happened to a tick to the event that says so."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import StatusCode

from consumer.config import SlateConfig
from consumer.engine.base import EngineResult, SlotMade, SlotNotMade
from consumer.job import Decision, Job
from consumer.telemetry import semconv
from consumer.telemetry.redaction import shorten
from schemas import (
    Breakdown,
    DeadlineMissed,
    HandedOver,
    MissReason,
    SlotComplete,
    TickSource,
    WorkerInfo,
    outcome_json,
)
from vortex.utils.clock import now_s

MAX_DETAIL_CHARS = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutcomeWriter:
    """Writes the outcomes of one worker."""

    topic: str
    group_id: str
    worker: WorkerInfo
    slate: SlateConfig | None = None
    """What channels show instead of a missed slot."""

    def write(self, job: Job, result: EngineResult, started_s: float | None) -> Decision:
        """Decide the tick's outcome now, and return what is to be published.

        A slot that was made too late is a miss, whatever was made.

        Args:
            job: the tick.
            result: what came of it.
            started_s: monotonic second at which its work began; None if it never did.
        """
        decided_s = now_s()
        if isinstance(result, SlotMade) and decided_s >= job.deadline_s:
            detail = f"finished {decided_s - job.deadline_s:.3f} s after the deadline"
            result = SlotNotMade(MissReason.LATE, None, detail, result.times_ms)
        common = self._common(job, result.times_ms, started_s, decided_s)
        event: SlotComplete | DeadlineMissed
        if isinstance(result, SlotMade):
            event = SlotComplete(
                **common,
                verification=result.verification,
                artifact=result.artifact,
                quality=result.quality,
                seed=result.seed,
                models=dict(result.models),
                provenance=result.provenance,
                speech=result.speech,
            )
        else:
            detail = result.detail
            if job.hop is not None:
                detail = f"{detail}; {job.hop.worker} handed it over: {job.hop.why}"
            detail = detail[:MAX_DETAIL_CHARS]
            event = DeadlineMissed(
                **common,
                reason=result.reason,
                stage=result.stage,
                detail=detail,
                slate_uri=self._slate_uri(job.tick.channel),
                cancelled=result.cancelled,
            )
            job.span.set_attribute(semconv.SLOT_REASON, event.reason.value)
            job.span.set_attribute(semconv.ERROR_TYPE, event.reason.value)
            job.span.set_status(StatusCode.ERROR, shorten(event.detail))
        job.span.set_attribute(semconv.SLOT_OUTCOME, event.type)
        job.span.set_attribute(semconv.SLOT_DEADLINE_SLACK_MS, event.slack_ms)
        _log(job, event)
        return Decision(
            key=job.key,
            topic=self.topic,
            record_key=str(event.slot_id).encode(),
            value=outcome_json(event),
            headers=self._cloud_event_headers(event),
            span=job.span,
            context=job.context,
            outcome=event,
        )

    def _slate_uri(self, channel: str) -> str | None:
        if self.slate is None:
            return None
        return self.slate.channels.get(channel, self.slate.default)

    def _common(
        self, job: Job, times_ms: Mapping[str, float], started_s: float | None, decided_s: float
    ) -> dict[str, Any]:
        arrived_s = job.arrived_s
        queued_until_s = decided_s if started_s is None else started_s
        return {
            "slot_id": job.tick.slot_id,
            "channel": job.tick.channel,
            "source": TickSource(**job.source._asdict()),
            "handed_over": job.hop and HandedOver(worker=job.hop.worker, at=job.hop.at),
            "deadline": job.tick.deadline,
            "decided_at": job.arrival.to_wall(decided_s),
            "slack_ms": round((job.deadline_s - decided_s) * 1000, 3),
            "breakdown": Breakdown(
                queue_ms=round((queued_until_s - arrived_s) * 1000, 3),
                total_ms=round((decided_s - arrived_s) * 1000, 3),
                **{name: round(ms, 3) for name, ms in times_ms.items()},
            ),
            "worker": self.worker,
        }

    def _cloud_event_headers(self, event: SlotComplete | DeadlineMissed) -> list[tuple[str, bytes]]:
        source = event.source
        headers = {
            "ce_specversion": "1.0",
            "ce_id": f"{source.topic}-{source.partition}-{source.offset}",
            "ce_source": f"/vortex/{self.group_id}",
            "ce_type": f"vortex.{event.type}.v{event.schema_version}",
            "ce_time": event.decided_at.isoformat(),
            "ce_subject": f"{event.channel}/{event.slot_id}",
            "ce_dataschema": f"urn:vortex:schema:{event.type}:v{event.schema_version}",
            "content-type": "application/json",
        }
        return [(name, value.encode()) for name, value in headers.items()]


def _log(job: Job, event: SlotComplete | DeadlineMissed) -> None:
    """Write the one line of this outcome, under the tick's trace."""
    fields: dict[str, Any] = {
        "slot_id": event.slot_id,
        "channel": event.channel,
        **job.source._asdict(),
        "slack_ms": event.slack_ms,
        "total_ms": event.breakdown.total_ms,
    }
    with trace.use_span(job.span):
        if isinstance(event, SlotComplete):
            logger.info("Slot complete", extra=fields)
            return
        why = {"reason": event.reason.value, "stage": event.stage, "detail": shorten(event.detail)}
        if event.cancelled:  # as it was told to
            logger.info("Slot cancelled", extra=fields | why)
        else:
            logger.warning("Deadline missed", extra=fields | why)
