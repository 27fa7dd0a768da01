"""`kafka.group_instance_id`: a worker that is restarted within its session disturbs nobody."""

from __future__ import annotations

import pytest

from tests.integration.conftest import MakeLane
from tests.support.engines import ScriptedEngine
from tests.support.lane import assert_one_outcome_each, tick
from tests.support.waiting import until

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
async def test_restart_within_the_session_causes_a_rebalance_only_without_instance_ids(
    static: bool, make_lane: MakeLane
) -> None:
    lane = await make_lane(partitions=2)

    def changes(name: str) -> dict[str, object]:
        return {"group_instance_id": name if static else None, "session_timeout_s": 20.0}

    async with lane.worker(ScriptedEngine(), "stays", **changes("stays")) as stays:
        async with lane.worker(ScriptedEngine(), "goes", **changes("goes")) as goes:
            await until(lambda: len(stays._partitions) == len(goes._partitions) == 1)
            await until(lambda: stays.accepting and goes.accepting)
            generation = stays._consumer._coordinator.generation
            shared = set(goes._partitions)
        emitted = await lane.emit([tick(slot_id) for slot_id in range(20)])
        async with lane.worker(ScriptedEngine(), "comes back", **changes("goes")) as back:
            await until(lambda: back.accepting)
            results = await lane.outcomes(20)
            if static:
                assert set(back._partitions) == shared
            rebalanced = stays._consumer._coordinator.generation != generation
    assert rebalanced is not static
    assert_one_outcome_each(results, emitted)
