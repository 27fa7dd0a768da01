"""Results as a worker publishes them."""

from __future__ import annotations

from consumer.demo.recipes import own_recipe
from consumer.results import DeadLetter
from schemas import DeadlineMissed, Recipe, SlotComplete, TickSource
from schemas.examples import example_events


def recipe(prompt: str = "A man in a blue coat", script: str = "Good evening.") -> Recipe:
    return own_recipe(
        prompt=prompt,
        script=script,
        voice="default",
        emotion="neutral",
        expressions=(),
        duration_s=2.0,
        seed=None,
    )


def complete(slot_id: int) -> SlotComplete:
    event = example_events()["slot-complete"]
    assert isinstance(event, SlotComplete)
    return event.model_copy(update={"slot_id": slot_id})


def missed(slot_id: int, detail: str | None = None, kind: str = "timeout") -> DeadlineMissed:
    event = example_events()[f"deadline-missed.{kind}"]
    assert isinstance(event, DeadlineMissed)
    changes = {"slot_id": slot_id, **({} if detail is None else {"detail": detail})}
    return event.model_copy(update=changes)


def dead_letter(reason: str, value: bytes) -> DeadLetter:
    source = TickSource(topic="slot.ticks", partition=0, offset=7)
    return DeadLetter(source=source, reason=reason, key=None, value=value)
