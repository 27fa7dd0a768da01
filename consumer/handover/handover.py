"""One worker's part in handing slots over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from opentelemetry import trace

from consumer.config import KafkaConfig
from consumer.handover.announcing import Announcing, Standing
from consumer.handover.hop import hand_over
from consumer.handover.neighbours import Neighbours
from consumer.job import Decision, Hop, Job
from consumer.telemetry import semconv
from schemas import AudioTrack, Recipe, VisualTrack, WorkerInfo
from vortex.orchestration.estimates import SPOKEN_CHARACTERS_PER_S, work_units
from vortex.rung import Rung
from vortex.utils.clock import now_s

USUAL = Recipe(
    audio_track=AudioTrack(script="x" * round(45 * SPOKEN_CHARACTERS_PER_S)),
    visual_track=VisualTrack(prompt="x"),
)
"""A slot of the default length and format: how long it takes tells how fast a machine is."""

logger = logging.getLogger(__name__)


class Handover:
    """Offers slots to other workers, and tells them how this one stands."""

    def __init__(
        self, config: KafkaConfig, worker: WorkerInfo, profile: str, look: Callable[[], Standing]
    ) -> None:
        """Know nobody yet; `run` speaks and listens.

        Args:
            config: brokers and topics, with those of handover.
            worker: how this one names itself.
            profile: of its models.
            look: returns how it stands.
        """
        if config.topics.handover is None:
            raise ValueError("topics.handover: needs a topic to hand over on, got null")
        self._topic = config.topics.handover
        self._worker_id = worker.id
        self._announcing = Announcing(config, worker, profile, look)
        self._neighbours = Neighbours(worker.id, profile, self._announcing.heard)

    def note_change(self) -> None:
        """Say soon how this worker stands: something has happened."""
        self._announcing.note_change()

    async def run(self) -> None:
        """Speak and listen until cancelled."""
        await self._announcing.run()

    def offer(
        self,
        job: Job,
        seconds: float,
        spare_s: float,
        usual_s: float,
        rung: Rung,
        why: str,
        miss: Callable[[], Decision],
    ) -> Decision | None:
        """Return the decision to hand a slot over; None if nobody could make it in time.

        Args:
            job: the slot, with its record.
            seconds: that it would take here.
            spare_s: that the other worker must have left before the deadline.
            usual_s: that a usual slot takes here; 0 if not known.
            rung: the lowest at which it may be made.
            why: it is not made here.
            miss: makes the outcome of a slot whose record the topic does not take.
        """
        latest_s, work = job.deadline_s - spare_s, work_units(job.recipe, rung)
        chosen = self._neighbours.choose(seconds, usual_s, latest_s, now_s(), work)
        if chosen is None:
            return None
        hop = Hop(
            source=job.source,
            worker=self._worker_id,
            at=datetime.now(UTC),
            why=why,
            arrived=job.arrival.wall,
            written_ms=job.written_ms,
        )
        with trace.use_span(job.span):
            logger.info(
                "Slot handed over",
                extra={
                    "slot_id": job.tick.slot_id,
                    **job.key._asdict(),
                    "to": chosen.worker_id,
                    "detail": why,
                    "deadline_s": round(job.deadline_s - now_s(), 3),
                },
            )
        job.span.set_attribute(semconv.SLOT_OUTCOME, semconv.HANDED_OVER)
        partition = self._neighbours.partition_of(chosen)
        return hand_over(job, hop, topic=self._topic, partition=partition, instead=miss)
