"""An engine that makes no videos: it answers as it was ordered to, and stores a small real file."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consumer.artifacts.media import EncodedMedia
from consumer.artifacts.store import ArtifactStore
from consumer.engine.base import (
    EngineResult,
    OnStage,
    SlotMade,
    SlotNotMade,
    SlotRequest,
    ignore_stage,
)
from consumer.testing.orders import Miss, Orders
from schemas import (
    Artifact,
    MissReason,
    Provenance,
    Quality,
    Recipe,
    Stage,
    Verification,
    recipe_sha256,
)
from vortex.rung import FULL, Rung
from vortex.utils.clock import now_s

VIDEO = Path(__file__).with_name("video.mp4")
"""A second of grey, 64x64, with silence."""
# So much after its deadline, a slot is late.
_LATE_S = 0.001
# How a slot's time is told to be spent; speech and portrait are made in parallel.
_SHARES = {
    Stage.AUDIO: 0.2,
    Stage.IMAGE: 0.15,
    Stage.VIDEO: 0.7,
    Stage.CLIP: 0.05,
    Stage.ENCODE: 0.03,
    Stage.STORE: 0.02,
}
_VERIFICATION = Verification(
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
)


class FakeEngine:
    """An `Engine` that follows a test's orders; slots of which they say nothing are completed.

    Its artifacts are files whose size and checksum are those in the event. What they show is
    always the same, whatever length and size the event names after the recipe.
    """

    def __init__(self, orders: Orders, videos: str) -> None:
        """Be down.

        Args:
            orders: what becomes of which slot.
            videos: a directory or fsspec URL to store the files in.
        """
        self._orders = orders
        self._store = ArtifactStore(videos)
        self._up = False

    @property
    def ready(self) -> bool:
        """Whether it is started."""
        return self._up

    async def start(self) -> None:
        """Be ready at once."""
        self._up = True

    async def run(self, request: SlotRequest, on_stage: OnStage = ignore_stage) -> EngineResult:
        """Do what was ordered for the slot; one that would take too long is given up at once."""
        started_s = now_s()
        miss, work_s = self._orders.take(request)
        on_stage(Stage.AUDIO)
        left_s = request.deadline_s - started_s
        late = miss is not None and miss.reason is MissReason.LATE
        if late:
            work_s = max(work_s, left_s + _LATE_S)
        elif work_s > left_s:
            detail = f"the slot would take {work_s:.1f} s, and {left_s:.1f} s are left"
            miss, work_s = Miss(MissReason.PREDICTED, None, detail), 0.0
        on_stage(Stage.VIDEO)
        await asyncio.sleep(work_s)
        if miss is not None and not late:
            times_ms = _times_ms(now_s() - started_s, miss.stage)
            return SlotNotMade(miss.reason, miss.stage, miss.detail, times_ms)
        on_stage(Stage.STORE)
        made = await asyncio.to_thread(self._make, request)
        return SlotMade(
            **made,
            verification=_VERIFICATION,
            seed=request.seed,
            models={"fake": "1"},
            times_ms=_times_ms(now_s() - started_s, Stage.STORE),
        )

    async def speak_ahead(self, request: SlotRequest) -> None:
        """Do nothing: slots have no speech."""

    async def settle(self) -> None:
        """Do nothing: `run` returns when the slot's work has stopped."""

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """Return full quality alone."""
        return (FULL,)

    def predict_s(self, recipe: Recipe, rung: Rung = FULL) -> float | None:
        """Return the delay that was ordered for all slots."""
        return self._orders.usual_s

    def predict_rest_s(self, recipe: Recipe, rung: Rung, stage: Stage) -> float | None:
        """Return None: only `run` knows the slot's own orders."""
        return None

    @property
    def spread(self) -> float:
        """Return 0: predictions are exact."""
        return 0.0

    @property
    def overlap_room_s(self) -> float:
        """Return that slots do not overlap."""
        return math.inf

    def speech_room_s(self, recipe: Recipe) -> float:
        """Return that nothing is spoken ahead."""
        return math.inf

    def rule_out(self, recipe: Recipe) -> str | None:
        """Return None: every slot can be made."""
        return None

    def most_work(self) -> Mapping[str, float]:
        """Return nothing: the stages have no limits."""
        return {}

    @property
    def memory_bytes(self) -> int:
        """Return 0: there are no models."""
        return 0

    async def stop(self) -> None:
        """Be down."""
        self._up = False

    def _make(self, request: SlotRequest) -> dict[str, Any]:
        """Store the slot's file; return the parts of the event that it decides about. Blocks."""
        params = request.recipe.slot_params
        content = VIDEO.read_bytes() + _free_box(f"{request.channel}/{request.slot_id}")
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._store.scratch_path(request.channel, request.slot_id)
        path.write_bytes(content)
        media = EncodedMedia(
            path,
            len(content),
            sha256,
            duration_s=params.frame_count / params.fps,
            width=params.width,
            height=params.height,
            fps=params.fps,
        )
        stored = self._store.put(media, request.channel, request.slot_id)
        return {
            "artifact": Artifact(
                uri=stored.uri,
                bytes=stored.bytes,
                sha256=stored.sha256,
                duration_s=media.duration_s,
                width=media.width,
                height=media.height,
                fps=media.fps,
            ),
            "quality": Quality(
                frames_computed=params.frame_count,
                frames_total=params.frame_count,
                steps=4,
                rung=FULL.name,
            ),
            "provenance": Provenance(
                recipe_sha256=recipe_sha256(request.recipe),
                media_sha256=sha256,
                manifest_sha256=None,
            ),
        }


def _free_box(text: str) -> bytes:
    """Return a box that players of MP4 skip, so that each slot's file is its own."""
    payload = text.encode()
    return (8 + len(payload)).to_bytes(4, "big") + b"free" + payload


def _times_ms(seconds: float, last: Stage | None) -> dict[str, float]:
    """Return the milliseconds of each stage up to the last one; none where there was none."""
    if last is None:
        return {}
    stages = list(_SHARES)
    reached = stages[: stages.index(last) + 1]
    return {f"{stage}_ms": _SHARES[stage] * seconds * 1000 for stage in reached}
