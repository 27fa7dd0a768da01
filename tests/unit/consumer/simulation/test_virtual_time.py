from __future__ import annotations

import asyncio
import math
import time

import pytest

from consumer.simulation.virtual_time import NothingLeftToHappenError, run_in_virtual_time
from tests.support.pipelines import CONFIG, RECIPE, PlainPipeline, PlainStage
from vortex.errors import DeadlineMissError
from vortex.orchestration import SlotScheduler
from vortex.utils.clock import now_s


def test_waiting_advances_the_clock_and_takes_no_time() -> None:
    async def main() -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def wake(name: str, after_s: float) -> None:
            await asyncio.sleep(after_s)
            seen.append((name, now_s()))

        await asyncio.gather(wake("late", 7200.0), wake("early", 1.5), wake("at once", 0.0))
        return seen

    began_s = time.monotonic()
    assert run_in_virtual_time(main()) == [("at once", 0.0), ("early", 1.5), ("late", 7200.0)]
    assert time.monotonic() - began_s < 5.0


def test_timeouts_fire_in_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30.0):
                await asyncio.Event().wait()
        return now_s()

    assert run_in_virtual_time(main()) == 30.0


def test_waiting_for_what_never_comes_is_an_error_and_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingLeftToHappenError, match="no timer is set"):
        run_in_virtual_time(main())


def test_clock_outside_a_loop_is_the_monotonic_one() -> None:
    assert abs(now_s() - time.monotonic()) < 1.0

    async def main() -> float:
        return now_s() - time.monotonic()

    assert abs(asyncio.run(main())) < 1.0


def slow_pipeline() -> PlainPipeline:
    return PlainPipeline(
        audio=PlainStage(delay_s=3.0),
        image=PlainStage(delay_s=2.0),
        video=PlainStage(delay_s=8.0),
        clip=PlainStage(delay_s=1.0),
    )


def test_production_scheduler_makes_a_slot_in_virtual_time() -> None:
    async def main() -> tuple[float, float]:
        scheduler = SlotScheduler(slow_pipeline(), CONFIG, clock=now_s)
        result = await scheduler.execute(RECIPE, slot_id=1)
        return result.breakdown.total_ms, now_s()

    assert run_in_virtual_time(main()) == (12_000.0, 12.0)


def test_production_scheduler_stops_a_hopeless_slot_in_virtual_time() -> None:
    async def main() -> float:
        scheduler = SlotScheduler(slow_pipeline(), CONFIG, clock=now_s)
        await scheduler.execute(RECIPE, slot_id=1, deadline=math.inf)
        began_s = now_s()
        with pytest.raises(DeadlineMissError):
            await scheduler.execute(RECIPE, slot_id=2, deadline=began_s + 12.5)
        return now_s() - began_s

    assert run_in_virtual_time(main()) < 12.0
