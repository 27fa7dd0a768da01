"""What the control room knows of every slot, put together from four topics in any order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from consumer.results import DeadLetter
from schemas import (
    DeadlineMissed,
    ProgressStep,
    SlotComplete,
    SlotProgress,
    SlotTick,
    TickSource,
)

State = Literal["waiting", "making", "complete", "missed", "dead-letter"]

MAX_DECIDED = 2_000
"""Slots with an outcome that are kept; the oldest go first."""
MAX_UNDECIDED = 20_000
"""Ticks without one; beyond it, those that were read first are forgotten."""
MAX_TEXT = 2_000
MAX_AHEAD = 100
"""Slots that are listed of a plan."""


@dataclass
class Slot:
    """One tick, as the page shows it. Times are milliseconds since 1970."""

    id: str
    """Topic, partition and offset, as `topic/3/1842`."""
    state: State = "waiting"
    channel: str = ""
    slot_id: str = ""
    """In decimal: JavaScript's numbers end at 2^53."""
    deadline: float | None = None
    emitted: float | None = None
    accepted: float | None = None
    predicted_s: float | None = None
    planned_s: float | None = None
    planned_start: float | None = None
    predicted_finish: float | None = None
    stages: dict[str, float] = field(default_factory=dict)
    """When each stage last began."""
    ended: dict[str, float] = field(default_factory=dict)
    """When each stage that is over ended."""
    forecasts: dict[str, float] = field(default_factory=dict)
    """When the slot was to be stored, as predicted at the beginning of each stage."""
    rung: str = ""
    rung_reason: str = ""
    worker: str = ""
    handed_over_by: str = ""
    """The worker that read the tick, if it left the slot to another one."""
    prompt: str = ""
    script: str = ""
    trace_id: str = ""
    decided: float | None = None
    slack_ms: float | None = None
    reason: str = ""
    detail: str = ""
    breakdown: dict[str, float] = field(default_factory=dict)
    verification: dict[str, Any] | None = None
    artifact: dict[str, Any] | None = None
    quality: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None
    models: dict[str, str] = field(default_factory=dict)
    seed: str = ""
    cancelled: bool = False
    slate_uri: str = ""

    @property
    def has_outcome(self) -> bool:
        """Whether it is decided what became of it."""
        return self.state in ("complete", "missed", "dead-letter")

    def as_json(self) -> dict[str, Any]:
        """Return what differs from an unknown slot, ready for JSON."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value not in ("", None, {}) and value is not False
        }


class Board:
    """All slots by id; every change is noted for those who watch."""

    def __init__(self) -> None:
        self._undecided: dict[str, Slot] = {}
        self._decided: dict[str, Slot] = {}

    def get(self, slot: str) -> Slot | None:
        """Return the slot of this id, None if it is not known (any more)."""
        return self._undecided.get(slot) or self._decided.get(slot)

    def slots(self) -> Iterable[Slot]:
        """Return all of them: those that were decided first, then those without an outcome."""
        return [*self._decided.values(), *self._undecided.values()]

    def tick(self, source: TickSource, tick: SlotTick, emitted_ms: float, trace_id: str) -> Slot:
        """Note a tick that was read."""
        slot = self._slot(source)
        slot.channel, slot.slot_id = tick.channel, str(tick.slot_id)
        slot.deadline, slot.emitted = _ms(tick.deadline), emitted_ms
        slot.prompt = tick.recipe.visual_track.prompt[:MAX_TEXT]
        slot.script = tick.recipe.audio_track.script[:MAX_TEXT]
        slot.trace_id = trace_id
        return slot

    def progress(self, event: SlotProgress) -> Slot:
        """Note how a slot comes along."""
        slot = self._slot(event.source)
        slot.channel, slot.slot_id = event.channel, str(event.slot_id)
        slot.deadline, slot.worker = _ms(event.deadline), event.worker.id
        slot.predicted_s = event.predicted_s
        if event.step is ProgressStep.ACCEPTED:
            slot.accepted, slot.planned_s = _ms(event.at), event.planned_s
            slot.planned_start = None if event.planned_start is None else _ms(event.planned_start)
        elif event.stage is not None:
            _note_stage(slot, event)
        if not slot.has_outcome:  # progress may come after the outcome
            slot.state = "making" if slot.stages else "waiting"
        return slot

    def outcome(self, event: SlotComplete | DeadlineMissed) -> Slot:
        """Note what became of a slot."""
        slot = self._decide(event.source)
        slot.channel, slot.slot_id = event.channel, str(event.slot_id)
        slot.deadline, slot.decided = _ms(event.deadline), _ms(event.decided_at)
        slot.slack_ms, slot.worker = event.slack_ms, event.worker.id
        slot.handed_over_by = "" if event.handed_over is None else event.handed_over.worker
        slot.breakdown = event.breakdown.model_dump(exclude_none=True)
        if isinstance(event, SlotComplete):
            slot.state = "complete"
            slot.verification = event.verification.model_dump(exclude={"embedding"})
            slot.artifact = event.artifact.model_dump()
            slot.quality = event.quality.model_dump()
            made_from = event.provenance
            slot.provenance = None if made_from is None else made_from.model_dump()
            slot.models = event.models
            slot.seed = str(event.seed)
        else:
            slot.state = "missed"
            slot.reason, slot.detail = event.reason.value, event.detail
            slot.cancelled, slot.slate_uri = event.cancelled, event.slate_uri or ""
        return slot

    def plan_at_the_end_of(self, slot: Slot) -> Mapping[str, Any]:
        """Return what its worker had to do before a slot, at the moment when that was decided.

        From what workers tell on the topic of progress: what was being made, and what waited and
        was due no later. Milliseconds since 1970, and seconds.
        """
        at, due = slot.decided or 0.0, slot.deadline or 0.0
        ahead = []
        for other in self.slots():
            if other is slot or other.worker != slot.worker:
                continue
            known = [when for when in (other.accepted, *other.stages.values()) if when is not None]
            if not known or min(known) > at or (other.decided is not None and other.decided <= at):
                continue
            begun = {stage: began for stage, began in other.stages.items() if began <= at}
            if begun:
                finish = other.forecasts.get(max(begun, key=lambda stage: begun[stage]))
                needs_s = None if finish is None else max(0.0, (finish - at) / 1000)
            elif (other.deadline or 0.0) <= due:
                needs_s = other.planned_s if other.planned_s is not None else other.predicted_s
            else:
                continue
            ahead.append(
                {
                    "id": other.id,
                    "name": f"{other.channel}/{other.slot_id}",
                    "making": bool(begun),
                    "needs_s": needs_s,
                    "deadline": other.deadline,
                }
            )
        ahead.sort(key=lambda each: (not each["making"], each["deadline"]))
        return {
            "at": at,
            "left_s": (due - at) / 1000,
            "needs_s": slot.planned_s if slot.planned_s is not None else slot.predicted_s,
            "told": slot.accepted is not None,
            "ahead": ahead[:MAX_AHEAD],
            "more": max(0, len(ahead) - MAX_AHEAD),
            "ahead_s": sum(each["needs_s"] or 0.0 for each in ahead),
        }

    def dead_letter(self, letter: DeadLetter, at_ms: float) -> Slot:
        """Note a tick that could not be read."""
        slot = self._decide(letter.source)
        slot.state, slot.decided = "dead-letter", at_ms
        slot.reason, slot.detail = "dead-letter", letter.reason[:MAX_TEXT]
        return slot

    def _slot(self, source: TickSource) -> Slot:
        name = _name(source)
        known = self.get(name)
        if known is None:
            known = self._undecided[name] = Slot(name)
            _forget_first(self._undecided, MAX_UNDECIDED)
        return known

    def _decide(self, source: TickSource) -> Slot:
        name = _name(source)
        slot = self._undecided.pop(name, None) or self._decided.pop(name, None) or Slot(name)
        self._decided[name] = slot
        _forget_first(self._decided, MAX_DECIDED)
        return slot


def _note_stage(slot: Slot, event: SlotProgress) -> None:
    """Note a stage's beginning or end; a new attempt begins it again."""
    stage, at = str(event.stage), _ms(event.at)
    if at < slot.stages.get(stage, 0.0):
        return  # told late
    if event.ended_at is not None:
        slot.ended[stage] = _ms(event.ended_at)
    elif at > slot.stages.get(stage, 0.0):
        slot.ended.pop(stage, None)
    slot.stages[stage] = at
    if event.predicted_finish is not None:
        slot.predicted_finish = slot.forecasts[stage] = _ms(event.predicted_finish)
    slot.rung, slot.rung_reason = event.rung or "", event.rung_reason or ""


