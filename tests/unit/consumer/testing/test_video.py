"""The file that the fake worker stores."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import av
import fsspec
import pytest

from consumer.engine.base import SlotMade, SlotRequest
from consumer.job import TickKey
from consumer.testing.engine import FakeEngine
from consumer.testing.orders import Orders
from tests.support.results import recipe
from vortex.utils.clock import now_s


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    return FakeEngine(Orders(), str(tmp_path))


async def stored(engine: FakeEngine, slot_id: int) -> bytes:
    key = TickKey("t", 0, slot_id)
    deadline_s = now_s() + 60
    request = SlotRequest(key, slot_id, "main", recipe(), seed=1, deadline_s=deadline_s)
    result = await engine.run(request)
    assert isinstance(result, SlotMade)
    with fsspec.open(result.artifact.uri) as file:
        content: bytes = file.read()
    return content


async def test_stored_file_plays_to_its_end(engine: FakeEngine) -> None:
    with av.open(BytesIO(await stored(engine, 1))) as film:
        kinds = {packet.stream.type for packet in film.demux() if packet.size}
        assert kinds == {"audio", "video"}
        assert film.duration == pytest.approx(1_000_000, rel=0.1)


async def test_each_slot_has_a_file_of_its_own(engine: FakeEngine) -> None:
    assert await stored(engine, 1) != await stored(engine, 2)
