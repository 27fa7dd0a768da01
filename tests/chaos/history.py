"""What is known of one tick: when it was sent, who saw it, what was going on, what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.checker import Lane, Observation, Outcome, Source
from tests.chaos.producer import Sent

MARGIN_S = 5.0
"""Log lines about a tick's partition are shown so long before it was sent."""


@dataclass
class Struck:
    """A fault that happened."""

    name: str
    detail: str
    workers: tuple[str, ...]
    """Whose service it interrupts."""
    began_s: float
    """Seconds since the epoch, as all times here."""
    ended_s: float | None = None


@dataclass(frozen=True)
class Recovery:
    """How long after a fault's end a worker published again; None if it has not yet."""

    fault: Struck
    worker: str
    seconds: float | None


@dataclass
class History:
    """A run, as far as it has gone."""

    directory: Path
    lane: Lane | None = None
    """Where everything is; known once the brokers run."""
    sent: list[Sent] = field(default_factory=list)
    faults: list[Struck] = field(default_factory=list)

    def recoveries(self, outcomes: Sequence[Outcome]) -> Iterator[Recovery]:
        """Yield, for every ended fault and worker of it, when that worker published again.

        Whatever else was struck meanwhile counts in.
        """
        written: dict[str, list[float]] = {}
        for outcome in outcomes:
            if outcome.worker is not None:
                written.setdefault(outcome.worker, []).append(outcome.written_s)
        for fault in self.faults:
            for worker in fault.workers:
                if fault.ended_s is not None:
                    after_s = [each - fault.ended_s for each in written.get(worker, ())]
                    served_s = min((each for each in after_s if each > 0), default=None)
                    yield Recovery(fault, worker, served_s)

    def of(self, source: Source, seen: Observation) -> str:
        """Return everything about a tick, in words, in order of time."""
        sent_s = seen.ticks.get(source)
        events = [
            *self._sending(source, sent_s),
            *(
                (each.written_s, f"{each.kind} by {each.worker}, at {each.at}")
                for each in seen.outcomes
                if each.source == source
            ),
        ]
        if self.lane is not None:
            events += self._logged(self.lane.ticks, source, sent_s)
        for hop in seen.hops:
            if hop.source == source:
                events.append((hop.written_s, f"handed over by {hop.worker}, at {hop.at}"))
                if self.lane is not None and self.lane.handover is not None:
                    events += self._logged(self.lane.handover, hop.place, hop.written_s)
        last_s = max((at_s for at_s, _ in events), default=0.0)
        for fault in self.faults:
            ended_s = fault.ended_s or float("inf")
            if sent_s is not None and ended_s > sent_s - MARGIN_S and fault.began_s < last_s:
                events.append((fault.began_s, f"FAULT {fault.name}: {fault.detail}"))
                if fault.ended_s is not None:
                    events.append((fault.ended_s, f"  end of {fault.name}: {fault.detail}"))
        lines = (f"    {clock(at_s)}  {what}" for at_s, what in sorted(events))
        return "\n".join([f"  tick {source}", *lines])

    def _sending(self, source: Source, sent_s: float | None) -> Iterator[tuple[float, str]]:
        if sent_s is None:
            return
        for sent in self.sent:
            if Source(sent.partition, -1 if sent.offset is None else sent.offset) == source:
                yield sent.at_s, f"sent: {sent.kind}, slot {sent.slot_id}"
                return
        yield sent_s, "sent, without an answer to the producer or in a batch of several"

    def _logged(
        self, topic: str, source: Source, sent_s: float | None
    ) -> Iterator[tuple[float, str]]:
        """Yield what workers logged of a record, and of its partition from about then on."""
        for path in sorted(self.directory.glob("*.log")):
            for line in path.read_text(errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    at_s = datetime.fromisoformat(entry["timestamp"]).timestamp()
                except (ValueError, KeyError, TypeError):
                    continue  # not a line of the log: an interpreter's last words
                if (entry.get("topic"), entry.get("partition")) != (topic, source.partition):
                    continue
                of_the_tick = entry.get("offset") == source.offset
                of_the_partition = "offset" not in entry and at_s >= (sent_s or 0.0) - MARGIN_S
                if of_the_tick or of_the_partition:
                    known = {"timestamp", "level", "logger", "event"}
                    rest = {key: value for key, value in entry.items() if key not in known}
                    yield at_s, f"{path.stem}: {entry['event']} {rest}"


def clock(at_s: float) -> str:
    """Return the time of day, UTC, with milliseconds."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%S.%f")[:-3]