def _name(source: TickSource) -> str:
    return f"{source.topic}/{source.partition}/{source.offset}"


def _ms(moment: datetime) -> float:
    return float(round(moment.timestamp() * 1000))


def _forget_first(slots: dict[str, Slot], most: int) -> None:
    while len(slots) > most:
        del slots[next(iter(slots))]


def trace_of(slot: Slot) -> Mapping[str, Any]:
    """Return a decided slot's steps in Chrome's trace event format, as Perfetto reads it.

    Source: "Trace Event Format", Google, 2016: complete events ("X"), microseconds.
    """
    title = f"{slot.channel}/{slot.slot_id}"
    begun = (slot.decided or 0.0) - slot.breakdown.get("total_ms", 0.0)
    queued_ms = slot.breakdown.get("queue_ms", 0.0)
    events: list[dict[str, Any]] = [_event("queue", begun, queued_ms, 1)]
    moment = begun + queued_ms
    speech_ms, image_ms = (slot.breakdown.get(f"{name}_ms", 0.0) for name in ("audio", "image"))
    events += [_event("audio", moment, speech_ms, 1), _event("image", moment, image_ms, 2)]
    moment += max(speech_ms, image_ms)
    for name in ("video", "clip", "encode", "store"):
        took_ms = slot.breakdown.get(f"{name}_ms", 0.0)
        events.append(_event(name, moment, took_ms, 1))
        moment += took_ms
    names = [{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": title}}]
    return {"traceEvents": [*names, *(each for each in events if each["dur"])]}


def _event(name: str, at_ms: float, took_ms: float, thread: int) -> dict[str, Any]:
    return {
        "name": name,
        "ph": "X",
        "ts": at_ms * 1000,
        "dur": took_ms * 1000,
        "pid": 1,
        "tid": thread,
    }
