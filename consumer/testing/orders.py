"""What a test wants to become of its ticks."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from consumer.engine.base import SlotRequest
from schemas import MissReason, Stage

T = TypeVar("T", bound=StrEnum)

_STAGES = {
    MissReason.TIMEOUT: Stage.VIDEO,
    MissReason.FAILED: Stage.VIDEO,
    MissReason.REJECTED: Stage.CLIP,
}
_DETAILS = {
    MissReason.PREDICTED: "the slot could not have been finished in time",
    MissReason.TIMEOUT: "stage video went over its time limit",
    MissReason.FAILED: "stage video failed",
    MissReason.REJECTED: "the self-check failed with 4 of at most 4 seeds",
    MissReason.ENGINE_LOST: "the engine process ended unexpectedly",
}
"""What real workers say of such a miss."""


@dataclass(frozen=True)
class Miss:
    """The slot is missed, for this reason."""

    reason: MissReason
    stage: Stage | None
    detail: str

    @classmethod
    def of(cls, reason: MissReason | str, stage: Stage | str | None, detail: str | None) -> Miss:
        """Fill in what a real worker says for the reason.

        Raises:
            ValueError: there is no such reason or stage, or the tick alone decides about it.
        """
        if reason == MissReason.EXPIRED:
            raise ValueError(
                "expired: send a tick whose deadline has passed; a worker decides this by itself"
            )
        reason = _one_of(MissReason, reason)
        usual = _STAGES.get(reason) if stage is None else _one_of(Stage, stage)
        return cls(reason, usual, _DETAILS.get(reason, "") if detail is None else detail)


def _one_of(kind: type[T], name: str) -> T:
    try:
        return kind(name)
    except ValueError:
        raise ValueError(f"{name!r} must be one of {', '.join(kind)}") from None


@dataclass
class _Order:
    """What holds for some slots."""

    slot_id: int | None
    channel: str | None
    times: int | None
    miss: Miss | None = None
    delay_s: float = 0.0

    @property
    def general(self) -> bool:
        """Whether it holds for all slots, for good."""
        return self.slot_id is None and self.channel is None and self.times is None

    def holds_for(self, request: SlotRequest) -> bool:
        """Return whether it decides about a slot."""
        return (
            self.times != 0
            and self.slot_id in (None, request.slot_id)
            and self.channel in (None, request.channel)
        )


class Orders:
    """What a test has ordered; the latest order that holds for a slot counts.

    Tests write, and the worker's thread reads.
    """

    def __init__(self) -> None:
        """Have every slot completed at once."""
        self._lock = threading.Lock()
        self._outcomes: list[_Order] = []
        self._delays: list[_Order] = []

    def reset(self) -> None:
        """Forget all orders."""
        with self._lock:
            self._outcomes.clear()
            self._delays.clear()

    def order(
        self, miss: Miss | None, slot_id: int | None, channel: str | None, times: int | None
    ) -> None:
        """Have slots missed, or completed (None).

        Raises:
            ValueError: `times` is less than 1.
        """
        with self._lock:
            self._outcomes.append(_Order(slot_id, channel, _positive(times), miss=miss))

    def delay(
        self, seconds: float, slot_id: int | None, channel: str | None, times: int | None
    ) -> None:
        """Have slots take so long.

        Raises:
            ValueError: `seconds` is negative, or `times` is less than 1.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds must be 0 or more, not {seconds}")
        with self._lock:
            self._delays.append(_Order(slot_id, channel, _positive(times), delay_s=seconds))

    def take(self, request: SlotRequest) -> tuple[Miss | None, float]:
        """Return what is to become of a slot, and after how many seconds; counts as one time."""
        with self._lock:
            outcome, delay = _take(self._outcomes, request), _take(self._delays, request)
        return None if outcome is None else outcome.miss, 0.0 if delay is None else delay.delay_s

    @property
    def usual_s(self) -> float:
        """Seconds that a slot takes of which no order speaks."""
        with self._lock:
            return next((each.delay_s for each in reversed(self._delays) if each.general), 0.0)


def _take(orders: list[_Order], request: SlotRequest) -> _Order | None:
    for order in reversed(orders):
        if order.holds_for(request):
            if order.times is not None:
                order.times -= 1
            return order
    return None


def _positive(times: int | None) -> int | None:
    if times is not None and times < 1:
        raise ValueError(f"times must be 1 or more, or None for always, not {times}")
    return times
