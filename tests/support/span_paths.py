"""Where the spans of a trace hang."""

from __future__ import annotations

from collections.abc import Iterable

from consumer.config import TopicsConfig
from consumer.telemetry.trace_file import SpanRecord

STAGES = ("audio", "image", "video", "clip", "encode", "store")


def paths(spans: Iterable[SpanRecord]) -> set[str]:
    """Return the names of each span and of all above it; a lost parent leaves a shorter path."""
    by_id = {span.span_id: span for span in spans}

    def path(span: SpanRecord) -> str:
        above = by_id.get(span.parent_span_id or "")
        return span.name if above is None else f"{path(above)} > {span.name}"

    return {path(span) for span in by_id.values()}


def paths_of_a_made_slot(topics: TopicsConfig) -> set[str]:
    """Return where the spans of a slot hang that was made at once, from its producer on."""
    sent = f"vortex tick > send {topics.ticks}"
    return {
        "vortex tick",
        sent,
        *(
            f"{sent} > process {topics.ticks}{below}"
            for below in (
                "",
                " > slot.queue",
                " > slot.make",
                *(f" > slot.make > slot.{stage}" for stage in STAGES),
                *(f" > slot.make > slot.{stage} > slot.{stage} attempt" for stage in STAGES[:4]),
                f" > send {topics.results}",
            )
        ),
    }
