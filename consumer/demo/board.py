"""All ticks of a demo, and the results that came for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from consumer.demo.tick import DemoTick
from consumer.results import DeadLetter, Result
from schemas import SlotComplete


class Board:
    """Sorts results to their ticks, and tells whether each tick has exactly the right one."""

    def __init__(self, ticks: Sequence[DemoTick]) -> None:
        """Begin without results; no two ticks may have the same slot."""
        self.ticks = tuple(ticks)
        self.strays: list[Result] = []
        """Results that no tick asked for."""
        self._by_slot = {tick.slot_id: tick for tick in ticks}

    def find(self, slot_id: int | None) -> DemoTick | None:
        """Return the slot's tick; None finds the unreadable one, if there is one."""
        return self._by_slot.get(slot_id)

    def add(self, result: Result) -> None:
        """Note a published result."""
        tick = self.find(None if isinstance(result, DeadLetter) else result.slot_id)
        if tick is None:
            self.strays.append(result)
        else:
            tick.results.append(result)

    @property
    def answered(self) -> bool:
        """Whether every tick has a result."""
        return all(tick.results for tick in self.ticks)

    @property
    def right(self) -> int:
        """How many ticks have exactly the outcome that they should have."""
        return sum(tick.as_it_should_be for tick in self.ticks)

    @property
    def as_it_should_be(self) -> bool:
        """Whether all ticks do, and nothing else was published."""
        return self.right == len(self.ticks) and not self.strays

    def verdict(self, seconds: float) -> str:
        """Say in one line how the demo came out."""
        text = (
            f"{self.right} of {len(self.ticks)} ticks have exactly the outcome that they should"
            f" have ({seconds:.0f} s in all)"
        )
        return f"{text}; {len(self.strays)} results nobody asked for" if self.strays else text

    def made(self) -> Iterator[tuple[DemoTick, SlotComplete]]:
        """Yield each finished slot."""
        for tick in self.ticks:
            for result in tick.results:
                if isinstance(result, SlotComplete):
                    yield tick, result
