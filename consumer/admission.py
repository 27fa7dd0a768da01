"""Whether a slot can still be finished."""

from __future__ import annotations

from consumer.engine.base import Engine, SlotNotMade
from consumer.job import Job
from schemas import MissReason


class Admission:
    """Tells slots that can be made from those that are hopeless, before any work is done."""

    def __init__(self, engine: Engine) -> None:
        """Judge by what the engine knows of how long slots take."""
        self._engine = engine

    def on_arrival(self, job: Job) -> SlotNotMade | None:
        """Return why a tick that just arrived is answered at once, or None."""
        late_s = job.arrival.monotonic_s - job.deadline_s
        if late_s >= 0:
            detail = f"the deadline had passed {late_s:.3f} s before the tick arrived"
            return SlotNotMade(MissReason.EXPIRED, None, detail, {})
        return self.before_start(job, job.arrival.monotonic_s)

    def before_start(self, job: Job, now_s: float) -> SlotNotMade | None:
        """Return why the slot cannot be finished, or None; a slot with a reason is refused."""
        left_s = job.deadline_s - now_s
        if left_s <= 0:
            return _predicted("the deadline passed while the slot waited")
        ruled_out = self._engine.rule_out(job.recipe)
        if ruled_out is not None:
            return _predicted(ruled_out)
        needed_s = self._needed_s(job)
        if left_s <= needed_s:
            return _predicted(f"{left_s:.3f} s are left, and the slot needs {needed_s:.3f} s")
        return None

    def latest_start_s(self, job: Job) -> float:
        """Return the monotonic second from which on the slot is hopeless."""
        return job.deadline_s - self._needed_s(job)

    def _needed_s(self, job: Job) -> float:
        return self._engine.predict_s(job.recipe) or 0.0


def _predicted(detail: str) -> SlotNotMade:
    return SlotNotMade(MissReason.PREDICTED, None, detail, {})
