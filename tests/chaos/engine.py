"""An engine that does what the tick's script says, and stores a small real file."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from consumer.artifacts.media import EncodedMedia
from consumer.artifacts.store import ArtifactStore
from consumer.engine.base import EngineLostError, SlotMade, SlotNotMade, SlotRequest
from schemas import MissReason, Stage
from tests.support.engines import slot_made

MAX_ARTIFACT_BYTES = 64 * 1024


def script(seconds: float, ending: str = "made") -> str:
    """Return the text that has the engine work so long; `ending` is made, failed or lost."""
    return f"{seconds:.3f} {ending}"


class StoringEngine:
    """An `Engine`. The same slot with the same seed gives the same bytes."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def start(self) -> None:
        """Prove that the store can be written."""
        await asyncio.to_thread(self._store.check)

    async def run(self, request: SlotRequest) -> SlotMade | SlotNotMade:
        """Work, and store what the script asks for."""
        seconds, ending = _parse(request.recipe)
        await asyncio.sleep(seconds)
        if ending == "lost":
            raise EngineLostError("the tick's script says so")
        if ending == "failed":
            return SlotNotMade(MissReason.FAILED, Stage.VIDEO, "the tick's script says so", {})
        made = slot_made(request)
        stored = await asyncio.to_thread(self._put, request)
        return replace(made, artifact=made.artifact.model_copy(update=stored))

    def predict_s(self, recipe: Mapping[str, Any]) -> float | None:
        """Return what the script says."""
        return _parse(recipe)[0]

    def rule_out(self, recipe: Mapping[str, Any]) -> str | None:
        """Rule out nothing."""
        return None

    async def stop(self) -> None:
        """Have nothing to let go of."""

    def _put(self, request: SlotRequest) -> dict[str, Any]:
        random = Random(f"{request.channel}/{request.slot_id}/{request.seed}")
        content = random.randbytes(random.randint(1, MAX_ARTIFACT_BYTES))
        path = self._store.scratch_path(request.channel, request.slot_id)
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        media = EncodedMedia(path, len(content), sha256, duration_s=1, width=64, height=64, fps=4)
        stored = self._store.put(media, request.channel, request.slot_id)
        return {"uri": stored.uri, "bytes": stored.bytes, "sha256": stored.sha256}


def _parse(recipe: Mapping[str, Any]) -> tuple[float, str]:
    seconds, ending = recipe["audio_track"]["script"].split()
    return float(seconds), ending
