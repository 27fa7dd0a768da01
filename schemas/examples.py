"""Example events, as typed objects; `generate` writes them next to the JSON Schemas."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.events import (
    Artifact,
    Breakdown,
    DeadlineMissed,
    HandedOver,
    LargestSlot,
    Loudness,
    MissReason,
    ProgressStep,
    Provenance,
    Quality,
    SlotCancel,
    SlotComplete,
    SlotProgress,
    SlotTick,
    SpokenScript,
    Stage,
    TickSource,
    Verification,
    WorkerAnnouncement,
    WorkerInfo,
)
from schemas.recipe import (
    AudioTrack,
    ContractModel,
    Emotion,
    Expression,
    Recipe,
    SemanticConstraints,
    SlotParams,
    VisualTrack,
    recipe_sha256,
)

_EMITTED = datetime(2026, 11, 23, 20, 15, 0, tzinfo=UTC)
_DEADLINE = _EMITTED + timedelta(seconds=45)
# Small enough for a worker without a GPU.
_FORMAT = SlotParams(duration_sec=6.0, fps=12, resolution="128x128")
_WORKER = WorkerInfo(id="worker-7f9c", version="0.1.0")
_SOURCE = TickSource(topic="slot.ticks", partition=3, offset=1842)


def example_events() -> dict[str, ContractModel]:
    """Return every example by the name of its file."""
    return {
        "slot-tick.minimal": _minimal_tick(),
        "slot-tick.full": _full_tick(),
        "slot-complete": _complete(),
        "slot-progress": _progress(),
        "worker-announcement": WorkerAnnouncement(
            worker=_WORKER,
            at=_EMITTED,
            free_in_s=7.4,
            usual_slot_s=11.8,
            load=0.83,
            profile="production",
            handover_partitions=(2, 3),
            largest_slot=LargestSlot(speech_s=45.0, frames=2150),
        ),
        "deadline-missed.handed-over": _missed(
            MissReason.PREDICTED,
            None,
            "4.210 s are left, and the slot needs 5.400 s; worker-1a2b handed it over: the plan has"
            " no room for it",
            Breakdown(queue_ms=40_790.0, total_ms=40_790.0),
            decided_after_s=40.79,
        ).model_copy(
            update={
                "handed_over": HandedOver(worker="worker-1a2b", at=_EMITTED + timedelta(seconds=12))
            }
        ),
        "slot-progress.ended": _progress(ended_at=_EMITTED + timedelta(seconds=2.3)),
        "deadline-missed.expired": _missed(
            MissReason.EXPIRED,
            None,
            "the deadline had passed 5.012 s before the tick arrived",
            Breakdown(queue_ms=0.6, total_ms=0.6),
            decided_after_s=50.0,
        ),
        "deadline-missed.timeout": _missed(
            MissReason.TIMEOUT,
            Stage.VIDEO,
            "stage video went over its time limit",
            Breakdown(
                queue_ms=12.4, audio_ms=1204.1, image_ms=810.7, video_ms=20_003.2, total_ms=21_241.9
            ),
            decided_after_s=21.3,
        ),
        "deadline-missed.rejected": _missed(
            MissReason.REJECTED,
            Stage.CLIP,
            "the self-check failed with 2 of at most 4 seeds",
            Breakdown(
                queue_ms=8.0,
                audio_ms=1311.9,
                image_ms=799.5,
                video_ms=9120.4,
                clip_ms=61.3,
                total_ms=10_511.8,
            ),
            decided_after_s=41.0,
        ),
        "deadline-missed.cancelled": _cancelled(),
        "slot-cancel": SlotCancel(slot_id=12345, reason="the show was dropped"),
    }


def _cancelled() -> DeadlineMissed:
    event = _missed(
        MissReason.PREDICTED,
        Stage.VIDEO,
        "cancelled by an operator: the show was dropped",
        Breakdown(queue_ms=12.4, audio_ms=1204.1, image_ms=810.7, total_ms=3_120.0),
        decided_after_s=3.2,
    )
    return event.model_copy(update={"cancelled": True})


def _minimal_tick() -> SlotTick:
    return SlotTick(
        slot_id=12345,
        deadline=_DEADLINE,
        recipe=Recipe(
            slot_params=_FORMAT,
            audio_track=AudioTrack(script="Good evening. Here is the news."),
            visual_track=VisualTrack(prompt="A news presenter with red hair and a green coat"),
        ),
    )


def _full_tick() -> SlotTick:
    return SlotTick(
        slot_id=12345,
        channel="main",
        deadline=_DEADLINE,
        emitted_at=_EMITTED,
        recipe=Recipe(
            recipe_id="news-at-nine",
            slot_params=_FORMAT,
            audio_track=AudioTrack(
                script="Good evening. Here is the news.",
                voice_id="default",
                speed=1.05,
                emotion=Emotion.EXCITED,
            ),
            visual_track=VisualTrack(
                prompt="A news presenter with red hair and a green coat",
                negative_prompt="text, watermark",
                expression_sequence=(Expression.NEUTRAL, Expression.EXCITED),
            ),
            semantic_constraints=SemanticConstraints(
                min_clip_score=0.75,
                banned_concepts=("a weapon",),
                required_concepts=("a face",),
                max_seeds=2,
            ),
            seed=42,
        ),
    )


def _complete() -> SlotComplete:
    decided = _EMITTED + timedelta(seconds=6)
    return SlotComplete(
        slot_id=12345,
        channel="main",
        source=_SOURCE,
        deadline=_DEADLINE,
        decided_at=decided,
        slack_ms=(_DEADLINE - decided).total_seconds() * 1000,
        breakdown=Breakdown(
            queue_ms=8.2,
            audio_ms=1284.0,
            image_ms=807.3,
            video_ms=4_140.6,
            clip_ms=58.9,
            encode_ms=103.4,
            store_ms=12.7,
            total_ms=5_612.0,
        ),
        verification=Verification(
            score_clip_b=0.78,
            score_clip_l=0.81,
            cosine_clip_b=0.312,
            cosine_clip_l=0.324,
            ensemble_score=0.798,
            self_check_passed=True,
            verdict="passed",
            enforced=True,
            outlier_detected=False,
            embedding=(1.0, *([0.0] * 511)),
        ),
        artifact=Artifact(
            uri="s3://slots/main/12345.mp4",
            bytes=118_311,
            sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            duration_s=_FORMAT.duration_sec,
            width=_FORMAT.width,
            height=_FORMAT.height,
            fps=_FORMAT.fps,
            captions_uri="s3://slots/main/12345.vtt",
            loudness=Loudness(integrated_lufs=-23.1, true_peak_dbtp=-4.7),
            watermark_id="b9c613f8",
        ),
        speech=SpokenScript(
            spoken="Good evening. Here is the news.",
            cut=False,
            duration_s=2.325,
            voice_id="af_heart",
        ),
        quality=Quality(frames_computed=72, frames_total=72, steps=4, rung="full"),
        seed=42,
        models={"flux": "895c0f6ae314", "kokoro": "2b70aa7ebb44"},
        worker=_WORKER,
        provenance=Provenance(
            recipe_sha256=recipe_sha256(_full_tick().recipe),
            media_sha256="60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
            manifest_sha256="fd61a03af4f77d870fc21e05e7e80678095c92d808cfb3b5c279ee04c74aca13",
        ),
    )


def _progress(ended_at: datetime | None = None) -> SlotProgress:
    started = _EMITTED + timedelta(seconds=1)
    return SlotProgress(
        slot_id=12345,
        channel="main",
        source=_SOURCE,
        deadline=_DEADLINE,
        at=started,
        step=ProgressStep.STAGE_STARTED,
        stage=Stage.AUDIO,
        ended_at=ended_at,
        predicted_s=5.4,
        predicted_finish=started + timedelta(seconds=5.4),
        rung="half",
        rung_reason="rung full needs 9.31 s, and 8.20 s were left",
        worker=_WORKER,
    )


def _missed(
    reason: MissReason,
    stage: Stage | None,
    detail: str,
    breakdown: Breakdown,
    *,
    decided_after_s: float,
) -> DeadlineMissed:
    decided = _EMITTED + timedelta(seconds=decided_after_s)
    return DeadlineMissed(
        slot_id=12345,
        channel="main",
        source=_SOURCE,
        deadline=_DEADLINE,
        decided_at=decided,
        slack_ms=(_DEADLINE - decided).total_seconds() * 1000,
        reason=reason,
        stage=stage,
        detail=detail,
        breakdown=breakdown,
        worker=_WORKER,
        slate_uri="s3://slots/slates/main.mp4",
    )
