"""Two minutes of chaos. `make chaos` goes on for longer, with other seeds."""

from __future__ import annotations

import pytest

from tests.chaos.run import run_chaos

pytestmark = pytest.mark.kafka

SEED = 1
MINUTES = 2.0


@pytest.mark.timeout(600)
async def test_every_tick_has_exactly_one_outcome_while_things_die() -> None:
    report = await run_chaos(SEED, MINUTES)
    assert report.passed, report.story()
    assert len(report.seen.ticks) > 300
    assert len(report.seen.hops) >= 5, "too few ticks were handed over to say anything of it"
    assert len(report.faults) >= 10, f"too few kinds of faults: {dict(report.faults)}"
