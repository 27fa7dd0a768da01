"""What watchers are told of a slot."""

from __future__ import annotations

import math

import pytest

from consumer.progress import ProgressTeller
from schemas import Stage, WorkerInfo
from tests.support.jobs import job

WORKER = WorkerInfo(id="worker", version="0.1.0")


@pytest.mark.parametrize("predicted_s", [math.inf, None])
@pytest.mark.parametrize("stage", [None, Stage.AUDIO])
async def test_slot_whose_time_is_not_known_is_told_without_it(
    stage: Stage | None, predicted_s: float | None
) -> None:
    teller = ProgressTeller(WORKER, lambda _: predicted_s)
    teller.note(job(1), stage)
    [(_, event)] = teller._waiting
    assert (event.predicted_s, event.predicted_finish) == (None, None)
