"""An engine process that does what the tick's script says, and stores a small real file.

`python -m tests.chaos.maker` is what the worker starts, as it starts the real one. Two minutes
of chaos start it some eighty times, so it imports nothing that the worker alone needs.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from consumer.artifacts.media import EncodedMedia
from consumer.artifacts.store import ArtifactStore
from consumer.config import WorkerConfig
from consumer.engine.base import EngineLostError, EngineResult, SlotNotMade, SlotRequest
from consumer.engine.child import Maker, main
from schemas import MissReason, Recipe, Stage
from tests.support.engines import slot_made
from vortex.orchestration import StageEstimates
from vortex.slot import SlotListener

MAX_ARTIFACT_BYTES = 64 * 1024


def script(seconds: float, ending: str = "made") -> str:
    """Return the text that has the engine work so long; `ending` is made, failed or lost."""
    return f"{seconds:.3f} {ending}"


def read_script(recipe: Recipe) -> tuple[float, str]:
    """Return seconds and ending of a recipe whose text is such a script."""
    seconds, ending = recipe.audio_track.script.split()
    return float(seconds), ending


class StoringMaker:
    """What the process hosts. The same slot with the same seed gives the same bytes."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def make(self, request: SlotRequest, listener: SlotListener) -> EngineResult:
        """Work, and store what the script asks for."""
        seconds, ending = read_script(request.recipe)
        listener.step_began("video")
        await asyncio.sleep(seconds)
        if ending == "lost":
            raise EngineLostError("the tick's script says so")
        if ending == "failed":
            return SlotNotMade(MissReason.FAILED, Stage.VIDEO, "the tick's script says so", {})
        made = slot_made(request)
        listener.step_began("store")
        stored = await asyncio.to_thread(self._put, request)
        return replace(made, artifact=made.artifact.model_copy(update=stored))

    async def speak_ahead(self, request: SlotRequest, listener: SlotListener) -> None:
        """Do nothing; as no stage is ever measured, nobody asks for it."""

    def _put(self, request: SlotRequest) -> dict[str, Any]:
        random = Random(f"{request.channel}/{request.slot_id}/{request.seed}")
        content = random.randbytes(random.randint(1, MAX_ARTIFACT_BYTES))
        path = self._store.scratch_path(request.channel, request.slot_id)
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        media = EncodedMedia(path, len(content), sha256, duration_s=1, width=64, height=64, fps=4)
        stored = self._store.put(media, request.channel, request.slot_id)
        return {"uri": stored.uri, "bytes": stored.bytes, "sha256": stored.sha256}


async def load(
    config: WorkerConfig, estimates: StageEstimates, report: Callable[[str], None]
) -> Maker:
    """Prove that the store can be written."""
    store = ArtifactStore(config.artifacts.url)
    await asyncio.to_thread(store.check)
    return StoringMaker(store)


if __name__ == "__main__":
    main(load)
