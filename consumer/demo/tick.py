"""One tick of the demo: what it asks for, what should become of it, and what has."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from consumer.results import DeadLetter, Result
from schemas import Recipe, SlotComplete, SlotTick

MADE = "slot-complete"
EXPIRED = "deadline-missed: expired"
UNREADABLE = "dead letter"

_UNREADABLE_VALUE = b'{"schema_version": 1, "slot_id": -6, "deadline": "tomorrow"}'


@dataclass
class DemoTick:
    """A tick with a recipe, or without one a value that no worker can read as a tick."""

    slot_id: int | None
    """None is the unreadable one's: a worker cannot know its slot either."""
    expected: str
    """The outcome that it should have, as `outcome_name` tells it."""
    recipe: Recipe | None = None
    due_in_s: float = 0.0
    """Seconds from its emission to its deadline; negative is already past."""
    state: str = "emitted"
    """What a person reads while there is no result."""
    results: list[Result] = field(default_factory=list)
    """What was published for it: one result if all is well."""

    @property
    def name(self) -> str:
        """What a person calls it."""
        return "unreadable" if self.slot_id is None else f"slot {self.slot_id}"

    @property
    def as_it_should_be(self) -> bool:
        """Whether it has one result, and that is the expected one."""
        return [outcome_name(result) for result in self.results] == [self.expected]

    def value(self, now: datetime) -> SlotTick | bytes:
        """Return what to emit at a moment."""
        if self.slot_id is None or self.recipe is None:
            return _UNREADABLE_VALUE
        deadline = now + timedelta(seconds=self.due_in_s)
        return SlotTick(slot_id=self.slot_id, deadline=deadline, emitted_at=now, recipe=self.recipe)


def outcome_name(result: Result) -> str:
    """Return the outcome's type, and for a miss its reason."""
    if isinstance(result, DeadLetter):
        return UNREADABLE
    return MADE if isinstance(result, SlotComplete) else f"{result.type}: {result.reason}"
