"""What the planner is given and what it answers."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vortex.rung import Rung

K = TypeVar("K", bound=Hashable)
W = TypeVar("W")


@dataclass(frozen=True)
class Waiting(Generic[K, W]):
    """A slot that waits."""

    key: K
    work: W
    """What the estimates need to predict it; not interpreted here."""
    arrived_s: float
    """Monotonic seconds; for a tick from a backlog, when it was emitted."""
    deadline_s: float
    """Monotonic seconds."""


@dataclass(frozen=True)
class Start(Generic[K]):
    """The slot to start now."""

    key: K
    seconds: float
    """Predicted, at its rung."""
    rung: Rung
    why: str
    held_back: str = ""
    """Why it is not on the highest rung; empty if it is."""


@dataclass(frozen=True)
class GivenUp(Generic[K]):
    """A slot that will not be made."""

    key: K
    why: str
    lead_s: float
    """Seconds between now and its deadline."""


@dataclass(frozen=True)
class Plan(Generic[K]):
    """What to do now."""

    start: Start[K] | None = None
    give_up: tuple[GivenUp[K], ...] = field(default=())
    look_again_s: float = math.inf
    """Monotonic second at which to plan again even if nothing happens before."""
